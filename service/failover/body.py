"""ResponseBody: reads the bytes of a provider's answer in pieces, whole, or the beginning of an error."""

import asyncio
import contextlib
from collections.abc import Awaitable

from dub5.service.providers.base import ProviderFault
from dub5.service.timeouts import TimedOut, Timeouts
from dub5.service.wire.base import WireFailure, WireResponse

ERROR_BYTES_MAX = 64 * 1024
ERROR_BODY_S = 1.0
LINGER_S = 0.05
TAKE_S = 0.01  # at least, to take bytes that have arrived already


class ResponseBody:
    """The unread part of one response."""

    def __init__(self, response: WireResponse) -> None:
        self._response = response
        self._reading: asyncio.Future[bytes] | None = None

    def read(self) -> Awaitable[bytes]:
        """Return the next bytes; none at the end."""
        if self._reading is not None:
            reading, self._reading = self._reading, None
            return reading
        return self._response.read()

    async def read_within(self, limit_s: float) -> bytes | None:
        """Return the next bytes, or None after `limit_s` seconds.

        A cancelled read closes the connection; so a late read goes on, and the next `read` returns its bytes.
        """
        reading = self._reading = asyncio.ensure_future(self._response.read())
        await asyncio.wait({reading}, timeout=max(0.0, limit_s - TAKE_S))
        if not reading.done():  # the event loop may have stood still: what has arrived meanwhile is taken
            await asyncio.wait({reading}, timeout=TAKE_S)
        return await self.read() if reading.done() else None

    async def whole(self, bytes_max: int) -> bytes:
        """Return all bytes. Raises ProviderFault if they are more than `bytes_max`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > bytes_max:
                raise ProviderFault("answer_too_long")
            parts.append(data)
        return b"".join(parts)

    async def beginning(self, body: bytes = b"") -> bytes:
        """Return the beginning of an error body, as far as it comes soon. `body`: what has come already."""
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                while len(body) < ERROR_BYTES_MAX and (data := await self.read()):
                    body += data
        except (TimeoutError, WireFailure):
            pass
        return body

    async def close(self, linger: Timeouts | None) -> None:
        """Release the connection, also where this task is cancelled meanwhile.

        `linger`: the timeouts for the last bytes of the framing, if they are waited for.
        """
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)
            if linger is not None:
                with contextlib.suppress(TimedOut, WireFailure):
                    while await linger.run("linger", LINGER_S, self.read()):
                        pass
        finally:
            await self._response.aclose()
