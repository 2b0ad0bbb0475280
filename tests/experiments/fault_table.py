"""Every way in which a provider breaks, and what the service makes of it: the same on every wire.

    python -m tests.experiments.fault_table > docs/prove/faults.md

A row is a script, played on real sockets to the native wire (on asyncio and on uvloop) and to httpx, and in
virtual time. test_fault_table.py holds all four to `seen`.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dub5.service.resilience.classify import Blame
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Raw, Reset, Wait
from dub5.simulators.virtual import Connect

JSON, SSE = {"content-type": "application/json"}, {"content-type": "text/event-stream"}
NEXT, ANSWERED, CUT, TOLD = "next target", "answered", "cut, with an error event", "told to the caller"


@dataclass(frozen=True)
class ExpectedOutcome:
    """The result of an attempt. `billed`: the provider may charge for it."""

    reason: str
    then: str
    blame: Blame = Blame.TARGET
    billed: bool = True


@dataclass(frozen=True)
class FaultRow:
    """A fault, in a whole answer or in a stream. `connect` and `tls`: a fault before any request."""

    what: str
    seen: ExpectedOutcome
    actions: tuple[Action, ...] = ()
    stream: bool = False
    dialect: str = "openai"
    connect: Connect = Connect.OPENS
    tls: str = ""  # how the handshake fails, in the words of dub5.simulators.faults.connections
    waits: bool = False  # until a timeout expires

    @property
    def name(self) -> str:
        """A name that is valid for a route."""
        return ("stream-" if self.stream else "json-") + "".join(c if c.isalnum() else "-" for c in self.what)


def said(text: object = "Hi", finish: object = "stop", **more: Any) -> bytes:
    """Return a JSON answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], **more}).encode()


def body(data: bytes, *more: Action, **headers: str) -> tuple[Action, ...]:
    """Return a 200 with a JSON type and this body; then `more`, or its proper end."""
    return (Head(200, JSON | headers), Data(data), *(more or (End(),)))


def sized(status: int, data: bytes, **headers: str) -> tuple[Action, ...]:
    """Return a whole page."""
    return (Head(status, JSON | {"content-length": str(len(data)), **headers}), Data(data), End())


def event(content: str | None = None, finish: str | None = None) -> bytes:
    """Return an event of a stream."""
    delta = {} if content is None else {"content": content}
    return b"data: " + json.dumps({"choices": [_choice(delta, finish)]}).encode() + b"\n\n"


def _choice(delta: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def stream(*parts: bytes | Action) -> tuple[Action, ...]:
    """Return a 200 with these events."""
    return (Head(200, SSE), *(Data(part) if isinstance(part, bytes) else part for part in parts))


def typed(kind: str, **fields: Any) -> bytes:
    """Return an event of the Messages dialect."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


HI, STOP, DONE = event("Hi"), event(None, "stop"), b"data: [DONE]\n\n"
WHOLE = said()
TEXT = typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
OVERLOADED = typed("error", error={"type": "overloaded_error", "message": "Overloaded"})
OK = ExpectedOutcome("ok", ANSWERED, Blame.NOBODY, billed=False)


HANDSHAKES = (
    ("closed in the TLS handshake", "close", "connect_closed"),
    ("reset in the TLS handshake", "reset", "connect_reset"),
    ("plain HTTP in the TLS handshake", "garbage", "connect_protocol"),
    ("certificate has expired", "expired", "connect_protocol"),
    ("certificate is for another name", "wrong_name", "connect_protocol"),
)


ANSWER, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"transfer-encoding: chunked\r\n"
FRAMED_BADLY = (
    ("1,001 headers", b"x: y\r\n" * 1001),
    ("a length beside chunks", b"content-length: 2\r\n" + CHUNKED),
    ("two lengths", b"content-length: 2\r\ncontent-length: 3\r\n"),
    ("gzip as a transfer coding", b"transfer-encoding: gzip, chunked\r\n"),
)


def _no_connection() -> Iterator[FaultRow]:
    for is_stream in (False, True):
        clock = "connect_timeout"
        refused = ExpectedOutcome("connect_refused", NEXT, Blame.HOST, billed=False)
        yield FaultRow("refused", refused, stream=is_stream, connect=Connect.REFUSED)
        unknown = ExpectedOutcome("resolve_refused", NEXT, Blame.HOST, billed=False)
        yield FaultRow("name does not resolve", unknown, stream=is_stream, connect=Connect.UNRESOLVED)
        stalled = ExpectedOutcome(clock, NEXT, Blame.HOST, billed=False)
        yield FaultRow("SYN is dropped", stalled, stream=is_stream, connect=Connect.STALLS, waits=True)
        yield FaultRow("TLS handshake stalls", stalled, stream=is_stream, tls="stall", waits=True)
        for what, how, reason in HANDSHAKES:
            yield FaultRow(
                what, ExpectedOutcome(reason, NEXT, Blame.HOST, billed=False), stream=is_stream, tls=how
            )


def _before_the_head() -> Iterator[FaultRow]:
    for is_stream in (False, True):
        clock = "first_token_timeout" if is_stream else "whole_answer_timeout"
        head = Head(200, SSE if is_stream else JSON)
        broken: tuple[tuple[str, str, tuple[Action, ...]], ...] = (
            ("reset before the headers", "wait_reset", (Reset(),)),
            ("closed before the headers", "wait_closed", (Close(),)),
            ("closed inside the headers", "wait_closed", (Raw(b"HTTP/1.1 200 OK\r\nx-a: "), Close())),
            (
                "reset inside the headers",
                "wait_reset",
                (Raw(b"HTTP/1.1 200 OK\r\nx-a: "), Wait(0.05), Reset()),
            ),
            (
                "an endless header",
                "wait_protocol",
                (Raw(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000), Hang()),
            ),
            *(
                (what, "wait_protocol", (Raw(ANSWER + lines + b"\r\n"), Hang()))
                for what, lines in FRAMED_BADLY
            ),
            ("garbage for a status line", "wait_protocol", (Raw(b"BLAH blah\r\n\r\n"), Hang())),
        )
        for what, reason, actions in broken:
            yield FaultRow(what, ExpectedOutcome(reason, NEXT), actions, is_stream)
        yield FaultRow(
            "silence before the headers", ExpectedOutcome(clock, NEXT), (Hang(),), is_stream, waits=True
        )
        yield FaultRow(
            "silence after the headers", ExpectedOutcome(clock, NEXT), (head, Hang()), is_stream, waits=True
        )


def _whole_answers() -> Iterator[FaultRow]:
    half = WHOLE[: len(WHOLE) // 2]
    short = {"content-length": str(len(WHOLE))}
    broken: tuple[tuple[str, str, tuple[Action, ...]], ...] = (
        ("shorter than its length", "body_closed", (Head(200, JSON | short), Data(half), Close())),
        ("reset in the body", "body_reset", (Head(200, JSON | short), Data(half), Wait(0.05), Reset())),
        ("chunks without their end", "body_closed", body(half, Close())),
        ("bad chunk framing", "body_protocol", body(half, Wait(0.05), Raw(b"zz\r\n"), Hang())),
        (
            "gzip though not asked for",
            "body_protocol",
            body(gzip.compress(WHOLE), **{"content-encoding": "gzip"}),
        ),
        ("half a gzip", "body_protocol", body(gzip.compress(WHOLE)[:20], **{"content-encoding": "gzip"})),
        ("gzip that does not say so", "not_json", body(gzip.compress(WHOLE, mtime=0))),
        ("a 200 of HTML", "not_json", sized(200, b"<!DOCTYPE html><title>503</title>")),
        ("nothing in a 200", "not_json", sized(200, b"")),
        ("half the JSON, properly ended", "garbled", sized(200, half)),
        ("an error inside a 200", "error_event", sized(200, b'{"error":{"message":"no","code":502}}')),
        ("bytes that are no UTF-8", "garbled", sized(200, WHOLE.replace(b"Hi", b"\xff\xfe"))),
        (
            "bytes that are no UTF-8, in an unused field",
            "garbled",
            sized(200, said(x="Ho").replace(b"Ho", b"\xff")),
        ),
        ("no choices", "empty_answer", sized(200, b'{"choices":[]}')),
        ("choices that are null", "empty_answer", sized(200, b'{"choices":null}')),
        ("no choices field", "garbled", sized(200, b'{"id":"c"}')),
        ("content that is null", "empty_answer", sized(200, said(None))),
        ("content that is empty", "empty_answer", sized(200, said(""))),
        ("content of another type", "garbled", sized(200, said(5))),
        ("no finish reason", "truncated", sized(200, said(finish=None))),
        ("an empty finish reason", "truncated", sized(200, said(finish=""))),
        ("finish reason `error`", "error_in_answer", sized(200, said(finish="error"))),
        ("finish reason `abort`", "error_in_answer", sized(200, said(finish="abort"))),
    )
    for what, reason, actions in broken:
        yield FaultRow(what, ExpectedOutcome(reason, NEXT), actions)
    trickle = tuple(action for byte in WHOLE[:9] for action in (Wait(0.02), Data(bytes([byte]))))
    hints = Raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    yield FaultRow("100 and 103 before it", OK, (hints, *sized(200, WHOLE)))
    yield FaultRow("trickled within the timeout", OK, (Head(200, JSON), *trickle, Data(WHOLE[9:]), End()))
    drip: tuple[Action, ...] = (Wait(0.3), Data(b" ")) * 20
    endless = (Head(200, JSON), *drip, Data(WHOLE), End())
    yield FaultRow(
        "trickled beyond the timeout", ExpectedOutcome("whole_answer_timeout", NEXT), endless, waits=True
    )
    yield FaultRow("JSON as text/plain", OK, sized(200, WHOLE, **{"content-type": "text/plain"}))
    yield FaultRow("line breaks before the JSON", OK, sized(200, b"\n\n  \n" + WHOLE))
    yield FaultRow("closed right after its length", OK, (*sized(200, WHOLE)[:2], Close()))


def _streams() -> Iterator[FaultRow]:
    bad_json, in_line = b'data: {"choices":[{"ind\n\n', b'data: {"choices":[{"index":0,"delta":{"content":"Ho'
    error = b'data: {"error":{"message":"Provider disconnected","code":"server_error"}}\n\n'
    flat_error = b'data: {"object":"error","message":"no"}\n\n'
    broken: tuple[tuple[str, str, tuple[bytes | Action, ...]], ...] = (
        ("ended without finish or `[DONE]`", "truncated", (End(),)),
        ("`[DONE]` without a finish", "truncated", (DONE, End())),
        ("closed without the last chunk", "body_closed", (Close(),)),
        ("reset", "body_reset", (Wait(0.05), Reset())),
        ("bad chunk framing", "body_protocol", (Wait(0.05), Raw(b"zz\r\n"), Hang())),
        ("broken JSON in an event", "garbled", (bad_json, End())),
        ("cut inside a line", "truncated", (in_line, End())),
        ("an error event", "error_event", (error, End())),
        ("an error event of the flat kind", "error_event", (flat_error, End())),
        ("finish reason `error`", "error_event", (event("", "error"), DONE, End())),
        ("finish reason `abort`", "error_event", (event("", "abort"), DONE, End())),
        ("a page of HTML", "not_json", (b"data: <html>\n\n", End())),
    )
    for what, reason, parts in broken:
        before = "empty_answer" if parts[0] == DONE else reason
        yield FaultRow(f"{what}, before any content", ExpectedOutcome(before, NEXT), stream(*parts), True)
        yield FaultRow(
            f"{what}, after content", ExpectedOutcome(reason, CUT), stream(HI, Wait(0.02), *parts), True
        )
    yield FaultRow(
        "silence between chunks",
        ExpectedOutcome("between_tokens_timeout", CUT),
        stream(HI, Hang()),
        True,
        waits=True,
    )
    comments = [part for _ in range(20) for part in (Wait(0.3), b": keep-alive\n\n")]
    late = ExpectedOutcome("first_token_timeout", NEXT)
    yield FaultRow("nothing but comments", late, stream(*comments, HI, STOP, DONE, End()), True, waits=True)
    yield FaultRow(
        "HTML instead of events",
        ExpectedOutcome("not_a_stream", NEXT),
        (Head(200, {"content-type": "text/html"}), Data(b"<p>"), End()),
        True,
    )
    yield FaultRow(
        "JSON instead of events", ExpectedOutcome("not_a_stream", NEXT), sized(200, b'{"status":"no"}'), True
    )
    yield FaultRow(
        "an error instead of events",
        ExpectedOutcome("error_event", NEXT),
        sized(200, b'{"error":"no"}'),
        True,
    )
    no_chunk = b'data: {"hello":1}\n\n'
    cut = ExpectedOutcome("truncated", CUT)
    each = (event("Hi", "stop"), Wait(0.02), event(" you", "stop"))
    half: tuple[tuple[str, ExpectedOutcome, tuple[bytes | Action, ...]], ...] = (
        ("nothing but events that are no chunks", ExpectedOutcome("garbled", NEXT), (no_chunk, End())),
        ("an event that is no chunk, then the end", cut, (HI, Wait(0.02), no_chunk, End())),
        (
            "a finish in every chunk, then closed",
            ExpectedOutcome("body_closed", CUT),
            (*each, Wait(0.02), Close()),
        ),
        ("a finish in every chunk, but no `[DONE]`", cut, (*each, End())),
    )
    for what, seen, parts in half:
        yield FaultRow(what, seen, stream(*parts), True)
    yield FaultRow("empty body", ExpectedOutcome("truncated", NEXT), stream(End()), True)
    yield FaultRow(
        "finish without content", ExpectedOutcome("empty_answer", NEXT), stream(STOP, DONE, End()), True
    )
    yield FaultRow(
        "gzip though not asked for",
        ExpectedOutcome("body_protocol", NEXT),
        (Head(200, SSE | {"content-encoding": "gzip"}), Data(HI), End()),
        True,
    )
    whole: tuple[tuple[str, tuple[bytes | Action, ...]], ...] = (
        ("finish, but no `[DONE]`", (HI, STOP, End())),
        ("finish, then closed", (HI, STOP, Wait(0.05), Close())),
        ("finish, then reset", (HI, STOP, Wait(0.05), Reset())),
        ("finish, then broken JSON", (HI, STOP, bad_json, End())),
        ("lingers after the end", (HI, STOP, DONE, Hang())),
        ("comments, then content", (b": x\n\n", Wait(0.05), b": x\n\n", HI, STOP, DONE, End())),
        ("one event of a megabyte", (event("x" * 1_000_000), STOP, DONE, End())),
        ("CRLF line ends", (HI.replace(b"\n", b"\r\n"), STOP.replace(b"\n", b"\r\n"), DONE, End())),
        ("a finish in every chunk, and `[DONE]`", (*each, DONE, End())),
        ("an event that is no chunk, between chunks", (HI, no_chunk, STOP, DONE, End())),
        ("a ping between chunks", (HI, b'data: {"type":"ping"}\n\n', STOP, DONE, End())),
        ("a comment as data", (HI, b"data: : keep-alive\n\n", STOP, DONE, End())),
        ("byte by byte", (*(bytes([byte]) for byte in HI + STOP + DONE), End())),
    )
    for what, parts in whole:
        yield FaultRow(what, OK, stream(*parts), True)
    yield FaultRow("events as application/json", OK, (Head(200, JSON), Data(HI + STOP + DONE), End()), True)


def _messages() -> Iterator[FaultRow]:
    end = typed("message_delta", delta={"stop_reason": "end_turn"}) + typed("message_stop")
    rows: tuple[tuple[str, ExpectedOutcome, tuple[bytes | Action, ...]], ...] = (
        ("`event: error`, before any content", ExpectedOutcome("error_event", NEXT), (OVERLOADED, End())),
        (
            "`event: error`, after content",
            ExpectedOutcome("error_event", CUT),
            (TEXT, Wait(0.02), OVERLOADED, End()),
        ),
        (
            "a stop reason, but no `message_stop`",
            ExpectedOutcome("truncated", CUT),
            (TEXT, Wait(0.02), end[:60], End()),
        ),
        (
            "`message_stop` without a stop reason",
            ExpectedOutcome("truncated", CUT),
            (TEXT, Wait(0.02), typed("message_stop"), End()),
        ),
        ("an unknown event", OK, (typed("news"), TEXT, end, End())),
        ("events without names", OK, (b"data: " + (TEXT + end).split(b"data: ", 1)[1], End())),
        ("lingers after the end (Messages)", OK, (TEXT, end, Hang())),
    )
    for what, seen, parts in rows:
        yield FaultRow(what, seen, stream(*parts), True, "anthropic")


STATUSES: Mapping[int, tuple[str, Blame]] = {
    **dict.fromkeys((400, 404, 422), (NEXT, Blame.NOBODY)),  # the target's, if it refuses all for 30 s
    **dict.fromkeys((401, 402, 403, 429), (NEXT, Blame.KEY)),
    413: (NEXT, Blame.NOBODY),
    **dict.fromkeys((520, 521, 522, 523, 524, 525, 526, 527, 530), (NEXT, Blame.HOST)),
    **dict.fromkeys((204, 307, 408, 409, 498, 499, 500, 502, 503, 504, 529), (NEXT, Blame.TARGET)),
}


def _statuses() -> Iterator[FaultRow]:
    for number, (then, blame) in sorted(STATUSES.items()):
        seen = ExpectedOutcome(f"http_{number}", then, blame, billed=False)
        page = (Head(204), End()) if number == 204 else sized(number, b'{"error":{"message":"no"}}')
        for is_stream in (False, True):
            yield FaultRow(f"status {number}", seen, page, is_stream)


def _words() -> Iterator[FaultRow]:
    """Describe a status that its body explains further."""
    rows: tuple[tuple[int, str, str, str, Blame], ...] = (
        (400, "context_length_exceeded", "", NEXT, Blame.NOBODY),
        (400, "content_filter", "", TOLD, Blame.NOBODY),
        (403, "", "Your input was flagged.", TOLD, Blame.NOBODY),
        (400, "", "Your credit balance is too low.", NEXT, Blame.KEY),
        (400, "model_decommissioned", "", NEXT, Blame.TARGET),
        (402, "", "You can only afford 100 tokens.", NEXT, Blame.NOBODY),
        (429, "rate_limit_exceeded", "", NEXT, Blame.KEY),
        (429, "insufficient_quota", "", NEXT, Blame.KEY),
        (429, "rate_limit_exceeded", "Request too large for gpt-4o", NEXT, Blame.NOBODY),
        (429, "", "Service tier capacity exceeded for this model.", NEXT, Blame.TARGET),
    )
    for number, code, message, then, blame in rows:
        page = sized(number, json.dumps({"error": {"code": code, "message": message}}).encode())
        seen = ExpectedOutcome(f"http_{number}", then, blame, billed=False)
        words = " and ".join(filter(None, (code and f"code `{code}`", message and f'"{message}"')))
        yield FaultRow(f"status {number} with {words}", seen, page)


SECTIONS: Mapping[str, tuple[FaultRow, ...]] = {
    "No connection": tuple(_no_connection()),
    "Before the answer": tuple(_before_the_head()),
    "Whole answers": tuple(_whole_answers()),
    "Streams": tuple(_streams()),
    "Streams of the Messages dialect": tuple(_messages()),
    "Statuses": tuple(_statuses()),
    "Statuses with a code or message": tuple(_words()),
}
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)

INTRODUCTION = """# Faults

Each fault of a provider, and what the service does about it. `reason` is shown in the trail, the log and the
metrics ([reasons](../use/reasons.md)). The next target is called only as long as nothing has been sent to the
client. Every row is tested with each wire, over real sockets and in the simulation, with the same result.
Made by `python -m tests.experiments.fault_table > docs/prove/faults.md`.
"""


def page() -> str:
    """docs/prove/faults.md."""
    lines = [INTRODUCTION]
    for title, rows in SECTIONS.items():
        lines += [
            f"## {title}",
            "",
            "| what happens | in | reason | then | counts against | may be billed |",
            "|---|---|---|---|---|---|",
        ]
        merged: dict[tuple[str, ExpectedOutcome], list[str]] = {}
        for row in rows:
            merged.setdefault((row.what, row.seen), []).append("stream" if row.stream else "JSON")
        for (what, seen), modes in merged.items():
            billed = "yes" if seen.billed else "no"
            against = "nobody" if seen.blame is Blame.NOBODY else f"the {seen.blame}"
            lines.append(
                f"| {what} | {', '.join(modes)} | `{seen.reason}` | {seen.then} | {against} | {billed} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
