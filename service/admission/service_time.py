"""Service times: the median duration of the last complete answers, for each kind of request.

A queued request with less time left than this median would time out more often than not, so the queue
refuses it (`Waiter.expired`). Call `ServiceTimes.of(route, operation, stream).seconds`.
"""

from collections import deque

from dub5.service.events import EventHandlers, RequestEnded
from dub5.service.model import Outcome

SAMPLES_MIN = 5
SAMPLES_MAX = 50
COMPLETE = Outcome.COMPLETE


class ServiceTime:
    """The median of the last answers' times. Most samples are never read, so it is computed on reading."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._median_s: float | None = 0.0  # None: not computed yet

    def note(self, took_s: float) -> None:
        """Add one sample."""
        self._took_s.append(took_s)
        self._median_s = None

    @property
    def seconds(self) -> float:
        """The median; 0 with fewer than `SAMPLES_MIN` samples."""
        if self._median_s is None:
            known = len(self._took_s) >= SAMPLES_MIN
            self._median_s = sorted(self._took_s)[len(self._took_s) // 2] if known else 0.0
        return self._median_s


class ServiceTimes:
    """A subscriber of events: how long one provider took for each complete answer, by kind of request."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, str, bool], ServiceTime] = {}
        self.note = EventHandlers({RequestEnded: self._request_ended})

    def _request_ended(self, event: RequestEnded) -> None:
        """Record the time of a complete answer."""
        if event.outcome is COMPLETE and event.attempts:
            last = event.attempts[-1]
            if last.ok:
                self.of(event.route, event.operation, event.stream).note(last.ended_s - last.started_s)

    def of(self, route: str, operation: str, stream: bool) -> ServiceTime:
        """Return the service time of requests of this kind."""
        key = (route, operation, stream)
        service_time = self._by_kind.get(key)
        if service_time is None:
            service_time = self._by_kind[key] = ServiceTime()
        return service_time
