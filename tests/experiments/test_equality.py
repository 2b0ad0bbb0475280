"""The comparison of records can fail: each difference is found, and only what is listed passes."""

import copy
from typing import Any

import pytest

from tests.experiments.equality import compare
from tests.experiments.equality.words import BadTable, Words

TRACE: dict[str, Any] = {
    "seed": 1,
    "outcomes": {"complete": 1},
    "violations": [],
    "lines": [
        "0.100000000 #0 -> one/m",
        "0.200000000 #0 <- one/m first outrun",
        "0.300000000 #0 ended complete",
    ],
}
BODY = '{"error":{"code":"down","message":"Nobody is there"}}'
HEADERS = {"content-length": str(len(BODY)), "x-dub5-trail": "one/m=outrun;5ms"}
REQUEST: dict[str, Any] = {
    "name": "cache 1",
    "request": "POST /v1/chat/completions",
    "status": 503,
    "headers": HEADERS,
    "body": BODY,
}
EVENTS = 'data: {"id":"a","choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'


def of_worlds(new: dict[str, Any], **table: dict[str, str]) -> compare.Report:
    return compare.worlds([TRACE], [new], Words(table, "worlds"))


def of_requests(new: dict[str, Any], **table: dict[str, str]) -> compare.Report:
    return compare.requests([REQUEST], [new], Words(table, "requests"))


def test_equal_records_are_equal() -> None:
    """A record is equal to itself."""
    assert (of_worlds(copy.deepcopy(TRACE)).differ, of_requests(copy.deepcopy(REQUEST)).differ) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"lines": TRACE["lines"][:2]},
        {"lines": [*TRACE["lines"], "0.4 #0 leaves"]},
        {"lines": [TRACE["lines"][1], TRACE["lines"][0], TRACE["lines"][2]]},
        {"lines": [line.replace("0.2", "0.3") for line in TRACE["lines"]]},
        {"outcomes": {"failed": 1}},
        {"violations": ["S1"]},
        {"seed": 2},
    ],
)
def test_a_world_that_differs_is_found(change: dict[str, Any]) -> None:
    """A line that is missing, added, moved or changed is a difference, and so are other ends."""
    assert of_worlds({**TRACE, **change}).differ == 1


@pytest.mark.parametrize(
    "change",
    [
        {"status": 500},
        {"headers": {"x-dub5-trail": HEADERS["x-dub5-trail"]}},
        {"headers": {**HEADERS, "content-length": "1"}},
        {"headers": {**HEADERS, "x-more": ""}},
        {"body": '{"error":{"message":"Nobody is there","code":"down"}}'},
        {"body": '{"error":{"code":"down","message":"Somebody is there"}}'},
        {"body": EVENTS},
    ],
)
def test_a_request_that_differs_is_found(change: dict[str, Any]) -> None:
    """Another status, header, value or order is a difference."""
    assert of_requests({**REQUEST, **change}).differ == 1


def test_a_record_that_is_missing_is_found() -> None:
    """A world or a request that only one side has is a difference."""
    words = Words({}, "worlds")
    assert compare.worlds([TRACE], [], words).differ == compare.worlds([], [TRACE], words).differ == 1
    assert compare.requests([REQUEST, REQUEST], [REQUEST], words).differ == 1


def test_a_listed_word_may_change_and_no_other() -> None:
    """The table holds in both directions: an old word that stays is a difference once it is listed."""
    new = {**TRACE, "lines": [line.replace("outrun", "hedge_lost") for line in TRACE["lines"]]}
    assert of_worlds(new).differ == 1
    assert of_worlds(new, reasons={"outrun": "hedge_lost"}).differ == 0
    assert of_worlds(new, reasons={"run": "hedge_lost"}).differ == 1
    assert of_worlds(new, requests={"outrun": "hedge_lost"}).differ == 1
    assert of_worlds(TRACE, reasons={"outrun": "hedge_lost"}).differ == 1


def test_a_new_sentence_may_have_another_length() -> None:
    """A content-length that is the body's own follows the body; any other is compared."""
    words = {"Nobody is there": "No target is healthy"}
    longer = {**REQUEST, "body": REQUEST["body"].replace("Nobody is there", "No target is healthy")}
    told = {**longer, "headers": {**HEADERS, "content-length": str(len(longer["body"]))}}
    assert of_requests(told, a=words).differ == 0
    assert of_requests(longer, a=words).differ == 1


def test_only_the_allowed_value_may_differ() -> None:
    """A value is let pass by its path, everywhere or in one scenario; all others are compared."""
    new = {**REQUEST, "body": BODY.replace("there", "where")}
    assert of_requests(new, allowed={"body.error.message": "why"}).differ == 0
    assert of_requests(new, allowed={"cache*: body.error.message": "why"}).differ == 0
    assert of_requests(new, allowed={"queue*: body.error.message": "why"}).differ == 1
    assert of_requests(new, allowed={"body.error.code": "why"}).differ == 1
    assert of_worlds({**TRACE, "lines": TRACE["lines"][1:]}, allowed={"worlds: ->": "why"}).differ == 0
    assert of_worlds({**TRACE, "lines": TRACE["lines"][:2]}, allowed={"worlds: ->": "why"}).differ == 1


def test_words_are_whole_and_the_longest_goes_first() -> None:
    """A part of a word stays, a sentence goes before its words, and nothing is replaced twice."""
    words = Words(
        {"a": {"line": "queue", "the line stands": "the queue is standing", "queue": "line"}}, "worlds"
    )
    assert words.translated("line, in-line, lines, _line: the line stands; queue") == (
        "queue, in-line, lines, _line: the queue is standing; line"
    )


def test_one_old_word_has_one_new_one() -> None:
    """A table that contradicts itself is refused."""
    with pytest.raises(BadTable):
        Words({"a": {"turn": "acquire"}, "b": {"turn": "wait"}}, "worlds")


def test_a_stream_is_compared_event_by_event() -> None:
    """Events are read, so that the value that differs has a name."""
    assert [path for path, _ in compare.flat({"body": EVENTS})] == [
        "body.id",
        "body.choices.delta.content",
        "body",
    ]
