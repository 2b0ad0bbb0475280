import asyncio
import contextvars
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from litestar import Litestar, get
from litestar.response import Stream

from dub5.simulators.virtual import AppClient, AppFault, Trace, run

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": []}


def now() -> float:
    return asyncio.get_running_loop().time()


def body(data: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def ticks(scope: Any, receive: Receive, send: Send) -> None:
    """Send one byte a second, five times."""
    await send(START)
    for number in range(5):
        await send(body(str(number).encode()))
        await asyncio.sleep(1)
    await send(body(b"", more=False))


async def test_what_an_application_sees() -> None:
    """An application sees the raw path and the decoded one, the query, lower-case headers, the body and the
    client."""
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        message = await receive()
        seen.update(scope, message=message)
        start = {**START, "status": 201, "headers": [(b"X-Twice", b"a"), (b"x-twice", b"b")]}
        await send(start)
        await send({"type": "http.response.body", "body": b'{"ok": true}'})

    client = AppClient(app, client=("10.0.0.9", 4711), headers={"authorization": "k"}, lifespan=False)
    answer = await client.request("PUT", "/a%20b?x=%20", json={"n": 1}, headers={"X-Id": "7"})
    assert (answer.status, answer.headers, answer.json()) == (201, {"x-twice": "a, b"}, {"ok": True})
    assert (seen["method"], seen["path"], seen["raw_path"], seen["query_string"]) == (
        "PUT",
        "/a b",
        b"/a%20b",
        b"x=%20",
    )
    assert dict(seen["headers"]) == {
        b"host": b"testserver",
        b"authorization": b"k",
        b"content-type": b"application/json",
        b"content-length": b"8",
        b"x-id": b"7",
    }
    assert json.loads(seen["message"]["body"]) == {"n": 1}
    assert seen["client"] == ("10.0.0.9", 4711)


async def test_a_reply_piece_by_piece() -> None:
    """Each piece arrives when the application sends it."""
    async with AppClient(ticks, lifespan=False).stream("GET", "/") as reply:
        assert (reply.status, now()) == (200, 0)
        arrived = [(await reply.read(), now()) for _ in range(6)]
    assert arrived == [(b"0", 0), (b"1", 1), (b"2", 2), (b"3", 3), (b"4", 4), (b"", 5)]


async def test_a_request_piece_by_piece() -> None:
    """The application reads what has been sent so far, and may answer before the rest."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        while (message := await receive()).get("more_body"):
            await send(body(message["body"].upper()))
        await send(body(b"!", more=False))

    async def slowly() -> AsyncIterator[bytes]:
        for piece in [b"a", b"b"]:
            await asyncio.sleep(1)
            yield piece

    async with AppClient(app, lifespan=False).stream("POST", "/", body=slowly()) as reply:
        arrived = [(await reply.read(), now()) for _ in range(4)]
    assert arrived == [(b"A", 1), (b"B", 2), (b"!", 2), (b"", 2)]


async def test_leaving_in_the_middle_of_a_request() -> None:
    """A client that leaves in the middle of its upload ends the upload."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(1)

    async with AppClient(ticks, lifespan=False).stream("POST", "/", body=endless()) as reply:
        assert await reply.body() == b"01234"
    assert now() == 5


@pytest.mark.parametrize("pieces", [0, 2])
async def test_leaving_early(pieces: int) -> None:
    """The application receives the disconnect at once, whether the client has read anything or not."""
    told: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        streaming = asyncio.create_task(ticks(scope, receive, send))
        assert (await receive())["type"] == "http.disconnect"
        told.append(now())
        streaming.cancel()

    async with AppClient(app, lifespan=False).stream("POST", "/") as reply:
        for _ in range(pieces):
            await reply.read()
    assert told == [now()] == [max(0, pieces - 1)]


async def test_leaving_before_the_headers() -> None:
    """A client that gives up while it waits leaves too."""
    told: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.append(now())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await AppClient(app, lifespan=False).request("POST", "/")
    assert told == [3]


async def test_the_end_of_a_reply() -> None:
    """The end of a reply is followed by http.disconnect at once: Litestar's Stream waits for it."""
    told: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        streaming = asyncio.create_task(ticks(scope, receive, send))
        for _ in range(2):
            assert (await receive())["type"] == "http.disconnect"
            told.append(now())
        await streaming

    async with AppClient(app, lifespan=False).stream("GET", "/") as reply:
        await reply.body()
        await asyncio.sleep(3)
    assert told == [5, 5]


async def test_a_slow_reader() -> None:
    """A slow reader holds the application back once the buffer is full; reading makes room."""
    sent: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(6):
            await send(body(b"12345"))
            sent.append(now())
        await send(body(b"", more=False))

    client = AppClient(app, lifespan=False, buffer_bytes_max=10)
    async with client.stream("GET", "/") as reply:
        await asyncio.sleep(7)
        assert sent == [0, 0]
        await reply.read()
        await asyncio.sleep(7)
        assert sent == [0, 0, 7]
        assert len(await reply.body()) == 25
    assert len(sent) == 6


async def test_leaving_while_the_application_is_held_back() -> None:
    """A client that leaves wakes the application's `send`, which must not wait for a reader that is gone."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(100):
            await send(body(b"12345"))

    async with AppClient(app, lifespan=False, buffer_bytes_max=10).stream("GET", "/") as reply:
        assert reply.status == 200
    assert now() == 0


async def test_an_application_that_fails() -> None:
    """An error of the application is raised in the client: before the headers, in the body and after the
    end."""

    def fails_after(messages: int) -> AppClient:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            for message in [START, body(b"x"), body(b"", more=False)][:messages]:
                await send(message)
            await asyncio.sleep(1)
            raise LookupError("told")

        return AppClient(app, lifespan=False)

    for messages in range(4):
        with pytest.raises(LookupError, match="told"):
            await fails_after(messages).request("GET", "/")
    with pytest.raises(LookupError, match="told"):
        async with fails_after(2).stream("GET", "/"):
            pass
    with pytest.raises(ZeroDivisionError) as mine:
        async with fails_after(2).stream("GET", "/"):
            raise ZeroDivisionError
    assert mine.value.__notes__ == ["and the application failed: LookupError('told')"]


async def test_an_application_that_says_too_little() -> None:
    """A reply without its end is a fault, not a short reply."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"half"))

    with pytest.raises(AppFault, match="without a whole reply"):
        await AppClient(app, lifespan=False).request("GET", "/")


async def test_an_application_that_does_not_notice() -> None:
    """An application that goes on for a minute after the client has left is a fault; it is cancelled."""
    ended: list[float] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(now())

    with pytest.raises(AppFault, match="had not ended"):
        async with AppClient(app, lifespan=False).stream("GET", "/"):
            pass
    assert ended == [60]


def with_lifespan(startup: str, shutdown: str) -> Any:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({**START, "status": scope["state"]["answer"]})
            await send(body(b"", more=False))
            return
        for message in [startup, shutdown]:
            await receive()
            await asyncio.sleep(1)
            scope["state"]["answer"] = 204
            if message == "raise":
                raise LookupError("told")
            await send({"type": message, "message": "why"})
        await asyncio.sleep(1)

    return app


async def test_lifespan() -> None:
    """Start-up ends before the first request, which has its state; after the block the application ends."""
    app = with_lifespan("lifespan.startup.complete", "lifespan.shutdown.complete")
    async with AppClient(app) as client:
        assert now() == 1
        assert (await client.request("GET", "/")).status == 204
    assert now() == 3


@pytest.mark.parametrize(
    ("startup", "shutdown", "error", "why"),
    [
        ("lifespan.startup.failed", "", AppFault, "lifespan.startup.failed: why"),
        ("raise", "", LookupError, "told"),
        ("lifespan.startup.complete", "lifespan.shutdown.failed", AppFault, "lifespan.shutdown.failed: why"),
        ("lifespan.startup.complete", "raise", LookupError, "told"),
    ],
)
async def test_lifespan_that_fails(startup: str, shutdown: str, error: type[Exception], why: str) -> None:
    """A failing lifespan raises what the application raises or reports."""
    with pytest.raises(error, match=why):
        async with AppClient(with_lifespan(startup, shutdown)):
            pass


async def test_context_of_the_caller() -> None:
    """The caller's context does not reach the application, as it would not through a socket."""
    mine = contextvars.ContextVar("mine", default="nobody's")
    found: list[str] = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        found.append(mine.get())
        await ticks(scope, receive, send)

    mine.set("caller's")
    await AppClient(app, lifespan=False).request("GET", "/")
    assert found == ["nobody's"]


@get("/ticks")
async def litestar_ticks() -> Stream:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(5):
            yield str(number).encode()
            await asyncio.sleep(1)

    return Stream(numbers())


@get("/error")
async def litestar_error() -> None:
    raise LookupError("told")


async def many_clients() -> list[tuple[int, float]]:
    """Run clients that read to the end, leave in the middle, or meet an error."""
    said: list[tuple[int, float]] = []

    async def one(client: AppClient, number: int) -> None:
        async with client.stream("GET", "/ticks") as reply:
            while await reply.read() and now() < number:
                pass
        said.append((number, now()))

    async with AppClient(Litestar([litestar_ticks, litestar_error], openapi_config=None)) as client:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(one(client, number % 6))
        assert (await client.request("GET", "/error")).status == 500
    return said


def test_a_litestar_application() -> None:
    """A Litestar application runs unchanged: streams, leaving clients, errors; equal seeds give equal
    runs."""

    def digest(seed: int) -> str:
        trace = Trace()
        said = run(many_clients(), seed=seed, on_step=trace)
        assert sorted(said) == sorted([(number, float(min(number, 5))) for number in range(6)] * 2)
        return trace.digest()

    assert digest(1) == digest(1) != digest(2)


@pytest.mark.real_sockets
async def test_a_real_event_loop() -> None:
    """The client runs on a real event loop, too."""
    async with AppClient(Litestar([litestar_error], openapi_config=None)) as client:
        assert (await client.request("GET", "/error")).status == 500


def head(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


@pytest.mark.parametrize(
    "messages",
    [
        [head((b"x-trail", b"a\r\nset-cookie: b"))],
        [head((b"x-trail", b"a\x00b"))],
        [head((b"x trail", b"a"))],
        [head((b"", b"a"))],
        [body(b"x")],
        [head(), head()],
        [head(), body(b"", more=False), body(b"x")],
        [head((b"content-length", b"1")), body(b"xy", more=False)],
        [head((b"content-length", b"3")), body(b"xy", more=False)],
        [head(), {"type": "http.response.trailers", "headers": []}],
    ],
    ids=["CRLF", "NUL", "name", "no name", "no head", "two heads", "after the end", "long", "short", "type"],
)
async def test_what_no_server_sends(messages: list[dict[str, Any]]) -> None:
    """What a real server refuses to send fails here too, even if the application catches that and answers
    otherwise."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        try:
            for message in messages:
                await send(message)
        except AppFault:
            await send(START)
            await send(body(b"an apology", more=False))

    with pytest.raises(AppFault):
        await AppClient(app, lifespan=False).request("POST", "/")


async def test_no_body_for_head() -> None:
    """The body of an answer to HEAD is not sent, whatever length was announced."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await send(head((b"content-length", b"2")))
        await send(body(b"hi", more=False))

    answer = await AppClient(app, lifespan=False).request("HEAD", "/")
    assert (answer.headers, answer.body) == ({"content-length": "2"}, b"")


def test_a_process_that_is_killed_breaks_its_replies_and_takes_no_more() -> None:
    """When the application's process dies, its replies break off at once and new requests are refused."""

    async def main() -> None:
        client = AppClient(ticks, lifespan=False)
        before = set(asyncio.all_tasks())
        async with asyncio.timeout(1.5):
            with pytest.raises(AppFault, match="process died"):
                async with client.stream("GET", "/") as reply:
                    assert await reply.read() == b"0"
                    asyncio.get_running_loop().call_later(0.5, client.kill)
                    await reply.read()
        assert now() == 0.5
        with pytest.raises(AppFault, match="process is dead"):
            await client.request("GET", "/")
        (left,) = set(asyncio.all_tasks()) - before
        left.cancel()

    run(main())
