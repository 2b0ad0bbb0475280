"""The load generator of benchmarks/overhead.py: raw protocols on uvloop, an open schedule, its own lateness.

    schedule -> timer of the kernel -> a free connection of the arm -> one write
    bytes -> the time of their reading -> httptools -> answer, first token, gaps

A request leaves when the schedule says, whatever was answered; its times count from that moment, so a request
that had to wait for the generator, or for a connection, is not counted as a fast one (coordinated omission).
"""

import asyncio
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from benchmarks.overhead_figures import ArmTimes, LoadWindow

SENT_AT = re.compile(rb"@(\d+)@")
ANSWER_S = 10.0  # until a request counts as failed
MS = 1e6  # ns


@dataclass(eq=False, slots=True)
class TimedRequest:
    """One request; times in ns of CLOCK_MONOTONIC, which the provider's process has as well."""

    arm: str
    number: int
    due_ns: int
    measured: bool
    sent_ns: int = 0
    first_ns: int = 0
    ended_ns: int = 0
    failure: str = ""

    def over(self, ended_ns: int, failure: str = "") -> None:
        """Note the end."""
        self.ended_ns, self.failure = ended_ns, failure


class LoadConnection(asyncio.Protocol):
    """A kept-alive connection. One request at a time; the parser calls the methods `on_...`."""

    def __init__(self, arm: "LoadedArm") -> None:
        self._arm = arm
        self._request: TimedRequest | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: TimedRequest) -> None:
        """Send a request."""
        self._request, self._body = request, b""
        self._seen_ns = self._told_ns = 0
        self._transport.write(self._arm.bytes_of(request.number))
        request.sent_ns = time.monotonic_ns()

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """Note when chunks have come; keep the start of the body, which has the number."""
        request = self._request
        if request is None:
            return
        if self._arm.is_stream:
            for sent in SENT_AT.findall(body):
                self._note_chunk(request, int(sent))
            if len(self._body) > 1024:
                self._body = self._body[:512] + self._body[-64:]
        self._body += body

    def _note_chunk(self, request: TimedRequest, told_ns: int) -> None:
        if request.first_ns == 0:
            request.first_ns = self._now_ns
        elif request.measured:
            gap_ns = (self._now_ns - self._seen_ns) - (told_ns - self._told_ns)
            self._arm.times.gaps.append(gap_ns / MS)
        self._seen_ns, self._told_ns = self._now_ns, told_ns

    def on_message_complete(self) -> None:
        """Judge the answer."""
        request = self._request
        if request is None:
            return
        status = self._parser.get_status_code()
        if status != 200:
            self._end(f"status {status}: {self._body[:200]!r}")
        elif b"#%08d#" % request.number not in self._body:
            self._end("the answer is to another question")
        elif self._arm.is_stream and b"[DONE]" not in self._body:
            self._end("the stream has no end")
        else:
            self._end("")
        if not self._parser.should_keep_alive():
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection ended: {exc}")

    def _end(self, failure: str) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.over(time.monotonic_ns() if failure else self._now_ns, failure)
            self._arm.release(self)


class LoadedArm:
    """One way to the provider: its connections, and what they measured."""

    def __init__(self, name: str, url: str, model: str, key: str, *, is_stream: bool) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, f"{url} has no host"
        self.name, self.is_stream = name, is_stream
        self.times = ArmTimes()
        self._address = (parts.hostname, parts.port or 80)
        self._free: list[LoadConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        body = _body(model, is_stream=is_stream)
        lines = [
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1",
            f"host: {parts.netloc}",
            "accept: application/json",
            "user-agent: OpenAI/Python 2.8.0",
            f"authorization: Bearer {key}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        self._bytes = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def bytes_of(self, number: int) -> bytes:
        return self._bytes.replace(b"#00000000#", b"#%08d#" % number)

    async def open(self, count: int) -> None:
        """Open connections ahead."""
        self._free += [await self._connect() for _ in range(count - len(self._free))]

    def send(self, request: TimedRequest) -> None:
        """Send a request on a free connection, or on a new one."""
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                connection.send(request)
                return
        task = asyncio.create_task(self._send_on_new(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def release(self, connection: LoadConnection) -> None:
        """Take a connection back."""
        self._free.append(connection)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._free:
            connection._transport.abort()

    async def _send_on_new(self, request: TimedRequest) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            request.over(time.monotonic_ns(), f"no connection: {error}")
            return
        connection.send(request)

    async def _connect(self) -> LoadConnection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: LoadConnection(self), *self._address)
        return protocol


def _body(model: str, *, is_stream: bool) -> bytes:
    question = "#00000000# " + "Why is the sky blue? " * 10
    stream = ',"stream":true' if is_stream else ""
    return (
        f'{{"model":"{model}","messages":[{{"role":"system","content":"You are a helpful assistant."}},'
        f'{{"role":"user","content":"{question}"}}]{stream}}}'
    ).encode()


class _Alarm:
    """Wakes the loop at a moment: by the kernel's timer, since those of uvloop have steps of 1 ms."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._os: Any = os
        self._file = -1
        if hasattr(os, "timerfd_create"):  # 3.13, Linux
            flags = self._os.TFD_NONBLOCK | self._os.TFD_CLOEXEC
            self._file = self._os.timerfd_create(time.CLOCK_MONOTONIC, flags=flags)

    async def wait(self, until_ns: int) -> None:
        """Wait until a moment that may be past."""
        wait_ns = until_ns - time.monotonic_ns()
        if wait_ns <= 0:
            return
        rings = self._loop.create_future()
        if self._file < 0:
            self._loop.call_later(wait_ns / 1e9, rings.set_result, None)
            await rings
            return
        self._loop.add_reader(self._file, self._ring, rings)
        self._os.timerfd_settime_ns(self._file, flags=self._os.TFD_TIMER_ABSTIME, initial=until_ns)
        await rings

    def _ring(self, rings: "asyncio.Future[None]") -> None:
        os.read(self._file, 8)
        rings.set_result(None)

    def close(self) -> None:
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)


async def send_all(
    arms: dict[str, LoadedArm], plan: Iterable[tuple[float, str]], measured_from_s: float, first_number: int
) -> LoadWindow:
    """Send the requests of a plan, and wait for their ends. Times before `measured_from_s` are left out."""
    alarm, requests = _Alarm(), list[TimedRequest]()
    start_ns = time.monotonic_ns() + 10_000_000
    for number, (at_s, name) in enumerate(plan, first_number):
        request = TimedRequest(name, number, start_ns + int(at_s * 1e9), at_s >= measured_from_s)
        requests.append(request)
        await alarm.wait(request.due_ns)
        arms[name].send(request)
    alarm.close()
    give_up_ns = time.monotonic_ns() + int(ANSWER_S * 1e9)
    while any(not request.ended_ns for request in requests) and time.monotonic_ns() < give_up_ns:
        await asyncio.sleep(0.01)
    for request in requests:
        if not request.ended_ns:
            request.over(time.monotonic_ns(), f"no end within {ANSWER_S:g} s")
        if request.measured and not request.failure:
            _note(arms[request.arm], request)
    return LoadWindow(
        {name: arm.times for name, arm in arms.items()},
        [(request.sent_ns - request.due_ns) / MS for request in requests if request.sent_ns],
        [f"{request.arm}: {request.failure}" for request in requests if request.failure],
    )


def _note(arm: LoadedArm, request: TimedRequest) -> None:
    if arm.is_stream:
        arm.times.first_tokens.append((request.first_ns - request.due_ns) / MS)
    else:
        arm.times.answers.append((request.ended_ns - request.due_ns) / MS)
