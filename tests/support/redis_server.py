"""A real Redis for the tests, on a free port of 127.0.0.1, that can be stopped, killed and started again; and
a slow proxy in front of it.

Without a Redis the tests are skipped, loudly; with CI=true they fail.
"""

import asyncio
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pytest

from tests.support.machine import free_port, program

START_S = 10.0


def redis_program() -> str:
    """Return the path of Redis, or of Valkey, which is compatible."""
    return program("redis-server", "valkey-server")


class RedisServer:
    """A Redis server; its data are lost with it."""

    def __init__(self, directory: str) -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server; return when it answers."""
        command = [redis_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._directory]
        quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning", "--databases", "1"]
        self._process = subprocess.Popen([*command, *quiet], stdout=subprocess.DEVNULL)
        for _ in range(int(START_S / 0.02)):
            if self._answers():
                return
            with _patience():
                self._process.wait(0.02)
                pytest.fail(f"redis-server ended with {self._process.returncode}")
        pytest.fail("redis-server does not answer")

    def kill(self) -> None:
        """Kill the server, with all its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def flush(self) -> None:
        """Forget all data."""
        with socket.create_connection(("127.0.0.1", self.port), 2.0) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16).startswith(b"+OK")

    def pause(self) -> None:
        """Stop the process: it accepts connections and never answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process: it answers again."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def _patience() -> Iterator[None]:
    try:
        yield
    except subprocess.TimeoutExpired:
        pass


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Start a server for the test; stop it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(directory)
        server.start()
        try:
            yield server
        finally:
            server.kill()


class SlowProxy:
    """A proxy in front of Redis: `async with SlowProxy(port) as proxy`.

    It forwards all bytes after `delay_s`; `refusing`: it refuses connections.
    """

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.accepted = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        upstream = None
        try:
            away, upstream = await asyncio.open_connection("127.0.0.1", self._port)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, upstream, 0.0))
                both.create_task(self._pump(away, writer, None))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            if upstream is not None:
                upstream.close()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float | None
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay_s if delay_s is None else delay_s)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
