"""The Toxiproxy client, with the real server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dub5.chaos.engines import toxiproxy_client as toxiproxy
from dub5.chaos.engines.proxies import toxiproxy_server
from dub5.chaos.engines.stack import free_port
from dub5.chaos.engines.toxiproxy_client import Conflict, NoSuch, Proxy, Toxic, Toxiproxy, ToxiproxyError

pytestmark = pytest.mark.real_sockets

TOXICS: Mapping[str, Mapping[str, int]] = {
    "latency": {"latency": 20, "jitter": 5},
    "bandwidth": {"rate": 1000},
    "slow_close": {"delay": 10},
    "timeout": {"timeout": 10},
    "reset_peer": {"timeout": 0},
    "slicer": {"average_size": 50, "size_variation": 10, "delay": 100},
    "limit_data": {"bytes": 1000},
}
IN_TIME_S = 5.0
Upstream = asyncio.Server


@asynccontextmanager
async def upstream(answer: bytes = b"pong") -> AsyncIterator[str]:
    """Run a server that sends `answer` to every client that sends something. Yield its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(100):
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def proxied(
    path: Path, folder: Path, answer: bytes = b"pong"
) -> AsyncIterator[tuple[Toxiproxy, Proxy]]:
    async with upstream(answer) as address, toxiproxy_server(path, folder) as (_, api):
        yield api, await asyncio.to_thread(api.create, "one", address)


async def said(proxy: Proxy, size: int = 4) -> bytes:
    """Return what comes back through the proxy. Raises OSError, IncompleteReadError."""
    host, port = proxy.listen.split(":")
    async with asyncio.timeout(IN_TIME_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"ping")
            return await reader.readexactly(size)
        finally:
            writer.close()


async def test_every_toxic_on_both_streams(server_path: Path, tmp_path: Path) -> None:
    """Every kind of toxic is set with its own fields, listed by the server, and removed after the block."""
    async with proxied(server_path, tmp_path) as (api, proxy):
        assert await asyncio.to_thread(api.version)

        def all_of_them() -> None:
            for kind, attributes in TOXICS.items():
                for stream in ("upstream", "downstream"):
                    with proxy.toxic(kind, attributes, stream) as toxic:
                        (seen,) = proxy.toxics()
                        assert toxic == seen
                        assert dict(attributes) == dict(seen.attributes)
                        assert (kind, stream) == (seen.kind, seen.stream)
                    assert not proxy.toxics()

        await asyncio.to_thread(all_of_them)
        assert b"pong" == await said(proxy)


async def test_update(server_path: Path, tmp_path: Path) -> None:
    """The attributes of a toxic can be changed in place."""
    async with proxied(server_path, tmp_path) as (_, proxy):
        toxic = await asyncio.to_thread(proxy.add, "latency", {"latency": 5000, "jitter": 0})
        changed = await asyncio.to_thread(proxy.update, toxic, {"latency": 1})
        assert 1 == changed.attributes["latency"]
        assert b"pong" == await said(proxy)


async def test_reset(server_path: Path, tmp_path: Path) -> None:
    """A reset toxic resets connections that are opened under it; afterwards connections work again."""
    async with proxied(server_path, tmp_path) as (_, proxy):
        toxic = await asyncio.to_thread(proxy.add, "reset_peer", {"timeout": 0})
        with pytest.raises(ConnectionResetError):
            await said(proxy)
        await asyncio.to_thread(proxy.lift, toxic)
        assert b"pong" == await said(proxy)


async def test_down(server_path: Path, tmp_path: Path) -> None:
    """A disabled proxy refuses connections, and listens on the same port when it is enabled again."""
    async with proxied(server_path, tmp_path) as (_, proxy):
        await asyncio.to_thread(proxy.disable)
        with pytest.raises(ConnectionRefusedError):
            await said(proxy)
        await asyncio.to_thread(proxy.enable)
        assert b"pong" == await said(proxy)


async def test_conflicts(server_path: Path, tmp_path: Path) -> None:
    """A taken name, a set toxic, a port in use, a wrong field and a missing proxy each raise their own
    error."""
    async with proxied(server_path, tmp_path) as (api, proxy):
        taken = proxy.listen

        def all_of_them() -> None:
            with pytest.raises(Conflict, match="exists"):
                api.create("one", "127.0.0.1:1")
            with pytest.raises(ToxiproxyError, match="address already in use"):
                api.create("two", "127.0.0.1:1", listen=taken)
            with pytest.raises(ToxiproxyError, match="toxic type"):
                proxy.add("nonsense", {})
            with proxy.toxic("latency", {"latency": 1}), pytest.raises(Conflict):
                proxy.add("latency", {"latency": 2})
            proxy.delete()
            with pytest.raises(NoSuch):
                proxy.toxics()
            assert not api.proxies()

        await asyncio.to_thread(all_of_them)


@asynccontextmanager
async def left_behind(path: Path, folder: Path) -> AsyncIterator[tuple[Toxiproxy, Proxy, Toxic]]:
    """Connect five clients behind a latency of a second, and close them with data still on its way."""
    answered = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(b"x" * 200_000)
            answered.release()
            await writer.drain()
            await reader.read()
        writer.close()

    async with toxiproxy_server(path, folder) as (_, api):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = await asyncio.to_thread(api.create, "one", address)
        toxic = await asyncio.to_thread(proxy.add, "latency", {"latency": 1000})
        host, port = proxy.listen.split(":")
        for _ in range(5):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"ping")
            await answered.acquire()
            writer.close()
        yield api, proxy, toxic
        await asyncio.to_thread(proxy.delete)
        server.close()


async def test_lifting_a_latency_whose_clients_left(server_path: Path, tmp_path: Path) -> None:
    """The client lifts a latency whose clients have left without freezing server 2.12."""
    async with left_behind(server_path, tmp_path) as (api, proxy, toxic):
        await asyncio.to_thread(proxy.lift, toxic)
        assert not await asyncio.to_thread(proxy.toxics)
        assert ["one"] == list(await asyncio.to_thread(api.proxies))


async def test_a_frozen_server(server_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server freezes on lifting a toxic, the proxy is recreated on the same port without the toxic."""
    monkeypatch.setattr(toxiproxy, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(toxiproxy, "SAFE_TO_LIFT", {})
    async with left_behind(server_path, tmp_path) as (api, proxy, toxic):
        await asyncio.to_thread(proxy.lift, toxic)
        assert not await asyncio.to_thread(proxy.toxics)
        assert [proxy.listen] == [one.listen for one in (await asyncio.to_thread(api.proxies)).values()]
        assert b"xxxx" == await said(proxy)


async def test_nobody_there() -> None:
    """A server that does not answer raises a ToxiproxyError in time."""
    began_s = time.monotonic()
    with pytest.raises(ToxiproxyError, match="no answer"):
        await asyncio.to_thread(Toxiproxy("127.0.0.1", free_port()).version)
    assert time.monotonic() - began_s < IN_TIME_S
