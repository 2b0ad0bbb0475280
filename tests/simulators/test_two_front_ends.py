"""Real sockets and virtual time play the same scripts: a client cannot tell them apart."""

import asyncio
import json
from typing import Any

import pytest

from dub5.service.wire.base import Wire, WireFailure, WireRequest
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.ledger import LedgerLine
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.server.sockets import serve
from dub5.simulators.virtual import VirtualWire, run
from tests.support.play import ASK_ANTHROPIC, PATHS, provider

FAULTS: list[dict[str, Any]] = [
    {"kind": "slow", "factor": 1},
    {"kind": "status", "status": 530, "body": "cloudflare_1033_json"},
    {"kind": "cut", "after_tokens": 3, "how": "close"},
    {"kind": "cut", "after_tokens": 3, "how": "reset"},
    {"kind": "cut", "after_tokens": 3, "how": "error_event"},
    {"kind": "cut", "after_tokens": 3, "how": "end_without_finish"},
    {"kind": "garbage", "where": "json"},
    {"kind": "garbage", "where": "sse"},
    {"kind": "empty"},
    {"kind": "reset"},
    {"kind": "close"},
    {"kind": "close", "before": "first_token"},
    {"kind": "close", "before": "end"},
    {"kind": "reset", "before": "body"},
    {"kind": "notice"},
    {"kind": "sequence", "steps": ["cut:3"]},
    *({"kind": "broken", "how": how} for how in ("length_long", "utf8", "html", "text", "not_sse")),
]
GIVES_UP_EARLY = (
    "status_line",
    "chunk",
    "gzip",
    "no_content",
)  # the client leaves before the script has ended


async def met(wire: Wire, url: str, persona: str, stream: bool) -> tuple[object, ...]:
    """Return what a client receives: status, headers, body, and how it broke."""
    headers = {"anthropic-version": "2023-06-01"} if persona == "anthropic" else {}
    body = json.dumps({**ASK_ANTHROPIC, "stream": stream}).encode()
    status, told, received, broke = 0, {}, b"", ""
    try:
        async with asyncio.timeout(10):
            response = await wire.send(WireRequest("POST", url + PATHS[persona], headers, body))
            status = response.status
            told = {n: v for n, v in response.headers.items() if n not in ("transfer-encoding", "connection")}
            try:
                while data := await response.read():
                    received += data
            finally:
                await response.aclose()
    except WireFailure as failure:
        broke = f"{failure.stage} {failure.kind}"
    await wire.aclose()
    return status, told, received, broke


def struck(persona: str, fault: dict[str, Any]) -> SimulatedProvider:
    return provider(persona, parse_fault(fault))


async def on_sockets(one: SimulatedProvider, persona: str, stream: bool) -> tuple[object, ...]:
    async with serve(one) as server:
        return await met(NativeWire(), server.url, persona, stream)


async def on_virtual_time(one: SimulatedProvider, persona: str, stream: bool) -> tuple[object, ...]:
    return await met(VirtualWire({"http://one": one}), "http://one", persona, stream)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(map(str, fault.values())))
@pytest.mark.parametrize("persona", ["openai", "anthropic"])
def test_same_script(persona: str, fault: dict[str, Any], stream: bool) -> None:
    """Both front ends give the same status, headers and bytes, the same break at the same stage, the same
    ledger line."""
    real, virtual = struck(persona, fault), struck(persona, fault)

    assert asyncio.run(on_sockets(real, persona, stream)) == run(on_virtual_time(virtual, persona, stream))

    lines: list[list[LedgerLine]] = [one.ledger.lines() for one in (real, virtual)]
    assert lines[0] == lines[1] and len(lines[0]) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("how", GIVES_UP_EARLY)
def test_client_gives_up_early(how: str, stream: bool) -> None:
    """A client that sees at once that this is no HTTP sees the same on both front ends."""
    fault = {"kind": "broken", "how": how}
    real, virtual = struck("openai", fault), struck("openai", fault)
    on_real = asyncio.run(on_sockets(real, "openai", stream))
    assert on_real == run(on_virtual_time(virtual, "openai", stream))
    assert ("protocol" in str(on_real[3])) == (how != "no_content")
