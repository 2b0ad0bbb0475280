"""Ask a question over HTTP, and read the answer to its end, although the network is lost meanwhile.

    DUB5_URL=https://chat.example.com DUB5_KEY=... python chat_events.py "Why is the sky blue?"

It needs no package. The answer is printed as it comes; Ctrl-C stops it. Exit code 0: the answer is whole.
"""

import json
import math
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

URL = urlsplit(os.environ.get("DUB5_URL", "http://127.0.0.1:8080"))
KEY = os.environ.get("DUB5_KEY", "")
FIRST_WAIT_S, WAIT_S_MAX = 0.25, 10.0
RETRY_AFTER_S_MAX = 60.0  # who is told to wait longer gives up
NOT_ASKED = ("rate_limited", "shutting_down", "storage_unavailable")  # may be sent again with the same `id`
TRIES_MAX = 30  # without a word of the answer
SILENCE_S = 60.0  # while a turn is read on, a comment comes each 10 s
WHOLE = ("complete", "degraded")  # "degraded" is labelled: an answer that no provider gave


def note(text: str) -> None:
    """Print what is no part of the answer."""
    print(f"\n[{text}]", file=sys.stderr, flush=True)


def call(method: str, path: str, body: Any = None, after: int = 0) -> HTTPResponse:
    """Send a request. Raises OSError, HTTPException."""
    kind = HTTPSConnection if URL.scheme == "https" else HTTPConnection
    headers = {"content-type": "application/json", "last-event-id": str(after)}
    if KEY:
        headers["authorization"] = f"Bearer {KEY}"
    connection = kind(URL.netloc, timeout=SILENCE_S)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse()


def messages(reply: HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the messages of a stream, or the only one of an error.

    Raises OSError, HTTPException, ValueError.
    """
    if reply.status >= 400:
        yield {"type": "error", **json.load(reply)}
        return
    for line in reply:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


class Turn:
    """A question, and as much of its answer as has come. `over`: how it ended."""

    def __init__(self, text: str) -> None:
        # With the same `id` the question may be sent again: it is asked once.
        self.ask = {"id": str(uuid.uuid4()), "text": text, "stream": True}
        self.conversation: str | None = None
        self.turn: str | None = None
        self.answer = b""
        self.is_lost = False  # the service does not know the turn any more
        self.over: str | None = None
        self.stopping = False
        self.tries = 0
        self.retry_after_s = 0.0

    def read(self) -> None:
        """Ask or read on over one connection, to the end of the turn or of the connection.

        Raises OSError, HTTPException, ValueError.
        """
        if self.stopping and self.turn is None:
            self.over = "not asked"  # nobody listens: the service drops the question
            return
        if self.stopping:
            call("POST", f"/v1/turns/{self.turn}/stop").close()  # its `end` is read as ever
        if self.conversation is None:
            begun = call("POST", "/v1/conversations", {})
            if begun.status >= 400:
                self.fail({"type": "error", **json.load(begun)})
                return
            self.conversation = json.load(begun)["id"]
        if self.turn is None or self.is_lost:
            reply = call("POST", f"/v1/conversations/{self.conversation}/turns", self.ask)
        else:
            reply = call("GET", f"/v1/turns/{self.turn}/events", after=len(self.answer))
        try:
            for message in messages(reply):
                if not self.take(message):
                    return
        finally:
            reply.close()

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
        return self.over is None  # messages of other types are of a newer service

    def accept(self, turn: str) -> None:
        """Take in the id of the turn. Another one than before has another answer."""
        if self.turn != turn and self.answer:
            note("the answer begins again")
            self.answer = b""
        self.turn, self.is_lost = turn, False

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
        if error["code"] == "conversation_not_found" and not self.is_lost:
            self.is_lost = True  # ask again
        elif error["code"] == "conversation_not_found" and self.conversation is not None:
            self.conversation = None  # that is lost, too
        elif error["code"] in NOT_ASKED and (error["retry_after"] or math.inf) <= RETRY_AFTER_S_MAX:
            self.retry_after_s = error["retry_after"]
        else:
            self.over = error["code"]
        note(error["message"])
        return False


def ask(text: str) -> bool:
    """Ask, and read to the end. Return whether the answer is whole."""
    turn = Turn(text)
    while turn.over is None and turn.tries < TRIES_MAX:
        turn.retry_after_s = 0.0
        try:
            try:
                turn.read()
            except (OSError, HTTPException, ValueError):  # lost, or no JSON: a proxy's own page
                pass
            if turn.over is None:
                wait_s = min(FIRST_WAIT_S * 2**turn.tries, WAIT_S_MAX) * random.uniform(0.5, 1)
                note("asking again" if turn.turn is None else f"reading on from byte {len(turn.answer)}")
                turn.tries += 1
                time.sleep(max(wait_s, turn.retry_after_s))
        except KeyboardInterrupt:
            turn.stopping = True
    print()
    return turn.over in WHOLE


if __name__ == "__main__":
    sys.exit(0 if ask(" ".join(sys.argv[1:]) or "Why is the sky blue?") else 1)
