"""The endpoint of a service at an HTTP address."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from dub5.chaos.run.endpoint import CHAT, STATUS, EndpointReply, EndpointUnreachable, read_object


class HttpEndpoint:
    """A service at an address. The session belongs to the caller; its own timeouts must be off."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    @asynccontextmanager
    async def chat(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[EndpointReply]:
        try:
            response = await self._session.post(self._url + CHAT, json=body, headers=headers)
        except (aiohttp.ClientError, OSError) as error:
            raise EndpointUnreachable(str(error)) from error
        try:
            yield _HttpReply(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def status(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(1.0), self._session.get(self._url + STATUS) as response:
                return read_object(response.status, await response.read())
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
            raise EndpointUnreachable(str(error)) from error


@asynccontextmanager
async def http_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session without a connection limit, total timeout or proxy."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session
