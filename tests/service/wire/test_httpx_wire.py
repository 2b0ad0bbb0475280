"""Transports that are not httpx's own: they may tell nothing by trace events."""

from collections.abc import AsyncIterator

import httpx
import pytest

from dub5.service.wire.base import FailureKind, Slots, Stage, WireFailure, WireRequest
from dub5.service.wire.httpx_wire import HttpxWire

CALL = WireRequest("POST", "http://one.test:9001/v1/chat", {"authorization": "Bearer k"}, b"{}")


class ByteParts(httpx.AsyncByteStream):
    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part

    async def aclose(self) -> None:
        self.closed += 1


class UntracedTransport(httpx.AsyncBaseTransport):
    """Answers with `outcome` and traces nothing."""

    def __init__(self, outcome: Exception | httpx.Response) -> None:
        self.outcome = outcome

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_an_answer() -> None:
    """Any transport's stream is read to its end, empty parts left out, and then closed."""
    body = ByteParts(b"", b"da", b"", b"ta")
    wire = HttpxWire(UntracedTransport(httpx.Response(200, headers={"X-A": "b"}, stream=body)))
    response = await wire.send(CALL)
    assert (response.status, response.headers, response.reused) == (200, {"x-a": "b"}, False)
    assert [await response.read() for _ in range(4)] == [b"da", b"ta", b"", b""]
    assert body.closed


@pytest.mark.parametrize(
    ("error", "stage", "what"),
    [
        (httpx.ConnectError("no"), Stage.CONNECT, FailureKind.REFUSED),
        (httpx.ConnectTimeout("no"), Stage.CONNECT, FailureKind.TIMEOUT),
        (httpx.WriteError("no"), Stage.SEND, FailureKind.CLOSED),
        (httpx.ReadError("no"), Stage.WAIT, FailureKind.CLOSED),
        (httpx.ReadTimeout("no"), Stage.WAIT, FailureKind.TIMEOUT),
        (httpx.RemoteProtocolError("no"), Stage.WAIT, FailureKind.PROTOCOL),
    ],
)
async def test_doubt_counts_as_sent(error: Exception, stage: Stage, what: FailureKind) -> None:
    """A transport that traces nothing may have sent the request, whatever its error is called."""
    slots = Slots(1)
    with pytest.raises(WireFailure) as caught:
        await HttpxWire(UntracedTransport(error), slots=slots).send(CALL)
    assert (caught.value.stage, caught.value.kind, caught.value.sent) == (stage, what, True)
    await slots.take(CALL.origin, 0)
