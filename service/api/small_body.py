"""The body of a small request, read in a bounded time. Entry: `read_small`."""

import asyncio
from typing import Any

from litestar import Request

from dub5.service.errors import InvalidRequest, RequestTimeout, TooLarge

BODY_S = 30.0


async def read_small(request: Request[Any, Any, Any], bytes_max: int, within_s: float = BODY_S) -> bytes:
    """Return the whole body. Raises TooLarge, RequestTimeout; InvalidRequest if its client has left."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(within_s):
            while True:
                message: Any = await request.receive()
                if message["type"] == "http.disconnect":  # which Litestar takes for a crash
                    raise InvalidRequest("The body ended too early.")
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > bytes_max:
                    raise TooLarge(f"The body is larger than {bytes_max:,} bytes.")
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive in {within_s:g} s.", retry_after_s=1.0) from None
