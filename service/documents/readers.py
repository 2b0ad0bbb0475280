"""Readers: at most so many files are read at one time, and a bounded number waits, in order."""

from collections.abc import Awaitable, Callable

from dub5.service.admission.places import NoPlace, Places
from dub5.service.documents.refusals import ReadRefused
from dub5.service.documents.report import ReadText

ReadFile = Callable[[bytes, str], Awaitable[ReadText]]  # raises ReadRefused
WAITING_PER_READER = 8
WAIT_S = 30.0


class Readers:
    """Reads files with `read_file`, `count` at one time."""

    def __init__(self, read_file: ReadFile, count: int = 2) -> None:
        self.count = count
        self._read_file = read_file
        self._places = Places(count, WAITING_PER_READER * count, WAIT_S)

    async def read(self, data: bytes, name: str) -> ReadText:
        """Return the text of a file. Raises ReadRefused: also if too many wait, or this one for too long."""
        try:
            async with self._places.take():
                return await self._read_file(data, name)
        except NoPlace:
            raise ReadRefused("overloaded") from None
