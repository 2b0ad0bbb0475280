"""Faults that the matrix needs in addition to the simulators' own: functions from healthy script to script.

A provider that stalls within TLS, refuses, or has no name needs no script: see stage.py.
"""

import gzip
import json
from collections.abc import Callable, Iterator

from dub5.simulators.script import Action, Close, Data, End, Head, Raw, Script, Wait

Shape = Callable[[Script, str], Script]  # the second is the persona's name

GAP_S = 0.5
GAPS = 5  # together longer than the clients' timeout
LINGER_S = 5.0
BIG_BYTES = 8 * 1024 * 1024
HTML = b"<!DOCTYPE html><html><body><h1>Service Suspended</h1></body></html>"
ERROR = {"message": "overloaded", "type": "server_error", "param": None, "code": "server_is_overloaded"}
ERROR_ANTHROPIC = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def headers(**more: str) -> Shape:
    """Add headers to the answer; `_` is written for `-`."""
    added = {name.replace("_", "-"): value for name, value in more.items()}

    def shape(script: Script, persona: str) -> Script:
        for action in script:
            yield Head(action.status, {**action.headers, **added}) if isinstance(action, Head) else action

    return shape


def page(status: int, body: bytes, content_type: str = "text/html") -> Shape:
    """Send another whole answer."""

    def shape(script: Script, persona: str) -> Script:
        length = {} if status == 204 else {"content-type": content_type, "content-length": str(len(body))}
        return iter((Head(status, length), Data(body), End()))

    return shape


def nothing_after_head(*end: Action) -> Shape:
    """Send the head, then `then`."""

    def shape(script: Script, persona: str) -> Script:
        yield head_of(script)
        yield from end

    return shape


def half_a_body(*end: Action) -> Shape:
    """Send half of a JSON answer with the full length announced, then `then`."""

    def shape(script: Script, persona: str) -> Script:
        head, body = whole(script)
        yield head
        yield Data(body[: len(body) // 2])
        yield from end

    return shape


def raw_before_head(data: bytes) -> Shape:
    """Send these bytes in place of an answer."""
    return lambda script, persona: iter((Raw(data), Close()))


def body_as(change: Callable[[bytes], bytes], **more: str) -> Shape:
    """Send the JSON answer with another body, properly framed."""

    def shape(script: Script, persona: str) -> Script:
        head, body = whole(script)
        kept = {name: value for name, value in head.headers.items() if name != "content-length"}
        yield Head(200, {**kept, **{k.replace("_", "-"): v for k, v in more.items()}})
        yield Data(change(body))
        yield End()

    return shape


def error_in_200(script: Script, persona: str) -> Script:
    """Send status 200 with an error in the body."""
    error = json.dumps(ERROR_ANTHROPIC if persona == "anthropic" else {"error": ERROR}).encode()
    return body_as(lambda body: error)(script, persona)


def no_choices(value: object) -> Shape:
    """Send nothing where the answer should be; Ellipsis leaves the field out."""

    def shape(script: Script, persona: str) -> Script:
        def change(body: bytes) -> bytes:
            said = json.loads(body)
            field = "content" if persona == "anthropic" else "choices"
            said[field] = value
            if value is ...:
                del said[field]
            return json.dumps(said).encode()

        return body_as(change)(script, persona)

    return shape


def not_utf8(body: bytes) -> bytes:
    """Send the body with invalid UTF-8 within a string."""
    return body.replace(b'"role":"assistant"', b'"role":"assistant","x":"\xff\xfe"', 1)


def zipped(body: bytes) -> bytes:
    """Send the body as gzip that ends too early."""
    return gzip.compress(body)[:-20]


def trickled_head(script: Script, persona: str) -> Script:
    """Send header after header, slowly."""
    _, body = whole(script)
    yield Raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    for n in range(GAPS):
        yield Wait(GAP_S)
        yield Raw(b"x-%d: 1\r\n" % n)
    yield Raw(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    yield Close()


def trickled_body(script: Script, persona: str) -> Script:
    """Send a few bytes at a time, slowly."""
    head, body = whole(script)
    yield head
    step = len(body) // GAPS + 1
    for at in range(0, len(body), step):
        yield Wait(GAP_S)
        yield Data(body[at : at + step])
    yield End()


def after_tokens(count: int, *end: Action) -> Shape:
    """Send the stream's first tokens, then `then`."""

    def shape(script: Script, persona: str) -> Script:
        yield from tokens(script, count)
        yield from end

    return shape


def then_event(event: Callable[[str], bytes], *, end: bool) -> Shape:
    """Send three tokens, this event, and the end or the rest."""

    def shape(script: Script, persona: str) -> Script:
        yield from tokens(script, 3)
        yield Data(event(persona))
        yield from (End(),) if end else script

    return shape


def malformed(persona: str) -> bytes:
    """Send an event whose data is broken JSON."""
    return named(persona, "content_block_delta", b'{"id":"x","index":0,"choices":[{"del')


def error_chunk(persona: str) -> bytes:
    """Send an error as plain data, as OpenAI and its likes do."""
    if persona == "anthropic":
        return b"data: %b\n\n" % json.dumps(ERROR_ANTHROPIC).encode()
    if persona == "mistral":  # as OpenRouter does: a chunk that looks like others
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        chunk = {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
        return b"data: %b\n\n" % json.dumps({**chunk, "error": ERROR}).encode()
    return b"data: %b\n\n" % json.dumps({"error": ERROR}).encode()


def error_event(persona: str) -> bytes:
    """Send an error with its event name, as Anthropic does."""
    said = ERROR_ANTHROPIC if persona == "anthropic" else {"error": ERROR}
    return b"event: error\ndata: %b\n\n" % json.dumps(said).encode()


def unknown_event(persona: str) -> bytes:
    """Send an event of an unknown type."""
    return b'event: surprise\ndata: {"type":"surprise"}\n\n'


def big_event(persona: str) -> bytes:
    """Send 8 MB in one event, without content."""
    pad = b"x" * BIG_BYTES
    return named(persona, "ping", b'{"type":"ping","id":"x","model":"m","choices":[],"pad":"%b"}' % pad)


def cut_in_line(script: Script, persona: str) -> Script:
    """End the body, properly, in the middle of a `data:` line."""
    yield from tokens(script, 3)
    event = next(action for action in script if isinstance(action, Data))
    yield Data(event.data[: len(event.data) // 2])
    yield End()


def no_last_event(script: Script, persona: str) -> Script:
    """Send everything but `[DONE]`, or `message_stop`."""
    kept = [action for action in script if not isinstance(action, End)]
    yield from kept[:-1]
    yield End()


def only_last_event(script: Script, persona: str) -> Script:
    """Send the head, then `[DONE]`."""
    yield head_of(script)
    yield Data(b"data: [DONE]\n\n")
    yield End()


def bad_chunks(script: Script, persona: str) -> Script:
    """Send a chunk whose size is no number."""
    yield from tokens(script, 3)
    yield Raw(b"zz\r\nno chunk\r\n")
    yield Close()


def lingering(script: Script, persona: str) -> Script:
    """Send everything, and keep the body open for a while."""
    for action in script:
        if isinstance(action, End):
            yield Wait(LINGER_S)
        yield action


def with_comments(script: Script, persona: str) -> Script:
    """Send comments, and only then the first token."""
    yield head_of(script)
    for _ in range(GAPS):
        yield Wait(GAP_S)
        yield Data(b": still here\n\n")
    yield from script


def lines_as(change: Callable[[bytes], bytes]) -> Shape:
    """Change the bytes of each event."""

    def shape(script: Script, persona: str) -> Script:
        for action in script:
            yield Data(change(action.data), action.tokens) if isinstance(action, Data) else action

    return shape


def crlf(event: bytes) -> bytes:
    """Send lines that end as HTTP's do."""
    return event.replace(b"\n", b"\r\n")


def nameless(event: bytes) -> bytes:
    """Send events without their `event:` lines."""
    return event[event.index(b"data:") :]


def byte_by_byte(script: Script, persona: str) -> Script:
    """Send each byte in a chunk of its own."""
    for action in script:
        if isinstance(action, Data):
            yield from (Data(action.data[at : at + 1]) for at in range(len(action.data)))
        else:
            yield action


def named(persona: str, name: str, data: bytes) -> bytes:
    """Return an event as the persona writes it."""
    event = b"event: %b\n" % name.encode() if persona == "anthropic" else b""
    return event + b"data: " + data + b"\n\n"


def whole(script: Script) -> tuple[Head, bytes]:
    """Return a JSON answer's head and body."""
    head = head_of(script)
    return head, b"".join(action.data for action in script if isinstance(action, Data))


def head_of(script: Script) -> Head:
    """Play up to the head; the rest stays in the script."""
    return next(action for action in script if isinstance(action, Head))


def tokens(script: Script, count: int) -> Iterator[Action]:
    """Play up to the last of n tokens; the rest stays in the script."""
    for action in script:
        yield action
        count -= action.tokens if isinstance(action, Data) else 0
        if count == 0:
            return
