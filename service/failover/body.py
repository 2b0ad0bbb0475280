"""The bytes of a provider's answer: piece by piece, whole within a bound, or as much of an error as comes soon."""

import asyncio
import contextlib
from collections.abc import Awaitable

from dub5.service.providers.base import ProviderFault
from dub5.service.timeouts import TimedOut, Timeouts
from dub5.service.wire.base import WireFailure, WireResponse

ERROR_BYTES_MAX = 64 * 1024
ERROR_BODY_S = 1.0
LINGER_S = 0.05


class ResponseBody:
    """What is still to come of one answer."""

    def __init__(self, response: WireResponse) -> None:
        self._response = response
        self._reading: asyncio.Future[bytes] | None = None

    def read(self) -> Awaitable[bytes]:
        """The next bytes; none at the end."""
        if self._reading is not None:
            reading, self._reading = self._reading, None
            return reading
        return self._response.read()

    async def read_within(self, limit_s: float) -> bytes | None:
        """The next bytes if they come in time. A read that is cancelled closes the connection, so one that does not
        come is left for the next `read`."""
        reading = self._reading = asyncio.ensure_future(self._response.read())
        await asyncio.wait({reading}, timeout=max(0.0, limit_s))
        return await self.read() if reading.done() else None

    async def whole(self, bytes_max: int) -> bytes:
        """All of them. Raises ProviderFault."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > bytes_max:
                raise ProviderFault("answer_too_long")
            parts.append(data)
        return b"".join(parts)

    async def beginning(self) -> bytes:
        """As much of an error as can be read soon: the status alone already says that it is one."""
        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                while len(body) < ERROR_BYTES_MAX and (data := await self.read()):
                    body += data
        except (TimeoutError, WireFailure):
            pass
        return body

    async def close(self, linger: Timeouts | None) -> None:
        """Lets the connection go. `linger`: the answer is over, and the last bytes of its framing may still be on their
        way; who guards the wait for them."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if linger is not None:
            with contextlib.suppress(TimedOut, WireFailure):
                while await linger.run("linger", LINGER_S, self.read()):
                    pass
        await self._response.aclose()
