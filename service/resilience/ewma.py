r"""Peak EWMA (from Finagle): a moving average of the time to first token that rises at once and falls slowly.

    seen  .    |.       |        a longer time counts at once, a shorter one gradually:
    value  \___| \______|  \__   after `TAU_S` seconds two thirds of the way

Without new samples the value decays at the same rate, so that a target that was avoided for one slow answer
is asked again some day.
"""

from math import exp

TAU_S = 10.0


class PeakEwma:
    """A peak-sensitive moving average. Times and values are seconds."""

    def __init__(self) -> None:
        self.value_s = 0.0  # none seen yet
        self._at_s = 0.0

    def at(self, now_s: float) -> float:
        """Return the value at this time, decayed since the last sample."""
        return self.value_s * exp(-(now_s - self._at_s) / TAU_S)

    def observe(self, took_s: float, now_s: float) -> None:
        """Add one sample."""
        if took_s >= self.value_s:
            self.value_s = took_s
        else:
            kept = exp(-(now_s - self._at_s) / TAU_S)
            self.value_s = self.value_s * kept + took_s * (1.0 - kept)
        self._at_s = now_s
