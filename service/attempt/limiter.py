"""How many requests a provider is given at one time: found by trying (additive increase, multiplicative decrease).

    limit |‾‾‾‾‾|            /|      a drop (429, 529, a timeout, no connection): 0.7 times what was in flight
          |     |        _/   |_     a success near the limit: a little more, a tenth of it per round of answers
          |     |____/
                drop          drop

Losses alone move it, never latency: how long an answer takes depends on how long it is (Netflix concurrency-limits
recommends the same for clients). Tries that began before the last decrease do not decrease it again: they are news
of the same overload.
"""

from enum import StrEnum

from service.options import LimiterOptions


class Load(StrEnum):
    """What the end of a try says about the provider's load."""

    TAKEN = "taken"  # it answered
    DROPPED = "dropped"  # it had no room
    UNKNOWN = "unknown"  # neither: the client left, say


class Limiter:
    """Decides from what it is told; reads no clock."""

    def __init__(self, options: LimiterOptions) -> None:
        self.limit = float(options.max)
        self.in_flight = 0
        self.era = 0  # grows with each decrease
        self._options = options

    def has_room(self) -> bool:
        """Whether one more may be sent."""
        return self.in_flight < int(self.limit)

    def enter(self) -> int:
        """One more is sent; what `leave` wants back. Only where there is room."""
        self.in_flight += 1
        return self.era

    def leave(self, era: int, load: Load) -> bool:
        """One is back; whether the limit was lowered."""
        busy, self.in_flight = self.in_flight, self.in_flight - 1
        if load is Load.TAKEN and busy * 2 >= self.limit:
            step = max(1.0, self.limit * self._options.growth) / self.limit
            self.limit = min(self.limit + step, float(self._options.max))
        elif load is Load.DROPPED and era == self.era:
            self.era += 1
            before = int(self.limit)
            cut = min(self.limit, busy) * self._options.decrease
            self.limit = min(self.limit, max(cut, float(self._options.min)))
            return int(self.limit) < before
        return False

    def adopt(self, options: LimiterOptions) -> None:
        """Other options from now on."""
        untried = self.limit >= self._options.max
        self._options = options
        self.limit = float(options.max) if untried else min(max(self.limit, options.min), float(options.max))
