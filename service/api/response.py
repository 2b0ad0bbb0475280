"""ResponseWriter: the HTTP side of an exchange. It sends the answer, and knows how much of it is out.

NOTHING -> JSON ---------------> ALL       a JSON answer, or an error with its status
NOTHING -> HEARTBEATS -> EVENTS -> ALL     a stream; an error after its head is its last event

A client that does not read for `client_stall_s` is gone.
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping
from enum import Enum, auto
from typing import TypeVar

import msgspec

from dub5.service.api.errors import ClientGone, error_body, error_headers
from dub5.service.api.peer import Peer
from dub5.service.api.stream import DONE, HEARTBEAT, SSE_HEADERS, error_event
from dub5.service.errors import GatewayError, StreamStalled
from dub5.service.model import Chunk, Chunks
from dub5.service.timeouts import TimedOut, Timeouts

T = TypeVar("T")
PIECE_BYTES = 64 * 1024
FIT = re.compile(r"[ -~]*+")
UNFIT = re.compile(r"[\x00-\x1f\x7f]")


class Sent(Enum):
    """How much of the response is out."""

    NOTHING = auto()
    HEARTBEATS = auto()  # the head of a stream, and comments
    EVENTS = auto()  # the head of a stream, and some of the answer
    JSON = auto()  # the head of a JSON body, and perhaps some of it
    ALL = auto()


class ResponseWriter:
    """Sends one response. `timeouts` are those of the exchange."""

    done = DONE  # ends a whole stream

    def __init__(self, request_id: str, peer: Peer, timeouts: Timeouts, client_stall_s: float) -> None:
        self.sent = Sent.NOTHING
        self.request_id = request_id
        self.more_headers: Mapping[str, str] | None = None  # for every answer, whatever it is
        self._peer = peer
        self._timeouts = timeouts
        self._client_stall_s = client_stall_s

    async def send_json(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a JSON body. `headers` hold its type and length. Raises ClientGone."""
        if len(body) <= PIECE_BYTES:
            await self._start(status, headers, body, Sent.JSON, more=False)
            return
        # In pieces, so that a client that does not read is noticed before all of it lies in our memory.
        await self._start(status, headers, body[:PIECE_BYTES], Sent.JSON, more=True)
        for at in range(PIECE_BYTES, len(body), PIECE_BYTES):
            await self._write(body[at : at + PIECE_BYTES], more=at + PIECE_BYTES < len(body))

    async def send_stream(self, headers: dict[str, str], chunks: list[Chunk], stream: Chunks) -> None:
        """Send the head, unless a heartbeat has; then `chunks` and the rest of `stream`.

        Raises ClientGone, and what `stream.read` raises.
        """
        if self.sent is Sent.NOTHING:
            data = b"".join([chunk.raw for chunk in chunks])
            await self._start(200, SSE_HEADERS | headers, data, Sent.EVENTS, more=True)
            chunks = await stream.read()
        self.sent = Sent.EVENTS
        peer = self._peer
        while chunks:
            if data := chunks[0].raw if len(chunks) == 1 else b"".join([chunk.raw for chunk in chunks]):
                waiting = peer.write(data, more=True)
                if waiting is not None:
                    await self.within_stall(waiting)
            chunks = await stream.read()
        await self._write(self.done, more=False)

    async def send_heartbeat(self, headers: dict[str, str]) -> None:
        """Send a comment; the first one commits status 200.

        Raises TimeoutError where the client does not read.
        """
        async with asyncio.timeout(self._client_stall_s):
            if self.sent is Sent.NOTHING:
                head = self._fit(SSE_HEADERS | headers)
                waiting = self._peer.start(200, head, HEARTBEAT, more=True)
            else:
                waiting = self._peer.write(HEARTBEAT, more=True)
            try:
                if waiting is not None:
                    await waiting
            finally:  # the answer may have come before the head was out: then it has one of its own
                if self.sent is Sent.NOTHING and self._peer.response_started:
                    self.sent = Sent.HEARTBEATS

    async def send_error(self, error: GatewayError) -> None:
        """Send the error as what is out still allows: a status and JSON, or a last event. Raises ClientGone.

        Inside a JSON body nothing can be said: it ends too short, which its length shows.
        """
        body = msgspec.json.encode(error_body(error, self.request_id))
        if self.sent is Sent.NOTHING:
            headers = error_headers(error, self.request_id) | {"content-length": str(len(body))}
            await self.send_json(error.status, headers, body)
        elif self.sent is not Sent.JSON:
            await self._write(self.error_event(body), more=False)

    def error_event(self, body: bytes) -> bytes:
        """Return the last event of a stream that is not whole, for the body of an error."""
        return error_event(body)

    async def within_stall(self, awaitable: Awaitable[T]) -> T:
        """Await the client, for at most `client_stall_s`.

        Raises ClientGone, StreamStalled at the deadline.
        """
        try:
            return await self._timeouts.run("client_stall", self._client_stall_s, awaitable)
        except TimedOut as timed_out:
            if timed_out.timeout == "client_stall" or self.sent not in (Sent.HEARTBEATS, Sent.EVENTS):
                raise ClientGone from None
            raise StreamStalled("The deadline passed before the answer was whole.") from None

    async def _start(
        self, status: int, headers: Mapping[str, str], data: bytes, sent: Sent, *, more: bool
    ) -> None:
        """Send the head and the beginning of the body, which are one wait."""
        try:
            waiting = self._peer.start(status, self._fit(headers), data, more=more)
            if waiting is not None:
                await self.within_stall(waiting)
        finally:
            if self._peer.response_started:
                self.sent = sent
        if not more:
            self.sent = Sent.ALL

    async def _write(self, data: bytes, *, more: bool) -> None:
        waiting = self._peer.write(data, more=more)
        if waiting is not None:
            await self.within_stall(waiting)
        if not more:
            self.sent = Sent.ALL

    def _fit(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return all headers. A character that one cannot hold becomes `?`, whoever it came from."""
        if self.more_headers is not None:
            headers = {**headers, **self.more_headers}
        if FIT.fullmatch("".join(headers.values())):
            return headers
        return {name: UNFIT.sub("?", value).strip() for name, value in headers.items()}
