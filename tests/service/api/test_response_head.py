"""The head of a response: whatever callers name their fields, it is short, and each header is one line."""

import asyncio
import json
import re
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.api.peer import AsgiPeer
from dub5.service.api.response import ResponseWriter
from dub5.service.api.stream import trail_header
from dub5.service.app import Service
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
)
from dub5.service.gateway import Answer
from dub5.service.model import AttemptRecord, Reply
from dub5.service.timeouts import Timeouts
from dub5.simulators.script import Data, End, Head, Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, VirtualWire, run
from tests.support.play import provider
from tests.support.world import ServiceWorld, healthy, status

FORGED = "x, two/m=ok;1ms\r\nset-cookie: a=b\x00"


def client_of(*dialects: str, **providers: Respond) -> AppClient:
    urls = {name: f"http://{name}.test/v1" for name in dialects}
    settings = Settings(
        server=ServerSettings(),
        provider=tuple(ProviderSettings(n, n, urls[n]) for n in dialects),  # type: ignore[arg-type]
        route=(RouteSettings("chat", tuple(f"{name}/m" for name in dialects)),),
    )
    keys = {name: (Secret("sk"),) for name in dialects}
    usual = {name: healthy() if name == "openai" else provider(name) for name in dialects}
    wire = VirtualWire({urls[name]: respond for name, respond in (usual | providers).items()})
    return AppClient(Service(LoadedSettings(settings, keys, ()), wire=wire, seed="test").asgi)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        {FORGED: 1},
        {"messages": [{"role": "user", "content": "Hi", FORGED: 1}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", FORGED: 1}]}]},
        {"messages": [{"role": "user", "content": [{"type": FORGED, "text": "Hi"}]}]},
        {"stream_options": {FORGED: 1}},
        {f"{FORGED}{n}" + "n" * 60: n for n in range(200)},
    ],
    ids=["field", "message", "part", "type", "option", "many"],
)
@pytest.mark.parametrize("first", ["mistral", "anthropic"])
async def test_names_of_fields(first: str, fields: dict[str, Any], stream: bool) -> None:
    """No name of a field forges a line of the trail, or breaks the head, which the client would refuse."""
    async with client_of(first, "openai") as client:
        sent = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
        answer = await client.request("POST", "/v1/chat/completions", json=sent)
    assert "two/m" not in answer.headers.get("x-dub5-trail", "").replace("two?m", "")
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers.items()) < 2048


async def test_a_field_that_cannot_be_read() -> None:
    """The name of a field with a value that no dialect can read stays out of the head, too."""
    async with client_of("anthropic", "openai") as client:
        sent = b'{"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "a\\r\\nb": 1e999}'
        answer = await client.request(
            "POST", "/v1/chat/completions", body=sent, headers={"content-type": "application/json"}
        )
    assert answer.status == 200
    assert answer.headers["x-dub5-trail"].startswith("anthropic/m=unsupported_a??b;0ms, ")


def record(number: int, reason: str = "http_503") -> AttemptRecord:
    return AttemptRecord(f"provider-{number}/a-model-with-a-long-name", 0.0, 1.0, reason)


def test_a_long_trail() -> None:
    """Fifty failed targets fit into a head of 4 KiB: the first ones and the one that answered are named."""
    trail = [*map(record, range(50)), record(50, "ok")]
    line = trail_header(trail, Answer("provider-50/x", reply=Reply(b"")), 1.0)
    entries = line.split(", ")
    assert len(line) <= 1024
    assert entries[0].startswith("provider-0/") and entries[-1].startswith("provider-50/")
    assert int(entries[-2].removeprefix("+")) + len(entries) - 1 == 51


async def test_fifty_targets() -> None:
    """A request that the last of thirty targets answers has a head that every proxy takes."""
    world = ServiceWorld(**{f"provider{n}": status(503) for n in range(30)}, last=healthy())
    async with world:
        answer = await world.ask()
    assert answer.status == 200
    assert len(answer.headers["x-dub5-trail"]) <= 1024
    assert "last/m=ok" in answer.headers["x-dub5-trail"]


ODD = st.one_of(
    st.text(max_size=20),
    st.sampled_from(("\r\n", "\0", "a\r\nset-cookie: b=c", ", two/m=ok;1ms", "\x85\u2028", "\ud800", " ")),
)
ENTRY = re.compile(
    r"(?:openai|mistral|anthropic)/m=[][A-Za-z0-9_.?-]+;\d+ms(?:;dropped:[][A-Za-z0-9_.?+-]+)?"
)


def read_by_h11(status_code: int, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers as another parser reads them of the bytes of the head."""
    lines = [b"HTTP/1.1 %d X" % status_code, *(b"%b: %b" % header for header in headers)]
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=100_000)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    return list(head.headers)


@given(values=st.lists(ODD, min_size=1, max_size=4), stream=st.booleans())
def test_values_of_any_text(values: list[str], stream: bool) -> None:
    """Whatever a value holds, each header is one line that every parser takes, in Latin-1."""
    headers = {f"x-{n}": value for n, value in enumerate(values)} | {"content-length": "2"}
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        sent.append(message)

    async def respond() -> None:
        timeouts = Timeouts(asyncio.get_running_loop().time() + 10)
        writer = ResponseWriter("req", AsgiPeer(receive, send), timeouts, 10)
        await (writer.send_heartbeat(headers) if stream else writer.send_json(200, headers, b"{}"))

    run(respond(), seed=1)
    head = sent[0]["headers"]
    assert [(name, value.strip(b" ")) for name, value in head] == read_by_h11(200, head)
    assert len(head) == len(headers) + 3 * stream


@given(
    names=st.lists(ODD.filter(lambda name: name not in ("model", "messages", "stream")), max_size=3),
    model=st.one_of(st.just("chat"), ODD),
    own_id=ODD,
    told=ODD,
    code=st.sampled_from((200, 400, 404, 429, 503)),
    stream=st.booleans(),
)
def test_drawn_names(names: list[str], model: str, own_id: str, told: str, code: int, stream: bool) -> None:
    """No name, id or model of a caller, and no word of a provider, adds a header or an entry of the trail."""

    def telling(request: SimRequest) -> Script:
        error = {
            "error": {"message": told, "type": told, "code": told, "param": told},
            "model": told,
            "id": told,
        }
        yield Head(code, {"content-type": "application/json", "retry-after": told, "x-request-id": told})
        yield Data(json.dumps(error).encode())
        yield End()

    async def ask() -> tuple[int, list[tuple[bytes, bytes]]]:
        async with client_of("mistral", "anthropic", "openai", mistral=telling) as client:
            part = {"type": "text", "text": "Hi"} | dict.fromkeys(names, 1)
            message = {"role": "user", "content": [part], **dict.fromkeys(names, "x")}
            sent = {**dict.fromkeys(names, 1), "model": model, "messages": [message], "stream": stream}
            headers = {"x-request-id": own_id.encode("latin-1", "replace").decode("latin-1")}
            reply = await client.request("POST", "/v1/chat/completions", json=sent, headers=headers)
            return reply.status, [(n.encode(), v.encode("latin-1")) for n, v in reply.headers.items()]

    code, head = run(ask(), seed=1)
    read = dict(read_by_h11(code, head))
    assert len(read) == len(head)
    assert b"set-cookie" not in read
    for entry in read.get(b"x-dub5-trail", b"").decode().split(", "):
        assert not entry or ENTRY.fullmatch(entry), entry
