"""How long answers take at least: with less time left nobody need be asked."""

from service import clock
from service.chat import Outcome
from service.events import Event, RequestEnded

LATELY_S = 10.0


class Fastest:
    """The shortest of the times that were seen in the last 10 to 20 s."""

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
        self._before_s = self._now_s if now_s < self._until_s + LATELY_S else float("inf")
        self._now_s, self._until_s = float("inf"), now_s + LATELY_S


class Needs:
    """A subscriber of every event: what whole answers took, on their way from one provider, by the kind of request."""

    def __init__(self) -> None:
        self._fastest: dict[tuple[str, str, bool], Fastest] = {}

    def note(self, event: Event) -> None:
        """The subscriber."""
        if isinstance(event, RequestEnded) and event.outcome is Outcome.COMPLETE and event.attempts:
            last = event.attempts[-1]
            if last.ok:
                self.of(event.route, event.operation, event.stream).note(
                    last.ended_s - last.started_s, clock.now()
                )

    def of(self, route: str, operation: str, stream: bool) -> Fastest:
        """Of requests of this kind."""
        key = (route, operation, stream)
        fastest = self._fastest.get(key)
        if fastest is None:
            fastest = self._fastest[key] = Fastest()
        return fastest
