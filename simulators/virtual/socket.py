"""A WebSocket without a server: what the client sees, and the server's side of ASGI."""

from collections import deque
from dataclasses import dataclass

from dub5.simulators.virtual.asgi import AppFault, AppSide, AsgiMessage

SWITCHING = 101
FORBIDDEN = 403  # what servers answer where the application closes before it has accepted
ABNORMAL = 1006  # the code of a connection that ended without a close frame


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a socket. ABNORMAL: the application ended without closing it, or its process has died."""

    code: int
    reason: str = ""


class PeerGone(OSError):
    """What `send` raises in the application after the client has left, as servers do."""


class AppSocket(AppSide):
    """A WebSocket of the client. `AppClient.socket` yields it once it is accepted or refused.

    `status` is 101, or that of the refusal, whose body is `body`. It is as strict as a server about header
    bytes and the order of messages: after such a fault nothing more is sent, and the client fails with it.
    """

    def __init__(self, buffer_bytes_max: int) -> None:
        super().__init__()
        self.subprotocol: str | None = None
        self.body = b""
        self._buffer_bytes_max = buffer_bytes_max
        self._requests: deque[AsgiMessage] = deque([{"type": "websocket.connect"}])
        self._requested = 0  # bytes that the application has not received
        self._data: deque[str] = deque()
        self._buffered = 0
        self._refusal = 0  # the status of a refusal whose body is still coming
        self._over = False  # the application has closed or refused it
        self._end: Closed | None = None  # what the client receives after the last message
        self._disconnect: AsgiMessage | None = None  # what the application receives after the last message

    async def send(self, text: str) -> None:
        """Send a message; wait while the application leaves those before it. Do nothing after the end."""
        await self._request({"type": "websocket.receive", "text": text}, len(text.encode()))

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message, as `send` does a text."""
        await self._request({"type": "websocket.receive", "bytes": data}, len(data))

    async def receive(self) -> str | Closed:
        """Return the next message; after the last one the end, however often it is asked for."""
        self._raise_fault()
        if not (self._data or self._end):
            await self._until(lambda: self._data or self._end or self._app.done())
        if self._data:
            text = self._data.popleft()
            self._buffered -= len(text.encode())
            self._to_app.set()
            return text
        if self._end is None:
            self._app.result()
            self._end = Closed(ABNORMAL)
        return self._end

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket: the application receives that after all messages."""
        if self._end is None:
            self._end = Closed(code, reason)
            self._disconnect = _disconnect(self._end)
            self._leave()
            self._to_client.set()

    async def _request(self, message: AsgiMessage, size: int) -> None:
        while self._requested >= self._buffer_bytes_max and self._end is None and not self._app.done():
            self._raise_fault()
            self._to_client.clear()
            await self._to_client.wait()
        if self._end is None:
            self._requests.append(message)
            self._requested += size
            self._to_app.set()

    def _leave(self) -> None:
        """Leave. Without a close frame the application does not receive what it has not received by now."""
        if self._disconnect is None:
            self._disconnect = _disconnect(Closed(ABNORMAL))
            self._requests.clear()
        super()._leave()

    def _break(self) -> None:
        """Lose the connection at this moment, both ways: the process of the application has died."""
        if self.status != SWITCHING:
            self._fault = AppFault("the connection was lost: the process died")
        self._data.clear()
        self._end = Closed(ABNORMAL)
        self._leave()
        self._to_client.set()

    async def _receive(self) -> AsgiMessage:
        """Receive, as ASGI defines it."""
        while not self._requests:
            if self._disconnect is not None:
                return self._disconnect
            self._to_app.clear()
            await self._to_app.wait()
        message = self._requests.popleft()
        self._requested -= len(message.get("bytes") or b"") + len(message.get("text", "").encode())
        self._to_client.set()
        return message

    async def _send(self, message: AsgiMessage) -> None:
        """Send, as ASGI defines it: wait while the buffer is full. Raises PeerGone."""
        while self._buffered >= self._buffer_bytes_max and not self._left:
            self._to_app.clear()
            await self._to_app.wait()
        if self._left:
            raise PeerGone("the client has left")
        try:
            self._raise_fault()
            self._take(message["type"], message)
        except AppFault as fault:
            self._fault = fault
            raise
        finally:
            self._to_client.set()

    def _take(self, kind: str, message: AsgiMessage) -> None:
        if self._over:
            raise AppFault(f"a message after the end: {kind}")
        if self._refusal:
            self._take_refusal(kind, message)
        elif self.status == SWITCHING:
            self._take_message(kind, message)
        elif kind == "websocket.accept":
            self._take_headers(list(message.get("headers", ())))
            self.subprotocol = message.get("subprotocol")
            self.status = SWITCHING
        elif kind == "websocket.close":
            self._refuse(FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self._take_headers(list(message.get("headers", ())))
            self._refusal = message["status"]
        else:
            raise AppFault(f"an unexpected message before the socket is accepted: {kind}")

    def _take_refusal(self, kind: str, message: AsgiMessage) -> None:
        if kind != "websocket.http.response.body":
            raise AppFault(f"an unexpected message in a refusal: {kind}")
        self.body += message.get("body", b"")
        if not message.get("more_body", False):
            if self.headers.get("content-length", str(len(self.body))) != str(len(self.body)):
                raise AppFault(f"a body of another length than announced: {len(self.body)}")
            self._refuse(self._refusal)

    def _take_message(self, kind: str, message: AsgiMessage) -> None:
        if kind == "websocket.close":
            self._over = True
            self._end = Closed(message.get("code", 1000), message.get("reason") or "")
            self._disconnect = _disconnect(self._end)
            self._to_app.set()
        elif kind == "websocket.send" and isinstance(message.get("text"), str):
            self._data.append(message["text"])
            self._buffered += len(message["text"].encode())
        else:
            raise AppFault(f"an unexpected message: {kind} of {sorted(message)}")

    def _refuse(self, status: int) -> None:
        self.status, self._over = status, True
        self._end = Closed(ABNORMAL)
        self._disconnect = _disconnect(self._end)
        self._to_app.set()


def _disconnect(end: Closed) -> AsgiMessage:
    return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
