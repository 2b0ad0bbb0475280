"""How long answers take: with less time left it is more likely than not that one comes too late."""

from collections import deque

from dub5.service.events import Event, RequestEnded
from dub5.service.model import Outcome

SAMPLES_MIN = 5
SAMPLES_MAX = 50


class ServiceTime:
    """Half of the last answers took longer than this. Most are noted and never asked for: it is found when it is."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._median_s: float | None = 0.0  # None: not found yet

    def note(self, took_s: float) -> None:
        """One more."""
        self._took_s.append(took_s)
        self._median_s = None

    @property
    def seconds(self) -> float:
        """0 where too little is known."""
        if self._median_s is None:
            known = len(self._took_s) >= SAMPLES_MIN
            self._median_s = sorted(self._took_s)[len(self._took_s) // 2] if known else 0.0
        return self._median_s


class ServiceTimes:
    """A subscriber of every event: what whole answers took, on their way from one provider, by the kind of request."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, str, bool], ServiceTime] = {}

    def note(self, event: Event) -> None:
        """The subscriber."""
        if isinstance(event, RequestEnded) and event.outcome is Outcome.COMPLETE and event.attempts:
            last = event.attempts[-1]
            if last.ok:
                self.of(event.route, event.operation, event.stream).note(last.ended_s - last.started_s)

    def of(self, route: str, operation: str, stream: bool) -> ServiceTime:
        """Of requests of this kind."""
        key = (route, operation, stream)
        service_time = self._by_kind.get(key)
        if service_time is None:
            service_time = self._by_kind[key] = ServiceTime()
        return service_time
