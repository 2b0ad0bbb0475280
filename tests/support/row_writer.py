"""A process that writes rows under 32 writers, and says each that was acknowledged: `row_writer URL PREFIX`.

It goes on until it is killed; while the database is lost, it tries again.
"""

import asyncio
import os
import sys
from typing import Literal

from dub5.service.store.base import Database, DatabaseLost
from dub5.service.store.url import open_database
from tests.support.database_statements import TURN, talk

WRITERS = 32


class Options:
    """What an engine has to know; the settings of the service would take half a second to import."""

    sync: Literal["power"] = "power"
    pool_max = 8


async def main(url: str, prefix: str) -> None:
    database = open_database(url, Options())
    await asyncio.gather(*(_write(database, f"{prefix}-{number}") for number in range(WRITERS)))


async def _write(database: Database, prefix: str) -> None:
    for number in range(1_000_000):
        name = f"{prefix}-{number}"
        try:
            await database.write([talk(name), TURN.bind(name, name, "a question " * 20, 1)])
        except DatabaseLost:
            await asyncio.sleep(0.02)
            continue
        os.write(1, f"{name}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
