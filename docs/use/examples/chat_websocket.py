"""Ask a question over a WebSocket, and read the answer to its end, although the network is lost meanwhile.

    pip install websockets
    DUB5_URL=https://chat.example.com DUB5_KEY=... python chat_websocket.py "Why is the sky blue?"

The answer is printed as it comes; Ctrl-C stops it. Exit code 0: the answer is whole.
"""

import asyncio
import json
import math
import os
import random
import signal
import sys
import uuid
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

URL = os.environ.get("DUB5_URL", "http://127.0.0.1:8080").replace("http", "ws", 1) + "/v1/ws"
KEY = os.environ.get("DUB5_KEY", "")
FIRST_WAIT_S, WAIT_S_MAX = 0.25, 10.0
RETRY_AFTER_S_MAX = 60.0  # who is told to wait longer gives up
TRIES_MAX = 30  # without a word of the answer
MESSAGE_BYTES_MAX = 8 * 1024 * 1024  # a whole answer may come as one message
WHOLE = ("complete", "degraded")  # "degraded" is labelled: an answer that no provider gave


def note(text: str) -> None:
    """Print what is no part of the answer."""
    print(f"\n[{text}]", file=sys.stderr, flush=True)


class Turn:
    """A question, and as much of its answer as has come. `over`: how it ended."""

    def __init__(self, text: str) -> None:
        # With the same `id` the question may be sent again: it is asked once.
        self.ask = {"type": "ask", "id": str(uuid.uuid4()), "text": text}
        self.turn: str | None = None
        self.known = asyncio.Event()  # `turn` is
        self.answer = b""
        self.is_lost = False  # the service does not know the turn any more
        self.over: str | None = None
        self.tries = 0
        self.retry_after_s = 0.0

    def request(self) -> dict[str, Any]:
        """Return the message that asks; once the turn is known, the one that reads on."""
        if self.turn is None or self.is_lost:
            return self.ask
        return {"type": "resume", "turn": self.turn, "after": len(self.answer)}

    def take(self, message: dict[str, Any]) -> bool:
        """Take in a message. Return whether to go on with this connection."""
        match message["type"]:
            case "accepted":
                self.accept(message["turn"])
            case "begin":
                return self.has_no_gap(message["seq"])
            case "delta":
                return self.add(message["text"], message["seq"])
            case "end":
                self.end(message)
            case "error":
                return self.fail(message)
            case "bye":
                self.retry_after_s = message["retry_after_s"]  # the connection ends when the turn has
        return self.over is None  # messages of other types are of a newer service

    def accept(self, turn: str) -> None:
        """Take in the id of the turn. Another one than before has another answer."""
        if self.turn != turn and self.answer:
            note("the answer begins again")
            self.answer = b""
        self.turn, self.is_lost = turn, False
        self.known.set()

    def has_no_gap(self, start: int) -> bool:
        """Return whether text that begins at this byte follows ours. If not: read on, from where we are."""
        return start <= len(self.answer)

    def add(self, text: str, seq: int) -> bool:
        """Add text that ends at byte `seq`."""
        data = text.encode()
        start = seq - len(data)
        if not self.has_no_gap(start):
            return False
        if start < len(self.answer):
            note("the answer begins again" if start == 0 else f"the answer goes on from byte {start}")
            print(self.answer[:start].decode(), end="")
        print(text, end="", flush=True)
        self.answer = self.answer[:start] + data
        self.tries = 0
        return True

    def end(self, message: dict[str, Any]) -> None:
        """Take in how the turn ended. What is `cut`, `cancelled` or `failed` is not a whole answer."""
        self.over = message["outcome"]
        note(f"{self.over}, kept: {message['kept']}")

    def fail(self, message: dict[str, Any]) -> bool:
        """Take in an error: of the turn, which is then over; or a refusal, after which one may wait."""
        error = message["error"]
        is_refusal = "seq" not in message
        if is_refusal and error["code"] == "conversation_not_found" and not self.is_lost:
            self.is_lost = True  # ask again
        elif is_refusal and (error["retry_after"] or math.inf) <= RETRY_AFTER_S_MAX:  # such as a rate limit
            self.retry_after_s = error["retry_after"]
        else:
            self.over = error["code"]
        note(error["message"])
        return False


async def read(turn: Turn, stop: asyncio.Event) -> None:
    """Ask or read on over one connection, to the end of the turn or of the connection."""
    headers = {"authorization": f"Bearer {KEY}"} if KEY else {}
    # The package sends pings: a connection that is dead is noticed after 40 s.
    options: Any = {"subprotocols": ["dub5.v1"], "max_size": MESSAGE_BYTES_MAX}
    async with connect(URL, additional_headers=headers, **options) as socket:
        await socket.send(json.dumps(turn.request()))
        stopping = asyncio.create_task(send_stop(turn, stop, socket))
        try:
            async for text in socket:
                if not turn.take(json.loads(text)):
                    return
        finally:
            stopping.cancel()


async def send_stop(turn: Turn, stop: asyncio.Event, socket: ClientConnection) -> None:
    """Wait for Ctrl-C; then end the turn. Its `end` comes as ever."""
    await stop.wait()
    await turn.known.wait()
    await socket.send(json.dumps({"type": "stop", "turn": turn.turn}))


async def ask(text: str) -> bool:
    """Ask, and read to the end. Return whether the answer is whole."""
    turn, stop, loop = Turn(text), asyncio.Event(), asyncio.get_running_loop()
    signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop.set))
    while turn.over is None and turn.tries < TRIES_MAX:
        turn.retry_after_s = 0.0
        try:
            await read(turn, stop)
        except InvalidStatus as refused:
            if refused.response.status_code < 500:  # not ours to repeat: see troubleshooting
                note(f"the handshake was refused: HTTP {refused.response.status_code}")
                return False
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException):
            pass
        if turn.over is None:
            wait_s = min(FIRST_WAIT_S * 2**turn.tries, WAIT_S_MAX) * random.uniform(0.5, 1)
            note("asking again" if turn.turn is None else f"reading on from byte {len(turn.answer)}")
            turn.tries += 1
            await asyncio.sleep(max(wait_s, turn.retry_after_s))
    print()
    return turn.over in WHOLE


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(ask(" ".join(sys.argv[1:]) or "Why is the sky blue?")) else 1)
