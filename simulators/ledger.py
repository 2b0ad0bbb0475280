"""The ledger: the ground truth of what every simulated provider was asked, and what it really did.

A line is written when an attempt is over. Lines are numbered in that order, so a reader asks for the lines
after the last line that it has.
"""

import itertools
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

LINES_MAX = 100_000


class Ended(StrEnum):
    """How an attempt ended."""

    END = "end"  # as the framing promised; the answer itself may be an error
    CUT = "cut"  # the provider closed the connection early
    RESET = "reset"  # the provider reset the connection
    CLIENT_LEFT = "client_left"  # before the provider was done


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One attempt. Times are in seconds, `at_s` and `left_at_s` from the start of the simulators."""

    n: int  # number in the ledger, in the order of ends
    provider: str
    request: int  # number at this provider, in the order of arrivals, from 1
    at_s: float
    duration_s: float
    method: str
    path: str
    model: str
    prompt: str  # the prompt's tag, as in the answer's opening
    stream: bool
    retry: int  # the client's own count of its retries, 0 if it sends none
    faults: tuple[str, ...]
    status: int  # 0: no status was sent
    bytes_sent: int  # of the body
    tokens_sent: int
    ended: Ended
    left_at_s: float | None  # when the client left


class Ledger:
    """The last lines of all providers, and the number of open attempts of each."""

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        self._lines: deque[LedgerLine] = deque(maxlen=lines_max)
        self.last = 0  # number of the newest line
        self.open: dict[str, int] = {}

    def opened(self, provider: str) -> None:
        """Count an attempt that has begun."""
        self.open[provider] = self.open.get(provider, 0) + 1

    def add(self, line: LedgerLine) -> None:
        """Add the line of an attempt that is over; its number must be `last + 1`."""
        self.last = line.n
        self.open[line.provider] -= 1
        self._lines.append(line)

    def lines(self, *, since: int = 0, provider: str | None = None) -> list[LedgerLine]:
        """Return the lines with a number above `since`; the oldest may have been dropped (`lines_max`)."""
        new = itertools.islice(self._lines, max(0, len(self._lines) - (self.last - since)), None)
        return [line for line in new if provider in (None, line.provider)]
