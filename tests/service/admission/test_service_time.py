"""With less time left than answers take, nobody need be asked."""

from dub5.service.admission.service_time import SAMPLES_MIN, ServiceTime, ServiceTimes
from dub5.service.events import RequestEnded
from dub5.service.model import AttemptRecord, Outcome


def test_half_of_them() -> None:
    """The middle one counts, not a quick or a slow one; with few of them nothing is known."""
    need = ServiceTime()
    for took_s in (1.0, 1.1, 1.2, 60.0):
        need.note(took_s)
    assert need.seconds == 0.0
    need.note(0.1)
    assert need.seconds == 1.1


def ended(*attempts: AttemptRecord, outcome: Outcome = Outcome.COMPLETE) -> RequestEnded:
    return RequestEnded(
        "req_1", "me", "chat", outcome, None, "one/m", True, False, 0.5, 9.0, 0.0, None, attempts
    )


def test_what_is_noted() -> None:
    """The try that gave the whole answer, without what was waited and tried before; of this kind of request
    alone."""
    service_times = ServiceTimes()
    failed, good = AttemptRecord("one/m", 3.0, 3.1, "http_500"), AttemptRecord("two/m", 4.0, 5.5, "ok")
    for _ in range(SAMPLES_MIN):
        service_times.note(ended(failed, good))
        service_times.note(ended(failed, outcome=Outcome.FAILED))
        service_times.note(ended())  # from the cache
    assert service_times.of("chat", "chat", True).seconds == 1.5
    assert service_times.of("chat", "chat", False).seconds == 0.0
