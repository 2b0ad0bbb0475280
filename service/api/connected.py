"""Work for a client that may leave: it ends with the connection. Call `while_connected`."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from litestar.types import Receive


async def while_connected(work: Coroutine[Any, Any, None], receive: Receive, name: str) -> None:
    """Do the work, and end it if the client leaves before. Raises what the work raises."""
    task = asyncio.create_task(work, name=name)
    gone = asyncio.create_task(_disconnected(receive), name=f"disconnect of {name}")
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
