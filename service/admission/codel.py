r"""CoDel (controlled delay): detects a standing queue. A burst delays for a moment, overload keeps delaying.

    delay  |      /\                 ____/\____/\__
           |     /  \               /
    target |----/----\-------------/-----------------
           |___/      \___________/   |<- interval ->| from here on it stands
                a burst

CoDel (Nichols and Jacobson, 2012), as Facebook uses it in servers ("Fail at Scale", 2015): the minimum delay
over the last interval counts. The delay is that of the oldest waiting request, so it means the same for every
order of service.
"""

from dub5.service.config.options import AdmissionOptions


class Codel:
    """The CoDel state of one queue. It reads no clock: each call passes the time, in loop seconds."""

    def __init__(self, options: AdmissionOptions) -> None:
        self._options = options
        self._above_since_s: float | None = None  # the delay has been above the target without a break

    def note(self, delay_s: float, now_s: float) -> None:
        """Record how long the oldest request has waited."""
        if delay_s <= self._options.target_s:
            self._above_since_s = None
        elif self._above_since_s is None:
            self._above_since_s = now_s

    def reset(self) -> None:
        """Record that no request waits."""
        self._above_since_s = None

    def is_standing(self, now_s: float) -> bool:
        """Return whether even the minimum delay over the last interval exceeded the target."""
        return self._above_since_s is not None and now_s - self._above_since_s >= self._options.interval_s

    def too_long(self, waited_s: float, now_s: float) -> bool:
        """Return whether a request that has waited this long must be shed."""
        return self.is_standing(now_s) and waited_s > 2 * self._options.target_s
