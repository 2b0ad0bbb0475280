"""What a provider might send: a persona's healthy answer, then broken in ways drawn from a seed.

persona -> events or JSON -> broken values, events, bytes -> framing, pieces, pauses -> how it ends
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from dub5.simulators.latency import PRESETS
from dub5.simulators.personas import PERSONAS
from dub5.simulators.personas.base import PersonaContext, Profile, parse_request
from dub5.simulators.script import Action, Close, Data, End, Hang, Head, Raw, Reset, Script, SimRequest, Wait

STATUSES: tuple[int, ...] = (
    201,
    204,
    206,
    301,
    304,
    400,
    401,
    402,
    403,
    404,
    408,
    409,
    413,
    418,
    422,
    429,
    498,
    499,
)
STATUSES += (500, 502, 503, 504, 520, 522, 524, 526, 529, 530, 599, 999)
TYPES = (
    "",
    "text/plain",
    "application/json",
    "TEXT/HTML; charset=utf-8",
    "application/octet-stream",
    "\xff;;",
)
WAITS = (
    "0",
    "1",
    "-1",
    "20",
    "1e308",
    "nan",
    "inf",
    "Wed, 21 Oct 2065 07:28:00 GMT",
    "99999999999",
    "soon",
    "٣",
)
ENDINGS = ((), (Close(),), (Reset(),), (Hang(),), (Raw(b"zz\r\n"),), (Wait(30), End()))
STALL_S = 30.0  # longer than every timeout of the route
ODD: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    1.5,
    "",
    "x",
    "stop",
    "error",
    "content_filter",
    "length",
)
ODD += (
    [],
    {},
    [None],
    [[]],
    {"a": None},
    {"content": "spliced"},
    [{"type": "text", "text": 5}],
    "é\u2028\n\0",
)
RAW = ("1e999", "-1e999", "NaN", "-0", "007", "9" * 400, '"\\ud800"', '"\\u0000"', "tru", '"\\x"', "'x'", "")
DEPTHS = (70, 600, 3000)


@dataclass
class BrokenReply:
    """A reply: `told` names what was done to it; `harmless`: it is still a whole, good answer."""

    persona: str
    stream: bool
    status: int
    headers: dict[str, str]
    events: list[bytes]
    ending: tuple[Action, ...] = (End(),)
    pieces: list[bytes] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    before_head: tuple[Action, ...] = ()
    told: list[str] = field(default_factory=list)
    harmless: bool = True
    open: bool = False

    def script(self) -> Script:
        """Play the reply; `open` is true while a client is connected."""
        self.open = True
        try:
            yield from self.before_head
            yield Head(self.status, self.headers)
            for piece, wait_s in zip(self.pieces, self.waits_s, strict=True):
                if wait_s:
                    yield Wait(wait_s)
                yield Data(piece)
            yield from self.ending
        finally:
            self.open = False

    def received(self) -> tuple[bytes, bool]:
        """Return the body as its framing delimits it, and whether it came to its proper end."""
        body = b"".join(self.pieces)
        length = self.headers.get("content-length")
        if length is None:
            return body, self.ending[-1:] == (End(),)
        size = int(length) if length.isdecimal() else 0
        return body[:size], len(body) >= size

    def __str__(self) -> str:
        body = b"".join(self.pieces)
        shown = body if len(body) < 4000 else body[:2000] + b" ... " + body[-1500:]
        return (
            f"{self.persona} {'stream' if self.stream else 'json'} {self.told}\n"
            f"  {self.before_head} {self.status} {self.headers}\n  {shown!r}\n  {self.ending}"
        )


def make(rng: Random, persona: str, request: SimRequest) -> BrokenReply:
    """Make a reply to `request`. One in eight is left whole."""
    asked = parse_request(request.body)
    latency = PRESETS["zero"]
    context = PersonaContext(Profile(persona, latency, words=rng.choice((1, 2, 3, 8))), 1_763_700_000, rng)
    reply = BrokenReply(persona, asked.stream, 0, {}, [])
    for action in PERSONAS[persona].answer(request, asked, context):
        match action:
            case Head(status, headers):
                reply.status, reply.headers = status, dict(headers)
            case Data(data):
                reply.events.append(data)
    if reply.stream != reply.headers["content-type"].startswith("text/event-stream"):
        raise ValueError(f"the persona refuses the request: {reply.events}")
    for breaker in rng.sample(BREAKERS, rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        breaker(rng, reply)
    _frame(rng, reply)
    return reply


# Values


def odd_value(rng: Random, reply: BrokenReply) -> None:
    """Change a value in one JSON text into another, leave it out, or send it twice."""
    if not reply.events:
        return
    at = rng.randrange(len(reply.events))
    head, data, tail = _payload(reply.events[at])
    broken = _broken(rng, data)
    if reply.stream:
        broken = broken.replace(b"\n", rng.choice((b"\ndata: ", b"\ndata: ", b"\n")))
    reply.events[at] = head + broken + tail
    _did(reply, "odd value")


def odd_finish(rng: Random, reply: BrokenReply) -> None:
    """Send invalid finish reasons everywhere: some servers write an empty one into every chunk."""
    odd = rng.choice((b'""', b"null", b'"error"', b"0", b'"banana"'))
    for name in (b'"finish_reason":', b'"stop_reason":'):
        everywhere = rng.random() < 0.5
        reply.events = [
            _with(event, name, odd, only=None if everywhere else b"null") for event in reply.events
        ]
    _did(reply, "odd finish")


def parts(rng: Random, reply: BrokenReply) -> None:
    """Send content as a list of parts, as Mistral writes thinking answers."""
    if reply.persona != "mistral":
        return
    at = rng.randrange(max(1, len(reply.events)))
    try:
        head, data, tail = _payload(reply.events[at])
        said = json.loads(data)
        choice = said["choices"][0]
        part = choice.get("delta") or choice["message"]
        text = part["content"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    part["content"] = [thinking, {"type": "text", "text": text}][rng.randrange(2) :]
    reply.events[at] = head + json.dumps(said, separators=(",", ":")).encode() + tail
    reply.told.append("parts")


# Events


def drop(rng: Random, reply: BrokenReply) -> None:
    """Leave an event out."""
    if reply.stream and reply.events:
        del reply.events[rng.randrange(len(reply.events))]
        _did(reply, "drop")


def twice(rng: Random, reply: BrokenReply) -> None:
    """Send an event twice, the second time anywhere."""
    if reply.stream and reply.events:
        event = rng.choice(reply.events)
        reply.events.insert(rng.randrange(len(reply.events) + 1), event)
        _did(reply, "twice")


def reorder(rng: Random, reply: BrokenReply) -> None:
    """Let two events change places, or all."""
    if len(reply.events) > 1:
        a, b = rng.sample(range(len(reply.events)), 2)
        reply.events[a], reply.events[b] = reply.events[b], reply.events[a]
        if rng.random() < 0.2:
            rng.shuffle(reply.events)
        _did(reply, "reorder")


def cut(rng: Random, reply: BrokenReply) -> None:
    """Stop the answer after any event; the ending follows."""
    if reply.stream:
        del reply.events[rng.randrange(len(reply.events) + 1) :]
        _did(reply, "cut")


def more(rng: Random, reply: BrokenReply) -> None:
    """Add an event that does not belong there: an error, an end, one of another dialect or another answer."""
    strangers: list[bytes] = [
        b"data: [DONE]\n\n",
        b"data: [DONE] \n\n",
        b"data:\n\n",
        b"data: {}\n\n",
        b"data: null\n\n",
        b"data: []\n\n",
        b'data: {"error":{"message":"Overloaded","type":"overloaded_error"}}\n\n',
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n',
        b'data: {"object":"error","message":"vLLM says no"}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"content":"second"},"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"stranger"},"finish_reason":null}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":null}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":1e9,"total_tokens":"x"}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"stranger"}}\n\n',
        b"<html><h1>502 Bad Gateway</h1></html>\n\n",
        b'{"error":{"message":"quota"}}\n\n',
    ]
    at = rng.choice((0, len(reply.events), rng.randrange(len(reply.events) + 1)))
    reply.events.insert(at, rng.choice(strangers))
    _did(reply, "more")


def nothing_much(rng: Random, reply: BrokenReply) -> None:
    """Add comments, retry lines, ids and pings, and events that say nothing: all of them must be ignored."""
    if not reply.stream:
        reply.events = [rng.choice((b"\n\n", b" \r\n\t")) + e for e in reply.events]
        reply.told.append("padding")
        return
    idle = (b": KEEP-ALIVE\n\n", b"\n", b"retry: 10\n\n", b"id: 7\n", b": x\n", b"event: nothing\n\n")
    idle += (b"event: ping\ndata: {}\n\n", b'data: {"type":"ping"}\n\n', b"data: : alive\n\n", b"data:\n\n")
    idle += (b"data: PROCESSING\n\n", b'data: {"status":"working","error":{}}\n\n', b"data: null\n\n")
    for _ in range(rng.randrange(1, 4)):
        reply.events.insert(rng.randrange(len(reply.events) + 1), rng.choice(idle))
    reply.told.append("nothing much")


def finish_everywhere(rng: Random, reply: BrokenReply) -> None:
    """Write a finish reason into every chunk: only `[DONE]` says then that the answer is whole."""
    if reply.stream and reply.persona != "anthropic":
        name = b'"finish_reason":'
        reply.events = [_with(event, name, b'"stop"', only=b"null") for event in reply.events]
        reply.told.append("finish everywhere")


def no_names(rng: Random, reply: BrokenReply) -> None:
    """Leave the `event:` lines out."""
    if reply.stream:
        reply.events = [event[event.find(b"data:") :] for event in reply.events]
        reply.told.append("no names")


def line_ends(rng: Random, reply: BrokenReply) -> None:
    """End lines by CRLF, CR, or all three mixed, where they mean the same."""
    if reply.stream:
        ends = rng.choice(((b"\r\n",), (b"\r",), (b"\n", b"\r\n"), (b"\n", b"\r", b"\r\n")))
        lines = b"".join(reply.events).split(b"\n")
        body = b"".join(line + rng.choice(ends) for line in lines[:-1]) + lines[-1]
        reply.events = [body]
        if len(ends) > 1:  # a CR and an LF that meet are one end of a line
            reply.harmless = False
        reply.told.append("line ends")


def endless(rng: Random, reply: BrokenReply) -> None:
    """Send a line or an event far over the limits."""
    size = rng.choice((10_000, 70_000, 300_000))
    shapes = (b"x" * size, b"data: " + b"y" * size, b"data: y\n" * (size // 8), b":" * size + b"\n")
    reply.events.insert(rng.randrange(len(reply.events) + 1), rng.choice(shapes))
    _did(reply, "endless")


# Bytes


def flip(rng: Random, reply: BrokenReply) -> None:
    """Change, add or remove bytes."""
    body = bytearray(b"".join(reply.events))
    for _ in range(rng.choice((1, 1, 2, 10))):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(4):
            case 0 if at < len(body):
                body[at] ^= 1 << rng.randrange(8)
            case 1:
                body[at:at] = rng.choice(
                    (b"\xff", b"\0", b"\xed\xa0\x80", b"\xc3", b"\n", b"\r", b"\n\n", b'"')
                )
            case 2:
                del body[at : at + rng.choice((1, 2, 20))]
            case _:
                body[at:at] = rng.randbytes(rng.randrange(1, 9))
    reply.events = [bytes(body)]
    _did(reply, "flip")


def cut_anywhere(rng: Random, reply: BrokenReply) -> None:
    """Stop the bytes anywhere, often near the end."""
    body = b"".join(reply.events)
    left = rng.randrange(len(body) + 1) if rng.random() < 0.5 else max(0, len(body) - rng.randrange(1, 200))
    reply.events = [body[:left]]
    _did(reply, "cut anywhere")


def marks(rng: Random, reply: BrokenReply) -> None:
    """Send a byte order mark, at the beginning or where it does not belong."""
    at = rng.choice((0, 0, len(reply.events), rng.randrange(len(reply.events) + 1)))
    reply.events.insert(at, b"\xef\xbb\xbf" * rng.choice((1, 1, 2)))
    _did(reply, "marks")


def compressed(rng: Random, reply: BrokenReply) -> None:
    """Send a compressed body that was not requested; labelled or not, whole or not."""
    body = gzip.compress(b"".join(reply.events), mtime=0)
    reply.events = [body[: rng.choice((len(body), len(body) // 2))] if rng.random() < 0.8 else body]
    if rng.random() < 0.7:
        reply.headers["content-encoding"] = rng.choice(("gzip", "GZIP", "br", "deflate, gzip"))
    _did(reply, "compressed")


# The outside


def status(rng: Random, reply: BrokenReply) -> None:
    """Send another status, with the body as it is or none; perhaps with a Retry-After."""
    reply.status = rng.choice(STATUSES)
    if rng.random() < 0.5:
        reply.headers[rng.choice(("retry-after", "retry-after-ms"))] = rng.choice(WAITS)
    if rng.random() < 0.5:
        errors = (
            b"error code: 1033",
            b'{"error":{"code":"context_length_exceeded"}}',
            b'{"error":5}',
            b"[" * 5000,
        )
        reply.events = [rng.choice((*errors, b'{"error":{"message":"' + b"m" * 999 + b'","code":[1]}}'))]
    _did(reply, "status")


def content_type(rng: Random, reply: BrokenReply) -> None:
    """Send another content type."""
    reply.headers["content-type"] = rng.choice(TYPES)
    _did(reply, "content type")


def ending(rng: Random, reply: BrokenReply) -> None:
    """End as a reply should not: closed, reset, hanging, broken framing."""
    reply.ending = rng.choice(ENDINGS)
    _did(reply, "ending")


def stall(rng: Random, reply: BrokenReply) -> None:
    """Send nothing before the head."""
    reply.before_head = (rng.choice((Wait(STALL_S), Wait(1.0), Hang(), Reset(), Close(), Raw(b"HTTP/9 \0"))),)
    _did(reply, "stall")


Breaker = Callable[[Random, BrokenReply], None]
BREAKERS: tuple[Breaker, ...] = (
    odd_value,
    odd_value,
    odd_finish,
    parts,
    drop,
    twice,
    reorder,
    cut,
    more,
    more,
)
BREAKERS += (
    nothing_much,
    nothing_much,
    finish_everywhere,
    no_names,
    line_ends,
    endless,
    flip,
    flip,
    cut_anywhere,
    marks,
)
BREAKERS += (compressed, status, content_type, ending, ending, stall)


def _frame(rng: Random, reply: BrokenReply) -> None:
    """Frame by length or chunks, rightly or wrongly; cut pieces anywhere; add pauses."""
    body = b"".join(reply.events)
    for name in [n for n in reply.headers if n.lower() == "content-length"]:
        del reply.headers[name]
    how = rng.random()
    if how < 0.3:
        reply.headers["content-length"] = str(len(body))
    elif how < 0.4:
        wrong = (len(body) + 7, max(0, len(body) - rng.randrange(1, 40)), 0, "x", "-5", 10**18)
        reply.headers["content-length"] = str(rng.choice(wrong))
        _did(reply, "wrong length")
    reply.pieces = _pieces(rng, body)
    reply.waits_s = [rng.choice((0, 0, 0, 0, 0.01)) for _ in reply.pieces]
    if reply.pieces and rng.random() < 0.05:
        reply.waits_s[rng.randrange(len(reply.pieces))] = STALL_S
        _did(reply, "pause")


def _pieces(rng: Random, body: bytes) -> list[bytes]:
    how = rng.random()
    if how < 0.3:
        return [body] if body else []
    if how < 0.4 and len(body) < 3000:
        return [body[i : i + 1] for i in range(len(body))]
    cuts = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice((1, 3, 10))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]


def _did(reply: BrokenReply, what: str) -> None:
    reply.told.append(what)
    reply.harmless = False


def _payload(event: bytes) -> tuple[bytes, bytes, bytes]:
    """Split an event: what stands before the JSON, the JSON, and what comes after it."""
    at = event.find(b"data: ")
    start = at + len(b"data: ") if at >= 0 else 0
    end = len(event) - 2 if event.endswith(b"\n\n") else len(event)
    return event[:start], event[start:end], event[end:]


def _with(event: bytes, name: bytes, value: bytes, only: bytes | None) -> bytes:
    for before in (b"null", b'"stop"', b'"end_turn"') if only is None else (only,):
        event = event.replace(name + before, name + value)
    return event


def _broken(rng: Random, data: bytes) -> bytes:
    try:
        said = json.loads(data)
        places = list(_places(said))
    except (ValueError, RecursionError):
        return data
    if not places:
        return data
    holder, key = rng.choice(places)
    raw: str | None = None
    match rng.randrange(5):
        case 0 | 1:
            holder[key] = rng.choice(ODD)
        case 2:
            holder[key], raw = "@raw@", rng.choice((*RAW, *(_deep(rng, depth) for depth in DEPTHS)))
        case 3:
            del holder[key]
        case _ if isinstance(holder, dict):
            holder[key + "@twice@"] = rng.choice((holder[key], *ODD))
        case _:
            holder.append(holder[key])
    text = json.dumps(said, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, None, 1)))
    text = text.replace('@twice@"', '"').replace('"@raw@"', raw or "null")
    return text.encode("utf-8", "surrogatepass")


def _deep(rng: Random, depth: int) -> str:
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return opening * depth + "1" + closing * depth


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
