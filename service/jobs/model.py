"""What is known of a job: a subject, and a position in the steps that it takes."""

from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from dub5.service.store.base import BoundStatement


class JobState(StrEnum):
    """Where a job is."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Job(Struct, frozen=True):
    """A job. `kind` names who does it, `subject` what it is about. `done` of `steps` are kept.

    `tries`: at the step under way. `problem`: why it failed, in words for its owner. Times are epoch seconds.
    """

    id: str
    owner: str
    kind: str
    subject: str
    steps: int
    made_at: float
    state: JobState = JobState.READY
    done: int = 0
    tries: int = 0
    problem: str | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state in (JobState.DONE, JobState.FAILED)


class JobFailed(Exception):
    """Raised by a step that is useless to repeat. Its text is for the owner."""


class JobKind(Protocol):
    """Who does the jobs of one kind."""

    async def step(self, job: Job) -> list[BoundStatement]:
        """Do the step number `job.done`. Return the writes that keep its result, each one repeatable.

        They are committed together with `done + 1`. Raises JobFailed; whatever GatewayError or StoreLost it
        raises means that the step is tried again later.
        """
        ...
