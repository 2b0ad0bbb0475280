"""The service under test, as its clients reach it: here inside the process on virtual time; sockets: http_endpoint.py."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from dub5.simulators.virtual import AppClient

CHAT = "/v1/chat/completions"
STATUS = "/status"


class EndpointUnreachable(Exception):
    """No reply at all: refused, or the connection ended before a status."""


class EndpointReply(Protocol):
    """A reply from its head on; header names are lower case."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes:
        """The next bytes; `b""` at the end as HTTP promised it. Raises EndpointUnreachable."""
        ...


class Endpoint(Protocol):
    """Where requests go in."""

    def chat(
        self, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EndpointReply]:
        """Send one chat request. Raises EndpointUnreachable."""
        ...

    async def status(self) -> dict[str, Any] | None:
        """What the service says of itself; None if it has nothing to say."""
        ...


class AsgiEndpoint:
    """An application in this process."""

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
    """The JSON object of a good reply; None for anything else."""
    try:
        said = msgspec.json.decode(body) if status == 200 else None
    except msgspec.DecodeError:
        return None
    return said if isinstance(said, dict) else None
