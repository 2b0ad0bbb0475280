"""Deviations of providers from OpenAI's form: what an odd server sends, and whether its answer is whole.

A row is a script. `whole` is the truth about it; `purpose` says why the service does other than the official
package.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dub5.simulators.script import Action, Close, Data, End, Head, Reset, Wait

SSE, JSON = {"content-type": "text/event-stream"}, {"content-type": "application/json"}
WORDS = ("Hel", "lo", " you")
TEXT = "".join(WORDS)
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"
PAUSE = Wait(0.02)  # what comes after it is read apart from what came before
HALF = "Half an answer must not look whole."
AMBIGUOUS = "Content came after a finish reason: only `[DONE]` can say then that the answer is whole."
LOST = "Nobody knows which words the broken event held."
NOT_READABLE = "No client could show it."


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One deviation. `text` is the answer's, `calls` are the arguments of its tool calls."""

    what: str
    actions: tuple[Action, ...]
    whole: bool = True
    text: str = TEXT
    calls: tuple[str, ...] = ()
    purpose: str = ""
    stream: bool = True
    dialect: str = "openai"
    fields: Mapping[str, Any] = field(default_factory=dict)


def event(**fields: Any) -> bytes:
    """Return one event with these fields."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def said(delta: object, finish: object = None, **more: Any) -> bytes:
    """Return a chunk. `more`: further fields of its choice."""
    return event(**HEAD, choices=[{"index": 0, "delta": delta, "finish_reason": finish, **more}])


HEL, LO, YOU = (said({"content": word}) for word in WORDS)
STOP = said({}, "stop")


def stream(*parts: bytes | Action, headers: Mapping[str, str] = SSE) -> tuple[Action, ...]:
    """Return a streamed answer."""
    actions = tuple(
        part for one in parts for part in ((Data(one), PAUSE) if isinstance(one, bytes) else (one,))
    )
    return (Head(200, headers), *actions, End())


def ok(what: str, *parts: bytes | Action, **more: Any) -> Deviation:
    """Describe a stream that holds its whole answer."""
    return Deviation(what=what, actions=stream(*parts), **more)


def half(what: str, *parts: bytes | Action, text: str = "Hello", purpose: str = HALF) -> Deviation:
    """Describe a stream that does not hold a whole answer."""
    return Deviation(what=what, actions=stream(*parts), whole=False, text=text, purpose=purpose)


def added(what: str, one: bytes, **more: Any) -> Deviation:
    """Describe a stream with one event more between its words."""
    return ok(what, HEL, one, LO, YOU, STOP, DONE, **more)


def instead(what: str, first: bytes, **more: Any) -> Deviation:
    """Describe a stream whose first word is said in another form."""
    return ok(what, first, LO, YOU, STOP, DONE, **more)


def odd_events() -> Iterator[Deviation]:
    """Describe events that say nothing about the answer."""
    yield ok("none", HEL, LO, YOU, STOP, DONE)
    yield added('`data: {"type": "ping"}`', b'data: {"type":"ping"}\n\n')
    yield added("`event: ping` with `data: {}`", b"event: ping\ndata: {}\n\n")
    yield added("`data: : keepalive`", b"data: : keepalive\n\n")
    yield added("an empty `data:`", b"data:\n\n")
    yield added("a comment", b": OPENROUTER PROCESSING\n\n")
    yield added("`data: PROCESSING`", b"data: PROCESSING\n\n")
    yield added("`data: [KEEPALIVE]`", b"data: [KEEPALIVE]\n\n")
    yield added("`data: null`", b"data: null\n\n")
    yield added("`data: []`", b"data: []\n\n")
    yield added("an unknown object", event(status="working", progress=0.5))
    yield added("`choices: null`", event(**HEAD, choices=None))
    yield added("`choices: {}`", event(**HEAD, choices={}))
    yield added("no choices", event(**HEAD, choices=[]))
    yield added("usage without `choices`", event(usage=COUNTS))
    yield ok("usage without `choices`, after the finish", HEL, LO, YOU, STOP, event(usage=COUNTS), DONE)
    yield ok(
        "usage in every chunk",
        *(event(**HEAD, choices=[_choice(w)], usage=COUNTS) for w in WORDS),
        STOP,
        DONE,
    )
    yield ok(
        "a filter's results before the answer",
        event(**HEAD, choices=[], prompt_filter_results=[{}]),
        HEL,
        LO,
        YOU,
        STOP,
        DONE,
    )
    yield ok("an event after `[DONE]`", HEL, LO, YOU, STOP, DONE, HEL)
    yield ok("`[DONE]` twice", HEL, LO, YOU, STOP, DONE, DONE)
    yield ok("an error after `[DONE]`", HEL, LO, YOU, STOP, DONE, event(error={"message": "no"}))


def _choice(word: str, finish: object = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": word}, "finish_reason": finish, **more}


def odd_fields() -> Iterator[Deviation]:
    """Describe fields of another type than OpenAI's."""
    for error in ({}, "", False, None, 0, []):
        yield instead(
            f"`error: {json.dumps(error)}` beside a word",
            event(**HEAD, choices=[_choice("Hel")], error=error),
        )
    odd: tuple[tuple[str, Any], ...] = (
        ("refusal", False),
        ("refusal", ""),
        ("reasoning", {"text": "hm"}),
        ("reasoning", False),
        ("tool_calls", {}),
        ("tool_calls", None),
        ("tool_calls", False),
        ("function_call", ""),
        ("reasoning_content", []),
        ("audio", None),
        ("images", False),
        ("annotations", {}),
        ("role", None),
        ("role", ""),
    )
    for name, value in odd:
        yield instead(f"`delta.{name}: {json.dumps(value)}`", said({"content": "Hel", name: value}))
    for name, value in (
        ("index", None),
        ("index", 0.0),
        ("logprobs", {}),
        ("logprobs", False),
        ("matched_stop", 2),
    ):
        yield instead(
            f"`choice.{name}: {json.dumps(value)}`", event(**HEAD, choices=[_choice("Hel") | {name: value}])
        )
    for name in ("id", "object", "created", "model"):
        rest = {key: value for key, value in HEAD.items() if key != name}
        yield instead(f"no `{name}`", event(**rest, choices=[_choice("Hel")]))
    for name, value in (
        ("id", 7),
        ("created", "now"),
        ("created", 1.5),
        ("model", None),
        ("usage", "none"),
        ("usage", []),
    ):
        yield instead(
            f"`{name}: {json.dumps(value)}`", event(**HEAD | {name: value}, choices=[_choice("Hel")])
        )
    yield instead("no `index`", event(**HEAD, choices=[{"delta": {"content": "Hel"}}]))
    for delta in (None, [], "", False):
        yield added(f"`delta: {json.dumps(delta)}`", said(delta))
    yield added("no `delta`", event(**HEAD, choices=[{"index": 0, "finish_reason": None}]))
    yield added("`delta.content: null`", said({"content": None}))
    for none in ("", False, "null", 0):
        yield instead(f"`finish_reason: {json.dumps(none)}` before the end", said({"content": "Hel"}, none))
    floats = {name: float(count) for name, count in COUNTS.items()}
    yield ok("usage in floats", HEL, LO, YOU, STOP, event(**HEAD, choices=[], usage=floats), DONE)
    yield ok(
        "usage in words", HEL, LO, YOU, STOP, event(**HEAD, choices=[], usage={"prompt_tokens": "3"}), DONE
    )
    yield instead(
        "content as a list of parts", said({"content": [{"type": "text", "text": "Hel"}]}), text="lo you"
    )
    unreadable = {"whole": False, "purpose": NOT_READABLE, "text": "lo you"}
    yield instead("content as a number", said({"content": 5}), **unreadable)
    yield instead("content as an object", said({"content": {"text": "Hel"}}), **unreadable)
    yield instead("`delta` as a text", said("Hel"), **unreadable)


def odd_forms() -> Iterator[Deviation]:
    """Describe other ways to write the same bytes."""
    plain = (HEL, LO, YOU, STOP, DONE)
    yield ok("CRLF line ends", *(one.replace(b"\n", b"\r\n") for one in plain))
    yield ok("CR line ends", *(one.replace(b"\n", b"\r") for one in plain))
    yield ok("no space after `data:`", *(one.replace(b"data: ", b"data:") for one in plain))
    yield ok("two spaces after `data:`", *(one.replace(b"data: ", b"data:  ") for one in plain))
    lost = "The package loses the first event."
    yield ok("a byte order mark", b"\xef\xbb\xbf" + HEL, LO, YOU, STOP, DONE, purpose=lost)
    yield ok("`id:` and `retry:` lines", *(b"id: 4\nretry: 10\n" + one for one in plain))
    yield ok("`event: message` lines", *(b"event: message\n" + one for one in plain))
    yield ok("`event: completion` lines", *(b"event: completion\n" + one for one in plain))
    yield ok(
        "an object over several `data:` lines",
        HEL.replace(b', "choices"', b',\ndata: "choices"'),
        LO,
        YOU,
        STOP,
        DONE,
    )
    yield ok("all in one piece", b"".join(plain))
    yield ok("byte by byte", *(Data(bytes([byte])) for byte in b"".join(plain)))
    words = "The package loses the word, or fails. The service reads each object."
    bare = LO.removeprefix(b"data: ")
    for what, one in (
        ("a line without `data:`", bare),
        ("a space before `data:`", b" " + LO),
        ("`Data:`", b"Data: " + bare),
        ("`data: data:`", b"data: " + LO),
        ("an unknown field", b"message: " + bare),
    ):
        yield ok(what, HEL, one, YOU, STOP, DONE, purpose=words)
    yield ok("two objects in one `data:` line", HEL.rstrip() + bare, YOU, STOP, DONE, purpose=words)
    yield ok("two events in one line", HEL.rstrip() + LO, YOU, STOP, DONE, purpose=words)
    yield ok(
        "no empty line between two events", HEL.replace(b"\n\n", b"\n") + LO, YOU, STOP, DONE, purpose=words
    )
    yield ok(
        "a second line without `data:`", HEL.replace(b"\n\n", b"\n") + bare, YOU, STOP, DONE, purpose=words
    )
    lines = (one.removeprefix(b"data: ").replace(b"\n\n", b"\n") for one in (HEL, LO, YOU, STOP))
    yield ok("lines of JSON instead of events", *lines, purpose=words)
    yield half(
        "a broken line without `data:`", HEL, bare[:-9] + b"\n\n", STOP, DONE, text="Hel", purpose=LOST
    )
    yield ok("no empty line after `[DONE]`", HEL, LO, YOU, STOP, DONE.rstrip())
    for kind in ("application/json", "text/plain", "application/octet-stream", "text/html", ""):
        headers = {"content-type": kind} if kind else {}
        yield Deviation(what=f"content type `{kind or 'none'}`", actions=stream(*plain, headers=headers))


def odd_answers() -> Iterator[Deviation]:
    """Describe answers that are no plain text, or are not quite what was asked for."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}
    other = {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"n":2}'}}
    end = (said({}, "tool_calls"), DONE)
    both = {"text": "", "calls": ('{"n":1}', '{"n":2}')}
    why = "Clients join the pieces of a call by its `index`: each gets one."
    yield ok(
        "tool calls with `index`",
        said({"tool_calls": [call | {"index": 0}, other | {"index": 1}]}),
        *end,
        **both,
    )
    yield ok("tool calls without `index`", said({"tool_calls": [call, other]}), *end, purpose=why, **both)
    yield ok(
        "each without `index`",
        said({"tool_calls": [call]}),
        said({"tool_calls": [other]}),
        *end,
        purpose=why,
        **both,
    )
    pieces = [{"id": "a", "function": {"name": "f", "arguments": '{"n"'}}, {"function": {"arguments": ":1}"}}]
    yield ok(
        "pieces without `index`",
        *(said({"tool_calls": [one]}) for one in pieces),
        *end,
        text="",
        calls=('{"n":1}',),
    )
    yield ok("sound", said({"audio": {"id": "x", "data": "AAAA"}}), STOP, DONE, text="")
    yield ok("pictures", said({"images": [{"type": "image_url"}]}), STOP, DONE, text="")
    yield ok("one choice of two", HEL, LO, YOU, STOP, DONE, fields={"n": 2})


def odd_ends() -> Iterator[Deviation]:
    """Describe ends, proper and not."""
    every = [said({"content": word}, "stop") for word in WORDS]
    yield ok("a finish in every chunk, and `[DONE]`", *every, DONE)
    yield half("a finish in every chunk, no `[DONE]`", *every[:2], purpose=AMBIGUOUS)
    yield ok("a finish beside the last word", HEL, LO, every[2], DONE)
    yield ok("a finish beside the last word, no `[DONE]`", HEL, LO, every[2])
    yield ok("no `[DONE]`", HEL, LO, YOU, STOP)
    yield ok("no `[DONE]`, and reset", HEL, LO, YOU, STOP, Reset())
    yield ok("broken JSON after the finish", HEL, LO, YOU, STOP, b'data: {"cho\n\n', DONE)
    for reason in ("eos", "STOP", "end_turn", "eos_token"):
        yield ok(f"finish reason `{reason}`", HEL, LO, YOU, said({}, reason), DONE)
    for reason in ("abort", "network_error", "insufficient_system_resource", "error", "OTHER"):
        yield half(f"finish reason `{reason}`", HEL, LO, said({}, reason), DONE)
    yield half("finish reason `true`", HEL, LO, said({}, True), DONE)
    yield half("`[DONE]` without a finish reason", HEL, LO, DONE)
    yield half("no finish reason, no `[DONE]`", HEL, LO)
    yield half("no finish reason, a ping, `[DONE]`", HEL, LO, b'data: {"type":"ping"}\n\n', DONE)
    yield half("closed within the answer", HEL, LO, Close())
    yield half("reset within the answer", HEL, LO, Reset())
    yield half("cut within an event", HEL, LO, YOU[:40])
    yield half("a finish, then a word, `[DONE]`", HEL, STOP, LO, DONE, purpose=AMBIGUOUS)
    yield half("broken JSON", HEL, b'data: {"choices": [{"del\n\n', LO, STOP, DONE, purpose=LOST)
    yield half("an error", HEL, LO, event(error={"message": "no"}), DONE)
    yield half("an error as a text", HEL, LO, event(error="no"), DONE)
    yield half("an error with `code` alone", HEL, LO, event(error={"code": 500}), DONE)
    yield half("a flat error", HEL, LO, event(object="error", message="no"), STOP, DONE)
    yield half("an error of another dialect", HEL, LO, event(type="error", message="no"), STOP, DONE)
    yield half("`event: error`", HEL, LO, b'event: error\ndata: {"detail":"no"}\n\n', STOP, DONE)
    yield half("nothing at all", text="")
    yield half("`[DONE]` alone", DONE, text="")
    yield half("nothing but pings", b'data: {"type":"ping"}\n\n', DONE, text="")
    yield half(
        "a finish without content",
        STOP,
        DONE,
        text="",
        purpose="An empty answer helps nobody; another target is asked.",
    )
    yield ok("a finish `length` without content", said({}, "length"), DONE, text="")


def whole_answers() -> Iterator[Deviation]:
    """Describe JSON answers."""

    def reply(
        what: str,
        *,
        mark: bytes = b"",
        kind: str = "application/json",
        choice: Any = None,
        more: Any = None,
        finish: object = "stop",
        **row: Any,
    ) -> Deviation:
        message = {"role": "assistant", "content": TEXT} | (choice or {})
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": COUNTS}
        body |= {"choices": [{"index": 0, "message": message, "finish_reason": finish}]} | (more or {})
        data = mark + json.dumps(body).encode()
        head = Head(200, {"content-type": kind, "content-length": str(len(data))})
        return Deviation(what=what, actions=(head, Data(data), End()), stream=False, **row)

    yield reply("none")
    for error in ({}, "", False, None):
        yield reply(f"`error: {json.dumps(error)}`", more={"error": error})
    odd: tuple[tuple[str, Any], ...] = (
        ("refusal", False),
        ("reasoning", {}),
        ("tool_calls", {}),
        ("tool_calls", []),
        ("function_call", ""),
        ("audio", None),
        ("annotations", {}),
    )
    for name, value in odd:
        yield reply(f"`message.{name}: {json.dumps(value)}`", choice={name: value})
    yield reply("usage in floats", more={"usage": {name: float(count) for name, count in COUNTS.items()}})
    yield reply("usage `null`", more={"usage": None})
    yield reply("usage as a list", more={"usage": []})
    yield reply("no `id`", more={"id": None})
    yield reply("one choice of two", fields={"n": 2})
    yield reply("sound", choice={"content": None, "audio": {"id": "x", "data": "AAAA"}}, text="")
    yield reply("pictures", choice={"content": None, "images": [{"type": "image_url"}]}, text="")
    yield reply("a byte order mark", mark=b"\xef\xbb\xbf")
    yield reply("space before the object", mark=b" \r\n\r\n")
    yield reply("content type `text/plain`", kind="text/plain")
    for reason in ("eos", "STOP", "end_turn"):
        yield reply(f"finish reason `{reason}`", finish=reason)
    for reason in ("abort", "network_error", "error", "", None, True):
        yield reply(f"finish reason `{json.dumps(reason)}`", finish=reason, whole=False, purpose=HALF)
    nothing = {
        "whole": False,
        "text": "",
        "purpose": "An empty answer helps nobody; another target is asked.",
    }
    yield reply("no choices", more={"choices": []}, **nothing)
    yield reply("`choices: null`", more={"choices": None}, **nothing)
    yield reply("an empty text", choice={"content": ""}, **nothing)
    yield reply("an error", more={"error": {"message": "no"}}, whole=False, purpose=HALF)
    yield reply("content as a number", choice={"content": 5}, whole=False, text="", purpose=NOT_READABLE)


SECTIONS: Mapping[str, tuple[Deviation, ...]] = {
    "Events in a stream": tuple(odd_events()),
    "Fields in a stream": tuple(odd_fields()),
    "Bytes of a stream": tuple(odd_forms()),
    "Answers in a stream": tuple(odd_answers()),
    "Ends of a stream": tuple(odd_ends()),
    "JSON answers": tuple(whole_answers()),
}
