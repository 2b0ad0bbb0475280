"""What shares a place in the cache, and what never does."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.cache.key import NEVER_WITH, NOT_IN_KEY, QUESTION_BYTES_MAX, key_of
from dub5.service.config.options import CacheOptions
from dub5.service.model import ChatBody
from tests.support.questions import MARK, ON, request

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
KNOWN = ("max_tokens_x", "seed", "top_k", "presence_penalty", "stop_x", "unheard_of")
TYPED = {*ChatBody.__struct_fields__, *NOT_IN_KEY, *NEVER_WITH}
NAMES = st.sampled_from(KNOWN) | st.text(min_size=1, max_size=8).filter(lambda name: name not in TYPED)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=3)
TALK = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("system", "user", "assistant")), "content": st.text(max_size=5)},
        optional={"name": st.text(min_size=1, max_size=3)},
    ),
    min_size=1,
    max_size=3,
)


def digest(caller: str = "a", mark: str = MARK, options: CacheOptions = ON, **asked: Any) -> str | None:
    key = key_of(request(caller, **asked), options, mark, 1.0)
    return key and key.digest


def written(fields: dict[str, object], **how: Any) -> str:
    """The same request as another JSON writer would put it."""
    asked = {"temperature": 0, "messages": [{"content": "Hi", "role": "user"}], "model": "chat", **fields}
    return json.dumps(asked, **how)


def exact(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@given(FIELDS, FIELDS)
def test_bodies_that_differ_share_no_key(one: dict[str, object], other: dict[str, object]) -> None:
    """Any field may change the answer, known here or not, however deep the difference lies."""
    digests = digest(text=written(one)), digest(text=written(other))
    assert None not in digests
    assert (digests[0] == digests[1]) == (exact(one) == exact(other))


@given(TALK, TALK, st.sampled_from((None, "swapped", "longer")))
def test_talks_that_differ_share_no_key(one: list[Any], other: list[Any], how: str | None) -> None:
    """Every message, its role, its name and its place in the talk."""
    if how is not None:
        other = one[::-1] if how == "swapped" else [*one, one[0]]
    assert (digest(messages=one) == digest(messages=other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_tokens", n) for n in (1, 2)),
        ("max_completion_tokens", 1),
        ("top_p", 0.5),
        ("seed", 1),
        ("stop", "x"),
        ("stop", ["x"]),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"1": 1}),
        ("reasoning_effort", "low"),
        ("service_tier", "flex"),
        ("extra_body", {"a": 1}),
    ],
)
def test_fields_that_matter(name: str, value: object) -> None:
    """Fields that may change the answer change the key."""
    assert digest() != digest(**{name: value}) is not None


@given(FIELDS, NAMES, VALUES)
def test_one_field_more_or_other_is_another_key(fields: dict[str, object], name: str, value: object) -> None:
    """The least difference of fields gives another key."""
    changed = {**fields, name: value}
    same = name in fields and exact(fields[name]) == exact(value)
    assert (digest(text=written(fields)) == digest(text=written(changed))) == same


@given(FIELDS)
def test_how_it_is_written_is_no_difference(fields: dict[str, object]) -> None:
    """Blanks, escapes and the order of names do not change the key."""
    spaced = written(dict(reversed(fields.items())), indent=2, ensure_ascii=False)
    assert digest(text=spaced) == digest(text=written(fields, separators=(",", ":"))) is not None


def test_how_it_travels_is_no_difference() -> None:
    """A stream and a JSON answer to one question are one answer."""
    assert digest() == digest(stream=True, stream_options={"include_usage": True}, user="u")
    assert {"stream", "stream_options", "user"} <= NOT_IN_KEY


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_callers_and_routes_share_nothing(caller: str, other: str, mark: str, other_mark: str) -> None:
    """The same question of another caller, or on another route, has another key."""
    same = (caller, mark) == (other, other_mark)
    assert (digest(caller, mark) == digest(other, other_mark)) == same


def test_a_callers_place_is_never_everybodys() -> None:
    """A caller's key never equals the anonymous one, whatever the caller's name."""
    warmed = CacheOptions(enabled=True, warm_from="answers.jsonl")
    keys = [key_of(request(caller), warmed, MARK, 1.0) for caller in ("", "everybody", "a")]
    assert len({key.shared for key in keys if key}) == 1
    assert not {key.digest for key in keys if key} & {key.shared for key in keys if key}


AMBIGUOUS = {
    "a name twice": '{"model":"chat","messages":[{"role":"user","content":"a","content":"b"}],'
    '"temperature":0}',
    "digits without end": '{"model":"chat","messages":[{"role":"user","content":"a"}],'
    '"temperature":0,"seed":%s}' % ("9" * 5000),
}


@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_others_may_read_otherwise_has_no_key(text: str) -> None:
    """A body that providers may read differently has no key, and goes to the provider as it came."""
    assert digest(text=text) is None


def test_a_very_long_question_has_no_key() -> None:
    """A very long question has no key: computing it would block the process."""
    assert digest(messages=[{"role": "user", "content": "x" * QUESTION_BYTES_MAX}]) is None


@pytest.mark.parametrize("field", NEVER_WITH)
def test_what_is_more_than_text_has_no_key(field: str) -> None:
    """A request for more than text has no key: only text is cached."""
    value = True if field in ("logprobs", "store") else [{}]
    assert digest(text=written({field: value})) is None
    assert digest(text=written({field: None})) is not None


@pytest.mark.parametrize("fields", [{"temperature": 0.1}, {"temperature": None}, {"n": 2}])
def test_answers_that_vary_have_no_key(fields: dict[str, object]) -> None:
    """Only what is asked with temperature 0, once, is the same answer tomorrow."""
    assert digest(**fields) is None
