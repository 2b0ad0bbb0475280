"""A provider whose chunks say when they were sent: `python -m benchmarks.clocked_provider`.

A chunk is the time of CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share, and a blank.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator

from dub5.simulators.script import Action, Data, End, Head, SimRequest, Wait
from dub5.simulators.server.sockets import serve

STREAM = Head(200, {"content-type": "text/event-stream"})


def script(every_s: float, chunks: int) -> Iterator[Action]:
    """Yield a streamed answer in OpenAI's format, each chunk at its time."""
    began_s = time.monotonic()
    yield STREAM
    for number in range(1, chunks + 1):
        yield Wait(max(0.0, began_s + number * every_s - time.monotonic()))
        yield _event({"delta": {"content": f"{time.monotonic_ns()} "}, "index": 0})
    yield _event({"delta": {}, "finish_reason": "stop", "index": 0})
    yield Data(b"data: [DONE]\n\n")
    yield End()


def _event(choice: object) -> Data:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return Data(b"data: " + json.dumps(chunk).encode() + b"\n\n")


async def run(every_s: float, chunks: int) -> None:
    """Serve until standard input ends."""

    def respond(_: SimRequest) -> Iterator[Action]:
        return script(every_s, chunks)

    async with serve(respond) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clocked_provider", description=__doc__)
    parser.add_argument("--every-ms", type=float, default=250.0, help="between two chunks (default: 250)")
    parser.add_argument("--chunks", type=int, default=40, help="of an answer (default: 40)")
    options = parser.parse_args()
    asyncio.run(run(options.every_ms / 1000, options.chunks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
