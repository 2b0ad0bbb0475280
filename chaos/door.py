"""The service under test, as its clients reach it: over real sockets, or inside the process on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiohttp
import msgspec

from simulators.virtual import AppClient

CHAT = "/v1/chat/completions"
STATUS = "/status"


class Unreachable(Exception):
    """No reply at all: refused, or the connection ended before a status."""


class Reply(Protocol):
    """A reply from its head on; header names are lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """The next bytes; `b""` at the end as HTTP promised it. Raises Unreachable if the connection breaks."""
        ...


class Door(Protocol):
    """Where requests go in."""

    def ask(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AbstractAsyncContextManager[Reply]:
        """One chat request. Raises Unreachable."""
        ...

    async def status(self) -> dict[str, Any] | None:
        """What the service says of itself; None if it has nothing to say."""
        ...


class AppDoor:
    """An application in this process."""

    def __init__(self, client: AppClient) -> None:
        self._client = client

    def ask(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AbstractAsyncContextManager[Reply]:
        return self._client.stream("POST", CHAT, json=dict(body), headers=headers)

    async def status(self) -> dict[str, Any] | None:
        answer = await self._client.request("GET", STATUS)
        return _object(answer.status, answer.body)


class HttpDoor:
    """A service at an address. The session is the caller's; its own timeouts must be off."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    @asynccontextmanager
    async def ask(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[Reply]:
        try:
            response = await self._session.post(self._url + CHAT, json=body, headers=headers)
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(str(error)) from error
        try:
            yield _HttpReply(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def status(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(1.0), self._session.get(self._url + STATUS) as response:
                return _object(response.status, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


class _HttpReply:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(str(error)) from error


@asynccontextmanager
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that leaves every limit to its caller and asks no proxy."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


def _object(status: int, body: bytes) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(body) if status == 200 else None
    except msgspec.DecodeError:
        return None
    return said if isinstance(said, dict) else None
