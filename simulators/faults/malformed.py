"""Malformed answers: broken as HTTP, below the JSON or the events in them."""

import zlib
from typing import Literal

from dub5.simulators.faults.base import Fault, is_stream, unmeasured
from dub5.simulators.personas.base import Persona, PersonaContext
from dub5.simulators.script import Close, Data, End, Head, Raw, Script, Wait

Malformation = Literal[
    "status_line",
    "chunk",
    "length_long",
    "length_short",
    "gzip",
    "utf8",
    "html",
    "text",
    "no_content",
    "not_sse",
]
HEAD_START_S = 0.01  # the head goes ahead: a client that receives both at once would reject the head as well
SUSPENDED = (
    b"<!DOCTYPE html><html><head><title>Service Suspended</title></head><body>Suspended</body></html>\n"
)


class Broken(Fault, frozen=True, tag="broken"):
    """An answer that is no proper HTTP, or not what its headers say.

    how: status_line: the status line is malformed; chunk: a chunk's size is no number; length_long,
    length_short: content-length is far more than the body, or half of it; gzip: a body that does not unpack;
    utf8: invalid bytes; html, text: a web page, or the same body as text/plain, with 200; no_content: 204;
    not_sse: the events of a stream come as application/json.
    """

    how: Malformation

    def on(self, script: Script, persona: Persona, context: PersonaContext) -> Script:
        match self.how:
            case "status_line":
                return iter([Raw(b"HTTP/1.1 abc Not A Status\r\n\r\n"), Close()])
            case "html":
                return _fixed_response(200, {"content-type": "text/html"}, SUSPENDED)
            case "no_content":
                return _fixed_response(204, {}, b"")
            case "chunk":
                return _bad_chunk(script)
            case "utf8":
                return _bad_letters(script)
            case "gzip":
                return _bad_gzip(script)
            case "length_long" | "length_short":
                return _bad_length(script, longer=self.how == "length_long")
            case _:
                return _mislabelled(script, "application/json" if self.how == "not_sse" else "text/plain")


def _fixed_response(status: int, headers: dict[str, str], body: bytes) -> Script:
    yield Head(status, {**headers, "content-length": str(len(body))})
    yield Data(body)
    yield End()


def _bad_chunk(script: Script) -> Script:
    for action in script:
        if isinstance(action, Head):
            yield unmeasured(action)
        elif isinstance(action, Data) and action.tokens:
            yield Wait(HEAD_START_S)
            yield Raw(b"zz\r\n" + action.data + b"\r\n")
            yield Close()
            return
        else:
            yield action


def _bad_letters(script: Script) -> Script:
    """Replace the blank after the first token by half a character; the length stays the same."""
    pending = True
    for action in script:
        if pending and isinstance(action, Data) and action.tokens:
            pending = False
            at = action.data.rfind(b" ")
            yield Data(action.data[:at] + b"\xc3" + action.data[at + 1 :], action.tokens)
        else:
            yield action


def _bad_gzip(script: Script) -> Script:
    for action in script:
        if isinstance(action, Head):
            yield Head(action.status, {**unmeasured(action).headers, "content-encoding": "gzip"})
        elif isinstance(action, Data):
            yield Data(zlib.compress(action.data)[:-3], action.tokens)
        else:
            yield action


def _bad_length(script: Script, *, longer: bool) -> Script:
    """Send a wrong content-length; a stream gets a length that it never had."""
    for action in script:
        if isinstance(action, Head):
            length = 1000 if is_stream(action) else int(action.headers.get("content-length", "0"))
            wrong = length + 100_000 if longer else length // 2
            yield Head(action.status, {**action.headers, "content-length": str(wrong)})
        elif longer and isinstance(action, End):
            yield Close()
        else:
            yield action


def _mislabelled(script: Script, media: str) -> Script:
    for action in script:
        yield (
            Head(action.status, {**action.headers, "content-type": media})
            if isinstance(action, Head)
            else action
        )
