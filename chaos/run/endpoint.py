"""The service under test as its clients reach it: in this process here, over HTTP in
engines/http_endpoint.py."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from dub5.simulators.virtual import AppClient

CHAT = "/v1/chat/completions"
STATUS = "/status"


class EndpointUnreachable(Exception):
    """There is no reply: the connection was refused, or ended before a status."""


class EndpointReply(Protocol):
    """A reply from its head on. Header names are lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """Return the next bytes; `b""` at the end of a complete body. Raises EndpointUnreachable."""
        ...


class Endpoint(Protocol):
    """The service under test."""

    def chat(
        self, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EndpointReply]:
        """Send one chat request. Raises EndpointUnreachable."""
        ...

    async def status(self) -> dict[str, Any] | None:
        """Return the object of /status, or None if the service has none."""
        ...


class AsgiEndpoint:
    """An ASGI application in this process."""

    def __init__(self, client: AppClient) -> None:
        self._client = client

    def chat(
        self, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EndpointReply]:
        return self._client.stream("POST", CHAT, json=dict(body), headers=headers)

    async def status(self) -> dict[str, Any] | None:
        answer = await self._client.request("GET", STATUS)
        return read_object(answer.status, answer.body)


def read_object(status: int, body: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a 200; None for anything else."""
    try:
        decoded = msgspec.json.decode(body) if status == 200 else None
    except msgspec.DecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None
