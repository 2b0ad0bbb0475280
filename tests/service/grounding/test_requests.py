"""Requests to a personality with a document: what is sent, what is told, and how it ends."""

import asyncio
import json
from typing import Any

import pytest

from dub5.service.config.options import CacheOptions, DegradedOptions
from dub5.service.config.settings import Personality
from dub5.simulators.script import Respond
from tests.support.personalities import PersonalityWorld, loaded_settings
from tests.support.resumes import LIE, RESUME, SECOND, TRUE, saying
from tests.support.world import in_turn, payloads, status, text_of

ABOUT = Personality("about", "About Jane", "Be brief.", RESUME)
ASKED = [{"role": "user", "content": "What did she do at Acme?"}]


def world(respond: Respond, **route: Any) -> PersonalityWorld:
    """Return a service with a personality that has the resume."""
    return PersonalityWorld(loaded_settings(ABOUT, listed=("about",), **route), respond)


async def both(respond: Respond, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Return the text and the report of an answer; JSON and a stream have the same."""
    one = world(respond)
    async with one.client:
        whole = (await one.ask("chat:about", **{"messages": ASKED} | fields)).json()
        stream = await one.ask("chat:about", stream=True, **{"messages": ASKED} | fields)
    text = whole["choices"][0]["message"]["content"]
    assert text_of(stream.body) == text
    assert payloads(stream.body)[-1] == "[DONE]"
    last = [each for each in payloads(stream.body) if isinstance(each, dict) and "grounding" in each]
    assert [each["grounding"] for each in last] == [whole["grounding"]]
    assert last[0]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    return text, whole["grounding"]


async def test_what_is_told() -> None:
    """A supported statement is told with its citation, and the report names its source."""
    text, report = await both(saying(TRUE))
    assert text == TRUE
    source = {"number": 4, "text": "Led a team of 5 engineers and built 12 services in Go.", "page": 1}
    assert report == {"grounded": True, "sources": [source], "withheld": 0}


async def test_what_is_withheld() -> None:
    """A statement that its passage does not support is not told, and the answer says so."""
    text, report = await both(saying(f"{TRUE} {LIE} {SECOND}"))
    left_out = "One statement was left out, because it was not found in the document."
    assert text == f"{TRUE} {SECOND}\n\n{left_out}"
    assert (report["grounded"], report["withheld"], len(report["sources"])) == (True, 1, 2)


async def test_nothing_is_left() -> None:
    """If nothing is supported, the answer says that, and what the document tells about."""
    text, report = await both(saying(LIE))
    assert text.startswith("The document does not say, as far as could be checked")
    assert text.endswith("It tells about: EXPERIENCE, EDUCATION.")
    assert report == {"grounded": False, "sources": [], "withheld": 1}


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("What is her salary?", "The document does not say."),
        ("Was verdient sie in dieser Stelle?", "Das Dokument sagt dazu nichts."),
        ("Quel est son salaire dans cette entreprise ?", "Le document ne le dit pas."),
        ("¿Cuál es su salario en la empresa?", "El documento no lo dice."),
    ],
)
async def test_not_told(question: str, told: str) -> None:
    """That the document does not tell is said in the language of the question."""
    text, report = await both(saying("NOT_TOLD"), messages=[{"role": "user", "content": question}])
    assert text.startswith(told)
    assert report == {"grounded": False, "sources": [], "withheld": 0}


async def test_what_is_sent() -> None:
    """The provider gets the rules and the numbered passages first; equal requests get equal ones."""
    one = world(saying(TRUE))
    async with one.client:
        await one.ask("chat:about", messages=ASKED)
        await one.ask("chat:about", messages=ASKED)
        await one.ask("chat:about", messages=[{"role": "user", "content": "Another question?"}])
    first, second, third = (json.loads(body)["messages"] for body in one.asked)
    assert first == second
    assert [message["role"] for message in first] == ["system", "system", "user"]
    lines = first[0]["content"].split("\n")
    assert "[4] Led a team of 5 engineers and built 12 services in Go." in lines
    mark = next(line for line in lines if line.startswith("==="))
    assert lines.count(mark) == 2
    assert mark not in third[0]["content"]
    assert mark not in RESUME


async def test_a_sentence_that_is_cut() -> None:
    """What was cut off by a limit is not told, and the answer says that it has no end."""
    text, report = await both(saying(f"{TRUE} She worked at Acme [3", finish="length"))
    assert text == f"{TRUE}\n\nThe answer was too long, and its end was left out."
    assert report["withheld"] == 0


async def test_a_stream_that_breaks() -> None:
    """A stream that the provider breaks off ends with an error; the sentence in the middle is not told."""
    one = world(saying(f"{TRUE} {SECOND} She led a te", finish=None))
    async with one.client:
        answer = await one.ask("chat:about", messages=ASKED, stream=True)
    events = payloads(answer.body)
    assert text_of(answer.body) == f"{TRUE} {SECOND}"
    assert events[-1]["error"]["code"]
    assert not any("grounding" in event for event in events)


async def test_it_is_live() -> None:
    """A sentence is told as soon as it is whole, not at the end of the answer."""
    one = world(saying(f"{TRUE} {'Wait ' * 100}.", gap_s=1.0))
    async with (
        one.client,
        one.client.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "chat:about", "messages": ASKED, "stream": True},
        ) as stream,
    ):
        said = b""
        while b"Acme [4]." not in said:
            part = await stream.read()
            assert part, said
            said += part
        assert b'finish_reason":"stop' not in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("n", 2),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
    ],
)
async def test_fields_that_cannot_be_checked(field: str, value: object) -> None:
    """What no check can read is refused by name; a value that means nothing is taken."""
    one = world(saying(TRUE))
    async with one.client:
        refused = await one.ask("chat:about", messages=ASKED, **{field: value})
        taken = await one.ask("chat:about", messages=ASKED, **{field: None})
    assert refused.status == 400
    assert refused.json()["error"]["param"] == field
    assert taken.status == 200


async def test_a_stored_answer_is_checked() -> None:
    """An answer from the cache is checked as one that has just come, in both forms."""
    one = world(saying(f"{TRUE} {LIE}"), cache=CacheOptions(enabled=True, ttl_s=60.0))
    async with one.client:
        answers = [
            await one.ask("chat:about", messages=ASKED, temperature=0, stream=stream)
            for stream in (False, False, True)
        ]
    assert len(one.asked) == 1
    assert [answer.headers["x-dub5-cache"] for answer in answers] == ["miss", "hit", "hit"]
    for answer in answers:
        assert b"50 engineers" not in answer.body
        assert b'"withheld":1' in answer.body


async def test_a_fallback_answer() -> None:
    """A fallback answer is labelled as one, and is not called grounded; a stale answer is checked."""
    one = world(status(500), degraded=DegradedOptions(enabled=True))
    stale = world(
        in_turn(saying(f"{TRUE} {LIE}"), status(500)),
        degraded=DegradedOptions(enabled=True),
        cache=CacheOptions(enabled=True, ttl_s=10.0, stale_if_error_s=600.0),
    )
    async with one.client:
        answer = (await one.ask("chat:about", messages=ASKED)).json()
    async with stale.client:
        await stale.ask("chat:about", messages=ASKED, temperature=0)
        await asyncio.sleep(20.0)
        old = await stale.ask("chat:about", messages=ASKED, temperature=0)
    assert answer["degraded"]["source"] in ("words", "template")
    assert "grounding" not in answer
    assert old.json()["degraded"]["source"] == "stale"
    assert old.json()["grounding"]["withheld"] == 1
    assert b"50 engineers" not in old.body


async def test_the_plain_route() -> None:
    """The same route without the personality answers as ever: nothing is checked."""
    one = world(saying(LIE))
    async with one.client:
        answer = (await one.ask("chat", messages=ASKED)).json()
    assert answer["choices"][0]["message"]["content"] == LIE
    assert "grounding" not in answer


async def test_the_model_is_shown() -> None:
    """GET /v1/models says which models check their answers."""
    one = world(saying(TRUE))
    async with one.client:
        listed = (await one.client.request("GET", "/v1/models")).json()["data"]
    assert {model["id"]: model.get("grounded") for model in listed} == {"chat": None, "chat:about": True}
