"""How long answers take: with less time left it is more likely than not that one comes too late."""

from service.attempt.hedge import Percentile
from service.chat import Outcome
from service.events import Event, RequestEnded

SAMPLES_MIN = 5


class Need:
    """Half of the last answers took longer than this."""

    def __init__(self) -> None:
        self._took_s = Percentile(0.5)

    def note(self, took_s: float) -> None:
        """One more."""
        self._took_s.add(took_s)

    @property
    def seconds(self) -> float:
        """0 where too little is known."""
        return self._took_s.read(SAMPLES_MIN) or 0.0


class Needs:
    """A subscriber of every event: what whole answers took, on their way from one provider, by the kind of request."""

    def __init__(self) -> None:
        self._needs: dict[tuple[str, str, bool], Need] = {}

    def note(self, event: Event) -> None:
        """The subscriber."""
        if isinstance(event, RequestEnded) and event.outcome is Outcome.COMPLETE and event.attempts:
            last = event.attempts[-1]
            if last.ok:
                self.of(event.route, event.operation, event.stream).note(last.ended_s - last.started_s)

    def of(self, route: str, operation: str, stream: bool) -> Need:
        """Of requests of this kind."""
        key = (route, operation, stream)
        need = self._needs.get(key)
        if need is None:
            need = self._needs[key] = Need()
        return need
