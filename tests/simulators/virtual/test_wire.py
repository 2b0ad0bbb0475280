import asyncio
from collections.abc import Iterator

import pytest

from dub5.service.wire.base import FailureKind, Slots, Stage, Wire, WireFailure, WireRequest, WireResponse
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.script import (
    Action,
    Close,
    Data,
    End,
    Hang,
    Head,
    Raw,
    Reset,
    Respond,
    Script,
    SimRequest,
    Wait,
)
from dub5.simulators.server.sockets import serve
from dub5.simulators.virtual import Connect, Deadlock, VirtualWire, run

URL = "http://one.test:9001/v1/chat/completions"
CALL = WireRequest("POST", URL + "?x=1", {"authorization": "Bearer k"}, b"{}")
FRESH = WireRequest("POST", URL, {}, b"{}", fresh=True)
SIZED = Head(200, {"Content-Length": "4"})
WHOLE: list[Action] = [Head(), Data(b"data"), End()]


def plays(*actions: Action) -> Respond:
    return lambda request: (action for action in actions)


def now() -> float:
    return asyncio.get_running_loop().time()


async def whole(response: WireResponse) -> list[bytes]:
    pieces = []
    while data := await response.read():
        pieces.append(data)
    await response.aclose()
    return pieces


async def test_what_a_provider_sees() -> None:
    """A provider sees the method, the path without its query, the headers as they arrive, and the body."""
    seen: list[SimRequest] = []

    def respond(request: SimRequest) -> Script:
        seen.append(request)
        return iter(WHOLE)

    wire: Wire = VirtualWire({"http://one.test:9001": respond})
    await whole(await wire.send(CALL))
    assert (seen[0].method, seen[0].path, seen[0].body) == ("POST", "/v1/chat/completions", b"{}")
    assert seen[0].headers["authorization"] == "Bearer k"
    assert seen[0].headers["host"] == "one.test:9001"
    assert seen[0].headers["accept-encoding"] == "identity"


async def test_a_stream() -> None:
    """Headers come when the provider sends them, each piece at its time; what is ready together comes
    together."""
    script: list[Action] = [
        Wait(0.5),
        Head(201, {"X-A": "b"}),
        Data(b"1"),
        Wait(1),
        Data(b"2"),
        Data(b"3"),
        Wait(1),
        End(),
    ]
    response = await VirtualWire({URL: plays(*script)}).send(CALL)
    assert (now(), response.status, response.headers) == (0.5, 201, {"x-a": "b"})
    arrived = [(await response.read(), now()) for _ in range(4)]
    assert arrived == [(b"1", 0.5), (b"23", 1.5), (b"", 2.5), (b"", 2.5)]


async def test_a_slow_reader() -> None:
    """A provider keeps its own pace while the client does not read: what it sent meanwhile is ready at
    once."""
    tick: list[Action] = [Wait(1), Data(b".")]
    response = await VirtualWire({URL: plays(Head(), *tick * 6, End())}).send(CALL)
    await asyncio.sleep(3.5)
    assert (await response.read(), now()) == (b"...", 3.5)
    assert (await response.read(), now()) == (b".", 4.0)
    await response.aclose()


async def test_what_is_ready_after_odd_waits() -> None:
    """Pieces due at one time come together, though the sum of the waits differs by a rounding error."""
    script: list[Action] = [Wait(0.1), Head(), Wait(0.2), Data(b"1"), Data(b"2"), End()]
    assert await whole(await VirtualWire({URL: plays(*script)}).send(CALL)) == [b"12"]


async def test_an_endless_burst() -> None:
    """A provider that never pauses is read in bounded pieces."""

    def endless(request: SimRequest) -> Iterator[Action]:
        yield Head()
        while True:
            yield Data(b"x" * 1000)

    response = await VirtualWire({URL: endless}).send(CALL)
    assert len(await response.read()) < 70_000
    await response.aclose()


BROKEN: dict[str, tuple[list[Action], Stage, FailureKind]] = {
    "reset before the head": ([Wait(1), Reset()], Stage.WAIT, FailureKind.RESET),
    "close before the head": ([Close()], Stage.WAIT, FailureKind.CLOSED),
    "end before the head": ([End()], Stage.WAIT, FailureKind.CLOSED),
    "nothing at all": ([], Stage.WAIT, FailureKind.CLOSED),
    "no status line": ([Raw(b"garbage")], Stage.WAIT, FailureKind.PROTOCOL),
    "a length that is no number": ([Head(200, {"content-length": "x"})], Stage.WAIT, FailureKind.PROTOCOL),
    "reset in the body": ([Head(), Data(b"da"), Reset()], Stage.BODY, FailureKind.RESET),
    "close in the body": ([Head(), Data(b"da"), Close()], Stage.BODY, FailureKind.CLOSED),
    "close in a sized body": ([SIZED, Data(b"da"), Close()], Stage.BODY, FailureKind.CLOSED),
    "end short of the length": ([SIZED, Data(b"da"), End()], Stage.BODY, FailureKind.CLOSED),
    "a script that just stops": ([Head(), Data(b"da")], Stage.BODY, FailureKind.CLOSED),
    "broken chunks": ([Head(), Data(b"da"), Wait(1), Raw(b"zz")], Stage.BODY, FailureKind.PROTOCOL),
    "compressed": ([Head(200, {"content-encoding": "gzip"}), *WHOLE[1:]], Stage.BODY, FailureKind.PROTOCOL),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_script_that_breaks(name: str) -> None:
    """Each fault has its stage and kind; bytes before it are delivered; slot and connection are released."""
    script, stage, kind = BROKEN[name]
    slots = Slots(per_origin_max=1)
    wire = VirtualWire({URL: plays(*script)}, slots=slots)
    pieces = []
    with pytest.raises(WireFailure) as broken:
        response = await wire.send(CALL)
        while data := await response.read():
            pieces.append(data)
    assert (broken.value.stage, broken.value.kind, broken.value.sent) == (stage, kind, True)
    assert pieces == ([b"da"] if Data(b"da") in script else [])
    assert wire.link(URL).idle == 0
    (await slots.take(CALL.origin, 0)).free()


WAYS = {
    "refused": (Connect.REFUSED, 0.1, 0.1, Stage.CONNECT, FailureKind.REFUSED),
    "slow": (Connect.OPENS, 9, 3, Stage.CONNECT, FailureKind.TIMEOUT),
    "stalled": (Connect.STALLS, 0, 3, Stage.CONNECT, FailureKind.TIMEOUT),
    "unresolved": (Connect.UNRESOLVED, 0, 0, Stage.RESOLVE, FailureKind.REFUSED),
}


@pytest.mark.parametrize("name", WAYS)
async def test_no_connection(name: str) -> None:
    """When no connection opens, nothing was sent, the connect timeout holds, and the slot is free again."""
    connect, connect_s, ends_s, stage, kind = WAYS[name]
    slots = Slots(per_origin_max=1)
    wire = VirtualWire({URL: plays(*WHOLE)}, slots=slots)
    wire.link(URL).connect, wire.link(URL).connect_s = connect, connect_s
    with pytest.raises(WireFailure) as broken:
        await wire.send(CALL)
    assert (broken.value.stage, broken.value.kind, broken.value.sent) == (stage, kind, False)
    assert now() == ends_s
    (await slots.take(CALL.origin, 0)).free()


async def test_an_unknown_host() -> None:
    """An unknown host does not resolve; the error names the known ones."""
    with pytest.raises(WireFailure, match=r"providers: http://one\.test:9001") as broken:
        await VirtualWire({URL: plays()}).send(WireRequest("GET", "http://two.test/", {}, b""))
    assert broken.value.stage is Stage.RESOLVE


async def test_no_slot() -> None:
    """The pool timeout holds; the end of a body, or aclose, frees the slot."""
    wire = VirtualWire({URL: plays(*WHOLE)}, slots=Slots(per_origin_max=1))
    first = await wire.send(CALL)
    with pytest.raises(WireFailure) as broken:
        await wire.send(CALL)
    assert (broken.value.stage, broken.value.kind, now()) == (Stage.POOL, FailureKind.TIMEOUT, CALL.pool_s)
    await first.aclose()
    await first.aclose()
    assert await whole(await wire.send(CALL)) == [b"data"]
    assert await whole(await wire.send(CALL)) == [b"data"]


ENDS: dict[str, tuple[list[Action], int]] = {
    "chunks": ([Head(), Data(b"data"), End()], 1),
    "length": ([SIZED, Data(b"data"), End()], 1),
    "length, then a late end": ([SIZED, Data(b"data"), Wait(5), End()], 1),
    "no body": ([Head(204), End()], 1),
    "length, then close": ([SIZED, Data(b"data"), Close()], 0),
    "length, then more": ([SIZED, Data(b"data and more"), End()], 0),
    "connection: close": ([Head(200, {"connection": "Close"}), Data(b"data"), End()], 0),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_body_that_ends(name: str) -> None:
    """A body is whole as soon as the framing says so; the connection is kept only after a proper end."""
    script, idle = ENDS[name]
    wire = VirtualWire({URL: plays(*script)})
    assert b"".join(await whole(await wire.send(CALL))) == (b"" if name == "no body" else b"data")
    assert (wire.link(URL).idle, now()) == (idle, 0)


async def test_a_connection_kept_alive() -> None:
    """A kept connection serves the next call, but not one that wants a fresh connection; an aborted one is
    not kept."""
    wire = VirtualWire({URL: plays(*WHOLE)})
    wire.link(URL).connect_s = 0.25
    reused = []
    for request in [CALL, CALL, FRESH, CALL]:
        response = await wire.send(request)
        reused.append(response.reused)
        await whole(response)
    assert (reused, now()) == ([False, True, False, True], 0.5)
    assert wire.link(URL).idle == 2
    await (await wire.send(CALL)).aclose()
    assert wire.link(URL).idle == 1


async def test_a_reader_that_stops_at_the_length() -> None:
    """A reader that stops at the content-length has the whole body: its connection is kept."""
    wire = VirtualWire({URL: plays(SIZED, Data(b"data"), End())})
    response = await wire.send(CALL)
    await response.read()
    await response.aclose()
    assert wire.link(URL).idle == 1


async def test_a_stale_connection() -> None:
    """A stale connection breaks without a byte and is reported as reused; a fresh one works."""
    wire = VirtualWire({URL: plays(*WHOLE)}, slots=Slots(per_origin_max=1))
    await whole(await wire.send(CALL))
    wire.link(URL).stale = True
    with pytest.raises(WireFailure) as broken:
        await wire.send(CALL)
    assert (broken.value.kind, broken.value.reused) == (FailureKind.CLOSED, True)
    assert await whole(await wire.send(FRESH)) == [b"data"]


def test_a_hang() -> None:
    """A hang lasts for ever: a timeout of the caller has to end it."""

    async def call() -> None:
        await VirtualWire({URL: plays(Hang())}).send(CALL)

    async def with_a_clock() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await call()
        return now()

    assert run(with_a_clock()) == 10
    with pytest.raises(Deadlock):
        run(call())


async def test_a_wire_that_is_closed() -> None:
    """Closing a wire ends the responses that are being read."""
    wire = VirtualWire({URL: plays(Head(), Hang())})
    response = await wire.send(CALL)
    asyncio.get_running_loop().call_later(1, lambda: asyncio.ensure_future(wire.aclose()))
    with pytest.raises(WireFailure) as broken:
        await response.read()
    assert (broken.value.kind, now()) == (FailureKind.CLOSED, 1)


async def call_that_leaves(wire: VirtualWire, slots: Slots, told: list[str]) -> None:
    """Wait for a slot, connect, read all; check that nothing is left of the call."""
    holder = await slots.take(CALL.origin, 0)
    asyncio.get_running_loop().call_later(0.5, holder.free)

    async def call() -> None:
        await whole(await wire.send(CALL))

    task = asyncio.create_task(call(), name="caller")
    await asyncio.wait([task])
    await asyncio.sleep(1)
    (await slots.take(CALL.origin, 0)).free()
    assert not wire._open
    told.append("cancelled" if task.cancelled() else "ended")


def test_leaving_at_any_moment() -> None:
    """A call cancelled after any step frees its slot, closes its script and leaves nothing open."""
    stories = set()
    for step in range(1000):
        told: list[str] = []
        wire, slots = VirtualWire({URL: tells(told)}), Slots(per_origin_max=1)
        wire.link(URL).connect_s = 0.5
        steps = 0

        def cancel_at(at_ns: int, name: str, step: int = step) -> None:
            nonlocal steps
            steps += 1
            if steps == step:
                for task in asyncio.all_tasks():
                    if task.get_name() == "caller":
                        task.cancel()

        run(call_that_leaves(wire, slots, told), on_step=cancel_at)
        stories.add(tuple(told))
        if steps < step:
            break
    else:
        pytest.fail("the call never came to its own end")
    assert stories == {
        ("cancelled",),
        ("asked", "closed", "cancelled"),
        ("asked", "head", "closed", "cancelled"),
        ("asked", "head", "body", "closed", "cancelled"),
        ("asked", "head", "body", "whole", "closed", "ended"),
    }


def tells(told: list[str]) -> Respond:
    def respond(request: SimRequest) -> Iterator[Action]:
        told.append("asked")
        try:
            yield Wait(1)
            told.append("head")
            yield Head()
            yield Wait(1)
            yield Data(b"1")
            told.append("body")
            yield Wait(1)
            told.append("whole")
            yield End()
        finally:
            told.append("closed")

    return respond


async def story(wire: Wire, url: str, *, calls: int) -> list[object]:
    """Return the results of calls: whether the connection was reused, status, body, and how it broke."""
    told: list[object] = []
    try:
        for _ in range(calls):
            response = await wire.send(WireRequest("POST", url, {}, b"{}"))
            told += [response.reused, response.status, b"".join(await whole(response))]
    except WireFailure as broken:
        told.append((broken.stage, broken.kind, broken.sent, broken.reused))
    await wire.aclose()
    return told


TOLD_APART_BY_CHANCE = "length, then more"  # real bytes of two kinds may come in one packet


@pytest.mark.real_sockets
@pytest.mark.parametrize("name", sorted((BROKEN.keys() | ENDS) - {TOLD_APART_BY_CHANCE}))
async def test_real_sockets(name: str) -> None:
    """Real sockets play the same scripts to the same end as the virtual network."""
    script = BROKEN[name][0] if name in BROKEN else ENDS[name][0]
    actions = [Wait(0.02) if isinstance(action, Wait) else action for action in script]
    calls = 2 if End() in actions else 1
    async with serve(plays(*actions)) as server:
        virtual = VirtualWire({server.url: plays(*actions)})
        assert await story(NativeWire(), server.url, calls=calls) == await story(
            virtual, server.url, calls=calls
        )
