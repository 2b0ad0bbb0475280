"""What follows a step of a job: it is kept, tried again, or the job has failed. Pure."""

from msgspec import Struct

from dub5.service.errors import GatewayError
from dub5.service.jobs.model import JobFailed
from dub5.service.store.store import StoreLost

TRIES_MAX = 5
PAUSE_FIRST_S, PAUSE_FACTOR, PAUSE_MAX_S = 5.0, 3.0, 600.0
JITTER = 0.25  # of a pause, at most taken away
CRASHED = "An internal error occurred."
UNREADABLE = "The database did not answer."
KILLED = f"It was begun {TRIES_MAX} times, and the process ended each time before the step was done."


class Retry(Struct, frozen=True):
    """The step is tried again after a pause."""

    pause_s: float


class GiveUp(Struct, frozen=True):
    """The job has failed. `problem`: why, for its owner."""

    problem: str


def after_error(error: BaseException, tries: int, chance: float) -> Retry | GiveUp:
    """Return what follows a step that has not worked. `tries`: with this one; `chance`: from 0 to 1."""
    if isinstance(error, JobFailed):
        return GiveUp(str(error) or CRASHED)
    if tries >= TRIES_MAX:
        return GiveUp(f"A step has failed {tries} times. The last time: {_words(error)}")
    pause_s = min(PAUSE_FIRST_S * PAUSE_FACTOR ** max(0, tries - 1), PAUSE_MAX_S) * (1 - JITTER * chance)
    if isinstance(error, GatewayError) and error.retry_after_s is not None:
        pause_s = max(pause_s, min(error.retry_after_s, PAUSE_MAX_S))
    return Retry(pause_s)


def _words(error: BaseException) -> str:
    match error:
        case GatewayError():
            return error.message
        case StoreLost():
            return UNREADABLE
    return CRASHED
