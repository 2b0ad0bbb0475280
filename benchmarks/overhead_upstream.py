"""The provider of benchmarks/overhead.py: small, steady, in a process of its own.

    POST, "stream": true in it    one chunk at once, the others every `--every-ms`; each says when it left
    any other POST                a JSON answer at once

An answer repeats the `#number#` of the question, so that nobody can take the answer to another one for it.
With --steps a chunk leaves for each byte on stdin, at any other time none. It ends when stdin does.
"""

import argparse
import asyncio
import gc
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable

import httptools
import uvloop

NUMBER = re.compile(rb"#(\d+)#")
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"#%b# ' + b"word " * 50 + b'"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":60,"completion_tokens":50,"total_tokens":110}}'
)
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"finish_reason":null,"delta":{"content":"%b@%d@ word "}}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"finish_reason":"stop","delta":{}}]}\n\n'
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":60,"completion_tokens":50,"total_tokens":110}}\n\n'
    b"data: [DONE]\n\n"
)

Later = Callable[[Callable[[], None], float], object]  # calls a function at a time of the loop (s)


def framed(data: bytes) -> bytes:
    """Return a chunk of HTTP."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def before_others(*, children_too: bool = False) -> bool:
    """Let this process run as soon as it can, before its children. Return whether it may: root may."""
    try:
        if children_too:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        else:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(2))
    except PermissionError:
        return False
    return True


class SteadyStream:
    """One stream: a chunk at once, then one for each call that `later` makes."""

    def __init__(self, transport: asyncio.Transport, number: bytes, chunks: int, every_s: float) -> None:
        self._transport = transport
        self._number = b"#%b# " % number
        self._left = chunks
        self._every_s = every_s

    def begin(self, now_s: float, later: Later) -> None:
        """Send the head and the first chunk."""
        self._due_s, self._later = now_s, later
        self._transport.write(STREAM_HEAD)
        self._send_next()

    def _send_next(self) -> None:
        if self._transport.is_closing():
            return
        if self._left == 0:
            self._transport.write(framed(LAST) + b"0\r\n\r\n")
            return
        self._left -= 1
        self._transport.write(framed(CHUNK % (self._number, time.monotonic_ns())))
        self._due_s += self._every_s
        self._later(self._send_next, self._due_s)


class SteadyUpstream(asyncio.Protocol):
    """One connection of the provider."""

    def __init__(self, chunks: int, every_s: float, later: Later) -> None:
        self._chunks, self._every_s, self._later = chunks, every_s, later
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        """Answer the request."""
        body, self._body = self._body, b""
        found = NUMBER.search(body)
        number = found[1] if found else b"0"
        if b'"stream":true' in body.replace(b" ", b""):
            stream = SteadyStream(self._transport, number, self._chunks, self._every_s)
            stream.begin(self._loop.time(), self._later)
            return
        answer = ANSWER % number
        self._transport.write(JSON_HEAD % len(answer) + answer)


async def serve(port: int, chunks: int, every_s: float, *, by_steps: bool) -> None:
    """Serve until stdin is closed."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    waiting: deque[Callable[[], None]] = deque()

    def at_step(send: Callable[[], None], when_s: float) -> None:
        waiting.append(send)

    def at_time(send: Callable[[], None], when_s: float) -> None:
        loop.call_at(when_s, send)

    def on_stdin() -> None:
        steps = os.read(0, 1024)
        if not steps:
            loop.remove_reader(0)
            ended.set_result(None)
        for _ in range(min(len(steps), len(waiting))):
            waiting.popleft()()

    loop.add_reader(0, on_stdin)
    later = at_step if by_steps else at_time
    server = await loop.create_server(lambda: SteadyUpstream(chunks, every_s, later), "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    gc.collect()
    gc.disable()  # its own pauses are not to be seen
    await ended


def main() -> int:
    """Run the provider; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead_upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--every-ms", type=float, default=50.0)
    parser.add_argument("--steps", action="store_true")
    arguments = parser.parse_args()
    before_others()
    uvloop.run(serve(arguments.port, arguments.chunks, arguments.every_ms / 1000, by_steps=arguments.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
