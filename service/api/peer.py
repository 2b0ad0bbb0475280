"""The other end of an exchange: where the body of its request comes from, and where its response goes.

AsgiPeer     any ASGI server: `receive` and `send`
FrontPeer    the server of `dub5 serve`, without a framework in between (front.py)

What can be done at once is done by a plain call: a coroutine, and a bound on its wait, are for what has to
wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from litestar.types import Receive, Scope, Send

from dub5.service.api.errors import ClientGone


class Peer(Protocol):
    """The client of one exchange. `response_started`: the head of the response is out."""

    response_started: bool

    def whole_body(self) -> bytes | None:
        """Return the body of the request, if all of it is here."""
        ...

    async def read(self) -> tuple[bytes, bool]:
        """Return the next part of the body, and whether more comes. Raises ClientGone."""
        ...

    def watch(self, on_leave: Callable[[], None]) -> None:
        """Call `on_leave` when the client leaves, until `unwatch`. The body has been read."""
        ...

    def unwatch(self) -> None:
        """Watch no more."""
        ...

    def start(
        self, status: int, headers: Mapping[str, str], data: bytes, *, more: bool
    ) -> Awaitable[None] | None:
        """Send the head and the beginning of the body. Return what to await, if the client must read first.

        `headers`: lower-case names, values of printable characters. `more`: the body goes on.
        """
        ...

    def write(self, data: bytes, *, more: bool) -> Awaitable[None] | None:
        """Send the next part of the body. Return what to await, if the client must read first."""
        ...


class AsgiPeer:
    """The client as an ASGI server shows it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.response_started = False
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None

    def whole_body(self) -> bytes | None:
        """Return None: a server is asked for each part."""
        return None

    async def read(self) -> tuple[bytes, bool]:
        """Return the next part of the body, and whether more comes. Raises ClientGone."""
        message: Any = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message["body"], message.get("more_body", False)

    def watch(self, on_leave: Callable[[], None]) -> None:
        """Wait in a task until the server says that the client has left."""
        self._watcher = asyncio.create_task(self._wait_for_disconnect(on_leave), name="disconnect")

    def unwatch(self) -> None:
        """Watch no more."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _wait_for_disconnect(self, on_leave: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_leave()

    async def start(self, status: int, headers: Mapping[str, str], data: bytes, *, more: bool) -> None:
        """Send the head, and the beginning of the body."""
        raw = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self.response_started = True
        await self.write(data, more=more)

    async def write(self, data: bytes, *, more: bool) -> None:
        """Send the next part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


class RequestHeaders(Mapping[str, str]):
    """The headers of a request, by lower-case name; of equal ones the last. A value is decoded when read.

    `lines`: names in lower case, and values. `count`: of the lines.
    """

    __slots__ = ("_raw", "count")

    def __init__(self, lines: Sequence[tuple[bytes, bytes]]) -> None:
        self.count = len(lines)
        self._raw = dict(lines)

    @classmethod
    def of_asgi(cls, scope: Scope) -> Self:
        """Return the headers of an ASGI request. A server should have lowered their names; not all do."""
        return cls([(name.lower(), value) for name, value in scope["headers"]])

    def __getitem__(self, name: str) -> str:
        return self._raw[name.encode("latin-1")].decode("latin-1")

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a value, or the default."""
        value = self._raw.get(name.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)
