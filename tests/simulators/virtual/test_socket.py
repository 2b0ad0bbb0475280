import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dub5.simulators.virtual import AppClient, AppFault, AppSocket, Closed

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": 4000, "reason": "enough"}


def now() -> float:
    return asyncio.get_running_loop().time()


def message(text: str) -> dict[str, Any]:
    return {"type": "websocket.send", "text": text}


def opened(app: App, *, buffer_bytes_max: int = 64) -> Any:
    return AppClient(app, lifespan=False, buffer_bytes_max=buffer_bytes_max).socket("/ws")


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Send back each text; "bye" closes."""
    assert (await receive())["type"] == "websocket.connect"
    await send(ACCEPT)
    while (given := await receive()).get("text", "bye") != "bye":
        await send(message(given["text"]))
    await send(CLOSE)


async def test_what_an_application_sees() -> None:
    """An application sees path, query, headers and subprotocols; the client what was chosen."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await receive()
        await send({**ACCEPT, "subprotocol": "b", "headers": [(b"x-id", b"7")]})
        await send(CLOSE)

    client = AppClient(app, headers={"origin": "http://testserver"}, lifespan=False)
    async with client.socket("/a%20b?x=1", headers={"cookie": "c"}, subprotocols=["a", "b"]) as socket:
        assert (socket.status, socket.subprotocol, socket.headers) == (101, "b", {"x-id": "7"})
        assert await socket.receive() == Closed(4000, "enough")
    assert (seen["type"], seen["scheme"], seen["path"], seen["query_string"]) == (
        "websocket",
        "ws",
        "/a b",
        b"x=1",
    )
    assert seen["subprotocols"] == ["a", "b"]
    assert dict(seen["headers"]) == {
        b"host": b"testserver",
        b"origin": b"http://testserver",
        b"cookie": b"c",
        b"sec-websocket-protocol": b"a, b",
    }


async def test_messages_both_ways() -> None:
    """Messages come in order, then the end that the application chose, however often it is asked for."""
    async with opened(echo) as socket:
        for text in ("one", "two", "bye", "late"):
            await socket.send(text)
        assert [await socket.receive() for _ in range(4)] == ["one", "two", *[Closed(4000, "enough")] * 2]


async def test_a_client_that_closes() -> None:
    """The application receives all messages, then the close; its `send` raises an OSError from then on."""
    received: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.sleep(1)
        received.append((await receive())["text"])
        received.append(await receive())
        with pytest.raises(OSError):
            await send(message("x"))
        await send(message("a server takes what it raises for the end"))

    async with opened(app) as socket:
        await socket.send("last words")
        await socket.close(1001, "away")
        assert await socket.receive() == Closed(1001, "away")
    assert received == ["last words", {"type": "websocket.disconnect", "code": 1001, "reason": "away"}]


async def test_a_client_that_leaves() -> None:
    """A lost connection is a disconnect with 1006, which overtakes messages that were not received."""
    received: list[Any] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.sleep(1)
        received.append(await receive())

    async with opened(app) as socket:
        await socket.send("lost")
    assert received == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


async def test_a_client_that_does_not_read() -> None:
    """The application's `send` waits while the buffer is full; it goes on once the client reads."""
    sent: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for _ in range(3):
            await send(message("x" * 40))
            sent.append(now())
        await send(CLOSE)

    async with opened(app) as socket:
        await asyncio.sleep(5)
        while isinstance(await socket.receive(), str):
            pass
    assert sent == [0, 0, 5]


async def test_an_application_that_does_not_read() -> None:
    """The client's `send` waits while the application leaves what came before."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.sleep(5)
        while (await receive())["type"] == "websocket.receive":
            pass

    async with opened(app) as socket:
        sent = []
        for _ in range(3):
            await socket.send("x" * 40)
            sent.append(now())
    assert sent == [0, 0, 5]


@pytest.mark.parametrize("with_body", [True, False])
async def test_a_refusal(with_body: bool) -> None:
    """A refusal has its status and body; without the extension it is 403."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        if not with_body:
            await send({"type": "websocket.close"})
            return
        assert "websocket.http.response" in scope["extensions"]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-id", b"7")]})
        await send({"type": "websocket.http.response.body", "body": b"n", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"o"})

    async with opened(app) as socket:
        assert (socket.status, socket.body) == ((401, b"no") if with_body else (403, b""))
        assert await socket.receive() == Closed(1006)


@pytest.mark.parametrize(
    "messages",
    [
        [message("x")],
        [ACCEPT, ACCEPT],
        [ACCEPT, {"type": "websocket.send", "bytes": b"x"}],
        [ACCEPT, {"type": "websocket.http.response.start", "status": 403}],
        [ACCEPT, CLOSE, message("x")],
        [ACCEPT, CLOSE, CLOSE],
        [{**ACCEPT, "headers": [(b"x", b"a\nb")]}],
        [{"type": "websocket.http.response.start", "status": 403}, CLOSE],
        [{"type": "websocket.http.response.start", "status": 403}],
        [],
    ],
)
async def test_an_application_that_breaks_the_order(messages: list[dict[str, Any]]) -> None:
    """What no server sends is a fault, even where the application has caught it."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        for one in messages:
            try:
                await send(one)
            except AppFault:
                return

    with pytest.raises(AppFault):
        async with opened(app) as socket:
            while not isinstance(await socket.receive(), Closed):
                pass


async def test_an_application_that_ends_without_closing() -> None:
    """The client sees a lost connection."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(message("x"))

    async with opened(app) as socket:
        assert [await socket.receive(), await socket.receive()] == ["x", Closed(1006)]


async def test_what_an_application_raises() -> None:
    """What the application raises is raised here."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ZeroDivisionError

    async def talk(socket: AppSocket) -> None:
        await socket.receive()

    with pytest.raises(ZeroDivisionError):
        async with opened(app) as socket:
            await talk(socket)


async def test_a_process_that_dies() -> None:
    """Its sockets are lost at once, both ways, and no new one is opened."""
    client = AppClient(echo, lifespan=False)
    async with client.socket("/ws") as socket:
        await socket.send("one")
        client.kill()
        assert await socket.receive() == Closed(1006)
    with pytest.raises(AppFault, match="process is dead"):
        async with client.socket("/ws"):
            pass
