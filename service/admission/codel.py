r"""Whether a queue stands: a burst makes it long for a moment, overload keeps it long.

    delay  |      /\                 ____/\____/\__
           |     /  \               /
    target |----/----\-------------/-----------------
           |___/      \___________/   |<- interval ->| from here on it stands
                a burst

CoDel (Nichols and Jacobson, 2012), as Facebook uses it in servers ("Fail at Scale", 2015): what counts is the least
delay of the last interval. The delay is that of the oldest in line, so it means the same whoever goes first.
"""

from dub5.service.config.options import AdmissionOptions


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

    def reset(self) -> None:
        """Nobody waits."""
        self._above_since_s = None

    def is_standing(self, now_s: float) -> bool:
        """Whether even the least delay of the last interval was above the target."""
        return self._above_since_s is not None and now_s - self._above_since_s >= self._options.interval_s

    def too_long(self, waited_s: float, now_s: float) -> bool:
        """Whether whoever has waited so long is to go."""
        return self.is_standing(now_s) and waited_s > 2 * self._options.target_s
