"""Jobs: background work of the service. What those of a world are like."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobLoad:
    """`count` jobs of up to `steps_max` steps are made, evenly over the time of the traffic.

    `step_s`: of a step, in the mean. `fail_share`: of the steps that fail, as where providers are down.
    """

    count: int
    steps_max: int
    step_s: float
    fail_share: float = 0.0
    workers: int = 1

    def line(self) -> str:
        """Describe them in a line."""
        failing = f", {self.fail_share:.0%} fail" if self.fail_share else ""
        return (
            f"  {self.count} jobs of 1-{self.steps_max} steps of {self.step_s:g} s{failing}, "
            f"{self.workers} at one time"
        )
