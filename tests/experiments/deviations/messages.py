"""Deviations of providers from Anthropic's form."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dub5.simulators.script import Action, Data, End, Head, Reset
from tests.experiments.deviations.rows import HALF, LOST, NOT_READABLE, TEXT, WORDS, Deviation, stream

NAMELESS = "The package skips events without a name, and so the whole answer."


def event(kind: str, **fields: Any) -> bytes:
    """Return one event of this type."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def word(text: object, **more: Any) -> bytes:
    """Return a piece of the text."""
    return event("content_block_delta", **{"index": 0, "delta": {"type": "text_delta", "text": text}} | more)


def stop(reason: object = "end_turn", **more: Any) -> bytes:
    """Return the event that says how the answer ends."""
    return event("message_delta", **{"delta": {"stop_reason": reason}, "usage": {"output_tokens": 4}} | more)


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
START = event("message_start", message=MESSAGE | {"usage": {"input_tokens": 3, "output_tokens": 1}})
BEGIN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
HEL, LO, YOU = map(word, WORDS)
CLOSE = event("content_block_stop", index=0)
END = event("message_stop")
PLAIN = (START, BEGIN, HEL, LO, YOU, CLOSE, stop(), END)
PING = event("ping")


def ok(what: str, *parts: bytes | Action, **more: Any) -> Deviation:
    """Describe a stream that holds its whole answer."""
    return Deviation(what=what, actions=stream(*parts), dialect="anthropic", **more)


def half(what: str, *parts: bytes | Action, text: str = "Hello", purpose: str = HALF) -> Deviation:
    """Describe a stream that does not hold a whole answer."""
    actions = stream(*parts)
    return Deviation(what=what, actions=actions, whole=False, text=text, purpose=purpose, dialect="anthropic")


def added(what: str, one: bytes) -> Deviation:
    """Describe a stream with one event more between its words."""
    return ok(what, START, BEGIN, HEL, one, LO, YOU, CLOSE, stop(), END)


def events() -> Iterator[Deviation]:
    """Describe odd events and fields of a stream."""
    yield ok("none", *PLAIN)
    yield added("`ping`", PING)
    yield ok("`ping` first", PING, *PLAIN)
    yield added("`ping` with `{}`", b"event: ping\ndata: {}\n\n")
    yield added("`ping` without data", b"event: ping\n\n")
    yield added("`ping` with words", b"event: ping\ndata: alive\n\n")
    yield added("a comment", b": alive\n\n")
    yield added("an empty `data:`", b"data:\n\n")
    yield added("`data: : keepalive`", b"data: : keepalive\n\n")
    yield added("`{}` without a name", b"data: {}\n\n")
    yield added("an unknown event", event("billing_update", index="x", delta=[1]))
    yield added(
        "an unknown delta",
        event("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}}),
    )
    yield added(
        "a signature",
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
    )
    yield added(
        "an unknown block",
        event("content_block_start", index=1, content_block={"type": "web_search_tool_result"}),
    )
    yield added("`text: null`", word(None))
    yield added("`delta: null`", word("", delta=None))
    yield added("`stop_reason: null`", stop(None))
    yield added('`stop_reason: ""`', stop(""))
    yield ok("`[DONE]` at the end", *PLAIN, b"data: [DONE]\n\n")
    yield ok("events without names", *(one.split(b"\n", 1)[1] for one in PLAIN), purpose=NAMELESS)
    yield ok("CRLF line ends", *(one.replace(b"\n", b"\r\n") for one in PLAIN))
    yield ok("all in one piece", b"".join(PLAIN))
    yield ok("no `content_block_start`", START, HEL, LO, YOU, stop(), END)
    yield ok("no `content_block_stop`", START, BEGIN, HEL, LO, YOU, stop(), END)
    yield ok(
        "no usage", event("message_start", message=MESSAGE), BEGIN, HEL, LO, YOU, CLOSE, stop(usage=None), END
    )
    odd = {"input_tokens": None, "output_tokens": 4.0}
    yield ok("usage of other types", event("message_start", message=MESSAGE | {"usage": odd}), *PLAIN[1:])
    for name, value in (
        ("usage", []),
        ("usage", "none"),
        ("id", 7),
        ("model", {}),
        ("content", 1.5),
        ("type", 3),
    ):
        first = event("message_start", message=MESSAGE | {name: value})
        yield ok(f"`message.{name}: {json.dumps(value)}`", first, *PLAIN[1:])
    yield ok("`message: []`", event("message_start", message=[]), *PLAIN[1:])
    yield ok("`index` as a text", START, BEGIN, *(word(one, index="0") for one in WORDS), CLOSE, stop(), END)
    for usage in ([], "none", {"output_tokens": "4"}):
        yield ok(f"`usage: {json.dumps(usage)}` at the end", *PLAIN[:-2], stop(usage=usage), END)
    yield half(
        "`text` as a number", START, BEGIN, HEL, word(5), stop(), END, text="Hel", purpose=NOT_READABLE
    )
    yield half(
        "`delta` as a text", START, BEGIN, HEL, word("", delta="lo"), stop(), END, purpose=NOT_READABLE
    )
    yield ok("no `index`", START, BEGIN, *(word(one, index=None) for one in WORDS), CLOSE, stop(), END)
    as_json = stream(*PLAIN, headers={"content-type": "application/json"})
    yield Deviation(what="content type `application/json`", actions=as_json, dialect="anthropic")
    use = event(
        "content_block_start",
        index=0,
        content_block={"type": "tool_use", "id": "a", "name": "f", "input": {}},
    )
    piece = event(
        "content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"n":1}'}
    )
    yield ok("a tool call", START, use, piece, CLOSE, stop("tool_use"), END, text="", calls=('{"n":1}',))
    for reason in ("max_tokens", "stop_sequence", "pause_turn", "refusal"):
        yield ok(f"stop reason `{reason}`", *PLAIN[:-2], stop(reason), END)


def ends() -> Iterator[Deviation]:
    """Describe the ends of a stream."""
    begun = (START, BEGIN, HEL, LO)
    for reason in ("abort", "error", "network_error", "unheard_of"):
        yield half(f"stop reason `{reason}`", *begun, CLOSE, stop(reason), END)
    yield half("no stop reason", *begun, CLOSE, END)
    yield half("no `message_stop`", *begun, CLOSE, stop())
    yield half("no `message_stop`, but `[DONE]`", *begun, CLOSE, stop(), b"data: [DONE]\n\n")
    yield half("no end at all", *begun)
    yield half("reset", *begun, Reset())
    yield half("a stop reason, then a word", START, BEGIN, HEL, stop(), LO, END)
    yield half("an error", *begun, event("error", error={"type": "overloaded_error", "message": "no"}))
    yield half(
        "an error without a name", *begun, b'data: {"type":"error","error":{"message":"no"}}\n\n', stop(), END
    )
    yield half(
        "broken JSON",
        START,
        BEGIN,
        HEL,
        b'event: content_block_delta\ndata: {"type":\n\n',
        stop(),
        END,
        purpose=LOST,
    )
    yield half("nothing at all", text="")
    yield half(
        "no content",
        START,
        stop(),
        END,
        text="",
        purpose="An empty answer helps nobody; another target is asked.",
    )


def whole_answers() -> Iterator[Deviation]:
    """Describe JSON answers."""

    def reply(what: str, mark: bytes = b"", more: Mapping[str, Any] | None = None, **row: Any) -> Deviation:
        body = MESSAGE | {"content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn"}
        body |= {"usage": {"input_tokens": 3, "output_tokens": 4}, **(more or {})}
        data = mark + json.dumps(body).encode()
        head = Head(200, {"content-type": "application/json", "content-length": str(len(data))})
        return Deviation(
            what=what, actions=(head, Data(data), End()), stream=False, dialect="anthropic", **row
        )

    nothing_to_read: dict[str, Any] = {"whole": False, "text": "", "purpose": NOT_READABLE}
    yield reply("none")
    yield reply("no `type`", more={"type": None})
    yield reply("no usage", more={"usage": None})
    block = {"type": "text", "text": TEXT}
    for name, value in (("usage", []), ("id", 7), ("model", None), ("role", 5), ("stop_sequence", {})):
        yield reply(f"`{name}: {json.dumps(value)}`", more={name: value})
    yield reply("a block with odd fields", more={"content": [block | {"id": 5, "citations": {}, "name": []}]})
    yield reply("`text` as a number", more={"content": [block | {"text": 5}]}, **nothing_to_read)
    yield reply(
        "an unknown block", more={"content": [{"type": "text", "text": TEXT}, {"type": "new", "x": [1]}]}
    )
    yield reply("a byte order mark", b"\xef\xbb\xbf")
    for reason in ("abort", "unheard_of", "", None):
        yield reply(
            f"stop reason `{json.dumps(reason)}`", more={"stop_reason": reason}, whole=False, purpose=HALF
        )
    empty = "An empty answer helps nobody; another target is asked."
    yield reply("no content", more={"content": []}, whole=False, text="", purpose=empty)
    yield reply("an error", more={"type": "error", "error": {"message": "no"}}, whole=False, purpose=HALF)


SECTIONS: Mapping[str, tuple[Deviation, ...]] = {
    "Anthropic's streams": tuple(events()),
    "Ends of Anthropic's streams": tuple(ends()),
    "Anthropic's JSON answers": tuple(whole_answers()),
}
