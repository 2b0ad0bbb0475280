"""The structure of a body, checked at once and in steps: the same verdict, wherever the steps are cut."""

import json
from collections.abc import Callable
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from dub5.service.api import structure
from dub5.service.api.schema import parse_chat, parse_large_chat
from dub5.service.errors import GatewayError, InvalidRequest
from dub5.service.model import Caller
from dub5.service.providers import slices
from dub5.service.providers.slices import finish
from tests.support.examples import examples

JSON = {"content-type": "application/json"}
texts = st.text('ab"\\\\[]{},é\n', max_size=8)
values = st.recursive(
    st.one_of(texts, st.integers(-9, 9), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=30,
)


@given(values, st.integers(1, 9), st.integers(1, 60), st.integers(1, 40), st.booleans())
@examples(300)
def test_the_same_verdict(value: object, cut: int, parts_max: int, depth_max: int, ascii_: bool) -> None:
    """A body is too deep, or has too many parts, in steps as at once."""
    body = json.dumps(value, ensure_ascii=ascii_).encode()

    def refuses(check: Callable[[], object]) -> bool:
        try:
            check()
        except InvalidRequest:
            return True
        return False

    asked = (body, depth_max, parts_max)
    nested = mock.patch.object(structure, "NESTED_BYTES", cut)
    with nested, mock.patch.object(structure, "COUNTED_BYTES", cut):
        in_steps = refuses(lambda: finish(structure.structure_in_steps(*asked)))
    assert in_steps == refuses(lambda: structure.check_structure(*asked))


contents = st.one_of(texts, texts.map(lambda text: [{"type": "text", "text": text}]))
messages_ = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), contents
)
BAD = (
    {"role": "user"},
    {"role": "nobody"},
    {"role": 3},
    {"content": "x"},
    [],
    {"role": "user", "content": [3]},
)
MORE: tuple[dict[str, object], ...] = (
    {},
    {"max_tokens": 5.0},
    {"max_tokens": "x"},
    {"tools": []},
    {"tools": [3]},
    {"tools": None},
    {"n": 2, "temperature": 0.5},
    {"stream": "yes"},
)


@given(
    st.lists(st.one_of(messages_, messages_, st.sampled_from(BAD)), max_size=4),
    st.sampled_from(MORE),
    st.integers(3, 200),
)
@examples(300)
def test_read_alike(messages: list[object], more: dict[str, object], size: int) -> None:
    """What is read in steps is what is read at once, and what is refused is refused in the same words."""
    body = json.dumps({"model": "m", "messages": messages, **more}).encode()

    def read(large: bool) -> object:
        try:
            if not large:
                return parse_chat("r", Caller(), JSON, body, 64)
            return finish(parse_large_chat("r", Caller(), JSON, body, 64))
        except GatewayError as error:
            return error.message, error.param

    small = read(False)
    with mock.patch.object(slices, "TEXT_BYTES", size):
        large = read(True)
    if isinstance(small, tuple):
        assert large == small
        return
    assert large.fields == small.fields and large.large and not small.large  # type: ignore[attr-defined]
    for one, other in zip(large.body.messages, small.body.messages, strict=True):  # type: ignore[attr-defined]
        assert (one.role, type(one.content)) == (other.role, type(other.content))
    assert large.body.max_tokens == small.body.max_tokens  # type: ignore[attr-defined]


pieces = st.sampled_from([r"\ud83d\ude00", r"\u00e9", r"\\", r"\n", r"\"", "ud83d", "é", "😀", " ", "x"])


@given(st.lists(pieces, max_size=60), st.integers(26, 60))
@examples(300)
def test_a_text_in_pieces(written: list[str], size: int) -> None:
    """A text that is decoded piece by piece is the one that is decoded at once."""
    raw = Raw(f'"{"".join(written)}"'.encode())
    with mock.patch.object(slices, "SLICE_BYTES", size):
        assert finish(slices.in_full(raw)) == msgspec.json.decode(raw)


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", rb"\ud83d", rb"\ud83d\ud83d", rb"\udc00", rb"\ud83d\n", rb"\q", b"\n"]
)
@pytest.mark.parametrize("place", [b"content", b"name"])
def test_no_text(place: bytes, bad: bytes) -> None:
    """What is no text is refused, also in texts that are not decoded: bytes that are no UTF-8, half of a
    character, an unknown escape, a bare end of a line."""
    said = b'{"role":"user","content":"Hi","%s":"%s"}' % (place, b"x" * 300_000 + bad)
    with pytest.raises(GatewayError, match="not valid JSON"):
        finish(parse_large_chat("r", Caller(), JSON, b'{"model":"m","messages":[%s]}' % said, 64))
