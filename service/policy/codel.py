r"""Whether a queue stands: a burst makes it long for a moment, overload keeps it long.

    delay  |      /\                 ____/\____/\__
           |     /  \               /
    target |----/----\-------------/-----------------
           |___/      \___________/   |<- interval ->| from here on it stands
                a burst

CoDel (Nichols and Jacobson, 2012), as Facebook uses it in servers ("Fail at Scale", 2015): what counts is the least
delay of the last interval. The delay is that of the oldest in line, so it means the same whoever goes first.
"""

from service.options import AdmissionOptions

FASTEST_S = 10.0


class Codel:
    """Decides from what it is told; reads no clock. Times are loop seconds."""

    def __init__(self, options: AdmissionOptions) -> None:
        self._options = options
        self._above_since_s: float | None = None  # the delay has been above the target without a break

    def note(self, delay_s: float, now_s: float) -> None:
        """The oldest has waited so long."""
        if delay_s <= self._options.target_s:
            self._above_since_s = None
        elif self._above_since_s is None:
            self._above_since_s = now_s

    def emptied(self) -> None:
        """Nobody waits."""
        self._above_since_s = None

    def stands(self, now_s: float) -> bool:
        """Whether even the least delay of the last interval was above the target."""
        return self._above_since_s is not None and now_s - self._above_since_s >= self._options.interval_s

    def too_long(self, waited_s: float, now_s: float) -> bool:
        """Whether whoever has waited so long is to go."""
        return self.stands(now_s) and waited_s > 2 * self._options.target_s


class Fastest:
    """The shortest of the times that were seen in the last 10 to 20 s: nobody needs less."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._now_s = self._before_s = float("inf")

    def note(self, took_s: float, now_s: float) -> None:
        """One more."""
        self._turn(now_s)
        self._now_s = min(self._now_s, took_s)

    def read(self, now_s: float) -> float:
        """0 where nothing is known."""
        self._turn(now_s)
        least_s = min(self._now_s, self._before_s)
        return 0.0 if least_s == float("inf") else least_s

    def _turn(self, now_s: float) -> None:
        if now_s < self._until_s:
            return
        self._before_s = self._now_s if now_s < self._until_s + FASTEST_S else float("inf")
        self._now_s, self._until_s = float("inf"), now_s + FASTEST_S
