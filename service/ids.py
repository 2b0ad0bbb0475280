"""Ids of what is kept in the database: 48 bits of time and 80 of chance, 26 characters of base 32.

They sort by time. Within a process each one is larger than the one before.
"""

import re
from random import Random

from dub5.service import clock

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CHARS = 26
CHANCE_BITS = 80
AFTER_ALL = "8"  # sorts after every id: the first character holds three bits
_ID = re.compile(f"[0-7][{ALPHABET}]{{{CHARS - 1}}}")


def is_id(text: str) -> bool:
    """Return whether the text has the form of an id."""
    return _ID.fullmatch(text) is not None


def id_of(number: int) -> str:
    """Return the id of a number of 128 bits."""
    return "".join([ALPHABET[number >> (5 * place) & 31] for place in range(CHARS - 1, -1, -1)])


class Ids:
    """Makes ids."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._last = 0

    def new(self) -> str:
        """Return an id that is larger than all before, even if the clock was set back."""
        number = (int(clock.wall() * 1000) << CHANCE_BITS) | self._rng.getrandbits(CHANCE_BITS)
        self._last = max(number, self._last + 1)
        return id_of(self._last)
