"""Name lookup, port and handshake fail alike on real sockets and in virtual time; open connections stay."""

import asyncio
import contextlib
import json
import random
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dub5.service.wire.base import FailureKind, Stage, Wire, WireFailure, WireRequest, WireResponse
from dub5.service.wire.httpx_wire import HttpxWire
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.faults.answers import BadFault, parse_fault
from dub5.simulators.provider import SimulatedProvider, make
from dub5.simulators.server.sockets import serve
from dub5.simulators.server.tls import Certificates, certificates
from dub5.simulators.settings import build
from dub5.simulators.virtual import VirtualWire, run
from tests.support.play import ASK

WAIT_S = 0.3  # for what never arrives
REFUSED = {"kind": "unreachable"}
STALL = {"kind": "stall", "before": "end"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops a SYN when the backlog is full")


def unreachable(stage: str, how: str, **more: Any) -> dict[str, Any]:
    return {"kind": "unreachable", "stage": stage, "how": how, **more}


def provider(*faults: dict[str, Any]) -> SimulatedProvider:
    table = {"name": "one", "persona": "openai", "fault": list(faults)}
    file = {"latency": "zero", "provider": [table]}
    return make(build(file), now=asyncio.get_running_loop().time)[0]["one"]


@pytest.fixture(scope="module")
def tls() -> Iterator[Certificates]:
    with certificates() as made:
        yield made


def request(url: str, connect_s: float = WAIT_S, *, fresh: bool = False, stream: bool = False) -> WireRequest:
    body = json.dumps({**ASK, "stream": stream}).encode()
    return WireRequest("POST", f"{url}/v1/chat/completions", {}, body, connect_s=connect_s, fresh=fresh)


async def read(response: WireResponse) -> bytes:
    received = b""
    try:
        while data := await response.read():
            received += data
    finally:
        await response.aclose()
    return received


async def met(wire: Wire, url: str, **how: Any) -> str:
    """Return the status, or how the call broke."""
    try:
        async with asyncio.timeout(30):
            response = await wire.send(request(url, **how))
            await read(response)
    except WireFailure as failure:
        return f"{failure.stage} {failure.kind}{' sent' if failure.sent else ''}"
    return str(response.status)


def trusting(made: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=made.ca_file)


CASES = {
    "port refuses": (REFUSED, "connect refused"),
    "port is deaf": (unreachable("connect", "stall"), "connect timeout"),
    "handshake closed": (unreachable("tls", "close"), "connect closed"),
    "handshake reset": (unreachable("tls", "reset"), "connect reset"),
    "handshake stalls": (unreachable("tls", "stall"), "connect timeout"),
    "handshake is garbage": (unreachable("tls", "garbage"), "connect protocol"),
    "certificate expired": (unreachable("tls", "expired"), "connect protocol"),
    "certificate of another": (unreachable("tls", "wrong_name"), "connect protocol"),
    "first two": (unreachable("tls", "garbage", first=2), "connect protocol"),
    "share": (unreachable("tls", "garbage", share=0.5), "connect protocol"),
    "sequence": (
        {
            "kind": "sequence",
            "steps": ["ok", "unreachable:tls:garbage", "status:500", "unreachable:tls:expired"],
        },
        "connect protocol",
    ),
}
TRIES = 6


async def tries(wire: Wire, one: SimulatedProvider, url: str, count: int) -> list[object]:
    """Return what each call on a new connection meets, then without the fault, and the counters."""
    found: list[object] = [await met(wire, url, fresh=True) for _ in range(count)]
    found += [(known.seen, known.applied) for known in one.faults]
    one.clear_faults()
    found.append(await met(wire, url, connect_s=5, fresh=True))
    await wire.aclose()
    return found


@pytest.mark.parametrize("name", [pytest.param(n, marks=linux) if "deaf" in n else n for n in CASES])
def test_same_on_both(name: str, tls: Certificates) -> None:
    """A new connection fails at the same stage in the same way, equally often, with nothing sent, on both
    wires."""
    fault, told = CASES[name]
    count = TRIES if {"first", "share", "steps"} & fault.keys() else 1
    secure = "connect" not in fault.get("stage", "connect") or "steps" in fault

    async def on_sockets() -> list[object]:
        one = provider(fault)
        async with serve(one, tls=tls if secure else None) as server:
            return await tries(NativeWire(tls=trusting(tls)), one, server.url, count)

    async def on_virtual_time() -> list[object]:
        one, url = provider(fault), "https://one" if secure else "http://one"
        return await tries(VirtualWire({url: one}), one, url, count)

    real, virtual = asyncio.run(on_sockets()), run(on_virtual_time())
    if not secure:  # the kernel does not say how often it refused
        assert real.pop(1) == (0, 0) and virtual.pop(1) == (1, 1)
    assert real == virtual
    assert told in real and real[-1] == "200"
    if count > 1:
        assert "200" in real[:count]


@pytest.mark.real_sockets
@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("handshake", "certificate"))])
async def test_the_other_wire(name: str, tls: Certificates) -> None:
    """httpx sees a handshake fail in the same way."""
    fault, told = CASES[name]
    wire = HttpxWire(tls=trusting(tls))
    async with serve(provider(fault), tls=tls) as server:
        assert await met(wire, server.url, fresh=True) == told
    await wire.aclose()


async def test_name_does_not_resolve() -> None:
    """In virtual time a lookup fails, or takes for ever."""
    one = provider(unreachable("resolve", "refused", first=1))
    wire = VirtualWire({"http://one": one})
    assert [await met(wire, "http://one") for _ in range(2)] == ["resolve refused", "200"]
    one.set_fault(parse_fault(unreachable("resolve", "stall")))
    assert await met(wire, "http://one", fresh=True) == "resolve timeout"


async def test_a_dropped_syn_is_sent_again() -> None:
    """A client that still waits when the port listens again is connected within a second."""
    one = provider(unreachable("connect", "stall", for_s=2.5))
    assert await met(VirtualWire({"http://one": one}), "http://one", connect_s=5) == "200"
    assert asyncio.get_running_loop().time() == 3


@contextlib.asynccontextmanager
async def reached(kind: str, *faults: dict[str, Any]) -> AsyncIterator[tuple[SimulatedProvider, Wire, str]]:
    """Run a provider; yield it and a wire to it: of real sockets, or virtual."""
    one = provider(*faults)
    async with contextlib.AsyncExitStack() as stack:
        wire: Wire = VirtualWire({"http://one": one})
        url = "http://one"
        if kind == "sockets":
            wire, url = NativeWire(), (await stack.enter_async_context(serve(one))).url
        yield one, wire, url
        await wire.aclose()


async def open_ones(kind: str, **more: Any) -> list[str]:
    """Return what an idle connection and a stream under way meet when the port begins to refuse."""
    found = []
    async with reached(kind) as (one, wire, url):
        found.append(await met(wire, url))
        one.set_fault(parse_fault(STALL))
        streaming = await wire.send(request(url, fresh=True, stream=True))
        found.append(str(streaming.status))
        one.clear_faults()
        one.set_fault(parse_fault(unreachable("connect", "refused", **more)))
        if more:
            try:
                async with asyncio.timeout(5):
                    await read(streaming)
            except WireFailure as failure:
                found.append(f"{failure.stage} {failure.kind}")
        found.append(await met(wire, url))
        found.append(await met(wire, url, fresh=True))
        await streaming.aclose()
        one.clear_faults()
        found.append(await met(wire, url, fresh=True))
        found.append(" ".join(line.ended for line in one.ledger.lines()))
    return found


@pytest.mark.parametrize("closes", [False, True])
def test_open_connections(closes: bool) -> None:
    """Open connections stay while new ones are refused; only `closes_open` cuts them, busy or idle."""
    more = {"closes_open": True} if closes else {}
    real, virtual = asyncio.run(open_ones("sockets", **more)), run(open_ones("virtual", **more))
    if closes:
        expected = ["200", "200", "body closed", "connect refused", "connect refused", "200", "end cut end"]
    else:
        expected = ["200", "200", "200", "connect refused", "200", "end end client_left end"]
    assert real == virtual == expected


async def test_windows_close_what_is_open() -> None:
    """Each window cuts open connections anew: a call that hangs is cut when the next window opens."""
    one = provider(unreachable("connect", "refused", closes_open=True, at_s=10, for_s=1, every_s=20))
    loop, wire = asyncio.get_running_loop(), VirtualWire({"http://one": one})
    assert await met(wire, "http://one") == "200"
    assert wire.link("http://one").idle == 1
    await asyncio.sleep(12)
    after = await wire.send(request("http://one"))
    assert not after.reused
    await read(after)
    one.add_fault(parse_fault({"kind": "stall", "before": "head"}), random.Random(0))
    assert await met(wire, "http://one") == "wait closed sent"
    assert loop.time() == 30
    one.clear_faults()


async def test_heals_without_another_loss() -> None:
    """When a fault with `closes_open` is cleared, connections opened after its outage stay."""
    one = provider(unreachable("connect", "refused", closes_open=True, for_s=1))
    wire = VirtualWire({"http://one": one})
    await asyncio.sleep(2)
    assert await met(wire, "http://one") == "200"
    one.clear_faults()
    again = await wire.send(request("http://one"))
    assert again.reused
    await read(again)


@pytest.mark.real_sockets
async def test_port_comes_and_goes() -> None:
    """A drawn or timed outage closes the port and opens the same one again, by itself."""
    wire = NativeWire()
    one = provider()
    async with serve(one) as server:
        one.set_fault(parse_fault(unreachable("connect", "refused", for_s=0.1)))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(5):
            while await met(wire, server.url, fresh=True) != "200":
                pass
        await wire.aclose()


class TestRefused:
    @pytest.mark.real_sockets
    @pytest.mark.parametrize(
        "fault, words",
        [
            (unreachable("resolve", "refused"), "under `.invalid`"),
            (unreachable("tls", "expired"), "start it with `tls = true`"),
            (unreachable("connect", "refused", share=0.5), "leave out `share`"),
            (unreachable("connect", "stall", first=1), "leave out `share`"),
            ({"kind": "sequence", "steps": ["ok", "unreachable:tls:reset"]}, "speaks plain http"),
            ({"kind": "sequence", "steps": ["unreachable:"]}, "and sequences"),
        ],
        ids=str,
    )
    async def test_on_sockets(self, fault: dict[str, Any], words: str) -> None:
        """A fault that real sockets cannot play is rejected with the reason, at once and at the start."""
        one = provider()
        async with serve(one):
            one.set_fault(parse_fault({"kind": "empty"}))
            for attempt in (one.set_fault, lambda f: one.set_faults([f])):
                with pytest.raises(BadFault) as caught:
                    attempt(parse_fault(fault))
                assert words in str(caught.value)
            assert [known.fault.kind for known in one.faults] == ["empty"]
        with pytest.raises(BadFault):
            async with serve(provider(fault)):
                pass

    async def test_on_the_virtual_wire(self) -> None:
        """Without https the virtual wire has no handshake to fail."""
        one = provider()
        VirtualWire({"http://one": one})
        with pytest.raises(BadFault, match="give VirtualWire an https url"):
            one.set_fault(parse_fault("unreachable:tls:reset"))

    @pytest.mark.parametrize(
        "fields, words",
        [
            ({"stage": "tls"}, "`how` of `tls` is one of close, reset, stall"),
            ({"how": "garbage"}, "`how` of `connect` is one of refused, stall"),
            ({"stage": "resolve", "closes_open": True}, "needs the stage `connect`"),
            ({"model": "m"}, "before a `model` is named"),
        ],
        ids=str,
    )
    def test_anywhere(self, fields: dict[str, Any], words: str) -> None:
        """A contradictory fault is rejected when it is read."""
        with pytest.raises(BadFault) as caught:
            parse_fault({"kind": "unreachable", **fields})
        assert words in str(caught.value)

    @pytest.mark.parametrize("more", [{"model": "m"}, {"steps": [{**REFUSED, "closes_open": True}]}], ids=str)
    def test_steps(self, more: dict[str, Any]) -> None:
        """A sequence with a contradictory step is rejected when it is read."""
        with pytest.raises(BadFault, match="neither `closes_open` nor `model`"):
            parse_fault({"kind": "sequence", "steps": ["unreachable:"], **more})


async def test_step_waits_for_a_connection() -> None:
    """A POST on an open connection uses up no step for new connections."""
    one = provider({"kind": "sequence", "steps": ["ok", "unreachable:", "status:500"]})
    wire = VirtualWire({"http://one": one})
    found = [await met(wire, "http://one", fresh=fresh) for fresh in (False, False, True, False)]
    assert found == ["200", "200", "connect refused", "500"]


async def test_chance_of_the_rest_stays_the_same() -> None:
    """A connection fault that hits no connection changes no answer."""

    async def bodies(*faults: dict[str, Any]) -> list[str]:
        one = provider({"kind": "status", "status": 500, "share": 0.5}, *faults)
        wire = VirtualWire({"http://one": one})
        return [await met(wire, "http://one", fresh=True) for _ in range(20)]

    plain = await bodies()
    assert {"200", "500"} == set(plain) and await bodies({**REFUSED, "share": 0.0}) == plain


def test_stage_and_kind_are_the_wires() -> None:
    """Stages and kinds have the names of dub5.service.wire.base."""
    for _, told in CASES.values():
        stage, kind = told.split()
        assert Stage(stage) and FailureKind(kind)
