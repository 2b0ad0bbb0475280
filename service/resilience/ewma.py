r"""The time to first token that a target shows now, worst first: a peak-sensitive moving average.

    seen  .    |.       |        a longer time counts at once, a shorter one little by little:
    value  \___| \______|  \__   after `TAU_S` seconds two thirds of it

Without news it fades likewise: whoever is avoided for a slow answer is asked again one day. From Finagle's PeakEwma.
"""

from math import exp

TAU_S = 10.0


class PeakEwma:
    """Times and values are seconds."""

    def __init__(self) -> None:
        self.value_s = 0.0  # none seen yet
        self._at_s = 0.0

    def at(self, now_s: float) -> float:
        """What is left of it now."""
        return self.value_s * exp(-(now_s - self._at_s) / TAU_S)

    def observe(self, took_s: float, now_s: float) -> None:
        """One more."""
        if took_s >= self.value_s:
            self.value_s = took_s
        else:
            kept = exp(-(now_s - self._at_s) / TAU_S)
            self.value_s = self.value_s * kept + took_s * (1.0 - kept)
        self._at_s = now_s
