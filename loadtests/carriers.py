"""The two ways to hold a conversation, each blocking: server-sent events over HTTP, and a WebSocket.

    carrier = SseCarrier(url, credentials)   or SocketCarrier
    for message in carrier.ask(question): ...         until the turn ends; at_s: when its bytes arrived
    carrier.lose()                                    break the connection off, as a phone in a tunnel does
    for message in carrier.resume(turn, after): ...

They raise Refused for an error status or a refused question, and an exception of LOST if the connection
breaks. Under Locust each runs in a greenlet: gevent patches the sockets, and the threads of `websockets`.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dub5.loadtests.events import sse_data
from dub5.loadtests.turn_text import TERMINAL, WireMessage

PROTOCOL = Subprotocol("dub5.v1")
SILENCE_S = 90.0  # maximum silence of the service
IDLE_S = 2.0  # servers close idle connections after a few seconds: a request must not hit that moment
READ_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the close is a reset
LOST = (OSError, HTTPException, ConnectionClosed, InvalidHandshake)
_DECODE = msgspec.json.Decoder(WireMessage).decode
_OBJECT = msgspec.json.Decoder(dict[str, Any]).decode


class Refused(Exception):
    """The service has refused a request, and says why."""


class TurnQuestion(Struct, frozen=True):
    """A question as it is asked. `conversation`: None begins one."""

    id: str
    text: str
    model: str
    conversation: str | None = None


class Arrived(Struct, frozen=True):
    """A message, and when its bytes had arrived, by `time.perf_counter`."""

    message: WireMessage
    at_s: float


class TurnCarrier(Protocol):
    """One client's connection, which is made when it is needed."""

    def ask(self, question: TurnQuestion) -> Iterator[Arrived]:
        """Ask, and yield the messages of the turn."""

    def resume(self, turn: str, after: int) -> Iterator[Arrived]:
        """Yield the messages of a turn from a position on."""

    def stop(self, turn: str) -> None:
        """Ask for the end of a turn."""

    def lose(self) -> None:
        """Break the connection off without a word."""

    def close(self) -> None:
        """End the connection."""


class Credentials(Struct, frozen=True):
    """How requests show whose they are: an API key, or the cookie of a session."""

    headers: Mapping[str, str]

    @classmethod
    def begin(cls, url: str, key: str | None = None) -> "Credentials":
        """Return those of a key, else of a session that begins now. Raises Refused, LOST."""
        if key:
            return cls({"authorization": f"Bearer {key}"})
        connection = HTTPConnection(urlsplit(url).netloc, timeout=SILENCE_S)
        try:
            connection.request("POST", "/v1/session", b"", {"origin": origin(url)})
            response = connection.getresponse()
            body = response.read()
            if response.status >= 300:
                raise Refused(_why(response.status, body))
            cookie = response.getheader("set-cookie", "").partition(";")[0]
        finally:
            connection.close()
        return cls({"cookie": cookie, "origin": origin(url)})


def origin(url: str) -> str:
    """Return the origin of a URL, as a page of the service itself would send it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class SseCarrier:
    """Conversations over HTTP: each turn is a stream of server-sent events."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._netloc = urlsplit(url).netloc
        self._headers = {"content-type": "application/json", **credentials.headers}
        self._connection: HTTPConnection | None = None
        self._response: HTTPResponse | None = None
        self._used_s = 0.0

    def ask(self, question: TurnQuestion) -> Iterator[Arrived]:
        """Ask, and yield the messages of the turn."""
        conversation = question.conversation
        if conversation is None:
            conversation = _OBJECT(self._call("POST", "/v1/conversations", {}).read())["id"]
        body = {"id": question.id, "text": question.text, "model": question.model, "stream": True}
        yield from self._stream("POST", f"/v1/conversations/{conversation}/turns", body)

    def resume(self, turn: str, after: int) -> Iterator[Arrived]:
        """Yield the messages of a turn from a position on."""
        yield from self._stream("GET", f"/v1/turns/{turn}/events", None, {"last-event-id": str(after)})

    def stop(self, turn: str) -> None:
        """Ask for the end of a turn, over a connection of its own: the other one carries the answer."""
        other = SseCarrier(f"http://{self._netloc}", Credentials(self._headers))
        other._call("POST", f"/v1/turns/{turn}/stop", {}).read()
        other.close()

    def lose(self) -> None:
        """Break the connection off without a word."""
        connection, response = self._connection, self._response
        self._connection = self._response = None
        if connection is not None:
            _reset(connection.sock)
            if response is not None:
                response.close()
            connection.close()

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _stream(
        self, method: str, path: str, body: object, headers: Mapping[str, str] = {}
    ) -> Iterator[Arrived]:
        response = self._response = self._call(method, path, body, headers)
        at_s = time.perf_counter()

        def pieces() -> Iterator[bytes]:
            nonlocal at_s
            while data := response.read1(READ_BYTES):
                at_s = time.perf_counter()
                yield data

        for data in sse_data(pieces()):
            message, arrived_s = _DECODE(data), at_s
            if message.type in TERMINAL:
                response.read()  # its end: the connection can be used again
            yield Arrived(message, arrived_s)
        self._response, self._used_s = None, time.perf_counter()

    def _call(self, method: str, path: str, body: object, headers: Mapping[str, str] = {}) -> HTTPResponse:
        """Return a response with a good status. Raises Refused, LOST."""
        if time.perf_counter() - self._used_s > IDLE_S:
            self.close()
        if self._connection is None:
            self._connection = HTTPConnection(self._netloc, timeout=SILENCE_S)
        self._used_s = time.perf_counter()
        data = None if body is None else msgspec.json.encode(body)
        try:
            self._connection.request(method, path, data, {**self._headers, **headers})
            response = self._connection.getresponse()
        except (OSError, HTTPException):
            self.close()
            raise
        if response.status >= 300:
            raise Refused(_why(response.status, response.read()))
        return response


class SocketCarrier:
    """Conversations over one WebSocket, which stays open between turns."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        self._url = f"ws://{urlsplit(url).netloc}/v1/ws"
        self._headers = credentials.headers
        self._socket: ClientConnection | None = None
        self._exits = contextlib.ExitStack()

    def ask(self, question: TurnQuestion) -> Iterator[Arrived]:
        """Ask, and yield the messages of the turn."""
        asked = {"type": "ask", "id": question.id, "text": question.text, "model": question.model}
        if question.conversation is not None:
            asked["conversation"] = question.conversation
        yield from self._messages(asked)

    def resume(self, turn: str, after: int) -> Iterator[Arrived]:
        """Yield the messages of a turn from a position on."""
        yield from self._messages({"type": "resume", "turn": turn, "after": after})

    def stop(self, turn: str) -> None:
        """Ask for the end of a turn: its `end` comes among the messages."""
        if self._socket is not None:
            self._socket.send(msgspec.json.encode({"type": "stop", "turn": turn}), text=True)

    def lose(self) -> None:
        """Break the connection off without a word."""
        if self._socket is not None:
            _reset(self._socket.socket)
            self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket = None
        with contextlib.suppress(*LOST):
            self._exits.close()

    def _messages(self, asked: Mapping[str, object]) -> Iterator[Arrived]:
        connection = self.connect()
        try:
            connection.send(msgspec.json.encode(asked), text=True)
            while True:
                data = connection.recv(SILENCE_S)
                at_s = time.perf_counter()
                message = _DECODE(data)
                if message.type == "error" and message.turn is None:
                    raise Refused(str(message.error.get("code")))
                if message.type not in ("ready", "pong", "bye"):
                    yield Arrived(message, at_s)
                if message.type in TERMINAL:
                    return
        except LOST:
            self.close()
            raise

    def connect(self) -> ClientConnection:
        """Return the connection; make it if there is none. Raises LOST."""
        if self._socket is None:
            connecting = connect(
                self._url,
                subprotocols=[PROTOCOL],
                additional_headers=self._headers,
                compression=None,
                ping_interval=None,  # the service pings
                open_timeout=SILENCE_S,
                close_timeout=1.0,
                proxy=None,
            )
            self._socket = self._exits.enter_context(connecting)
        return self._socket


CARRIERS: dict[str, Callable[[str, Credentials], TurnCarrier]] = {
    "sse": SseCarrier,
    "websocket": SocketCarrier,
}


def _reset(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.shutdown(socket.SHUT_RDWR)


def _why(status: int, body: bytes) -> str:
    try:
        return f"{status} {_OBJECT(body)['error']['code']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"{status} without a readable error"
