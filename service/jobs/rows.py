"""Rows of the database, as jobs. The columns are those of statements.py."""

from typing import Any

from dub5.service.jobs.model import Job, JobState
from dub5.service.store.base import Row


def job_of(row: Row) -> Job:
    """Return the job in a row."""
    values: Any = row
    id_, owner, kind, subject, steps, made_at, state, done, tries, problem, ended_at = values
    return Job(
        id=id_,
        owner=owner,
        kind=kind,
        subject=subject,
        steps=steps,
        made_at=made_at,
        state=JobState(state),
        done=done,
        tries=tries,
        problem=problem,
        ended_at=ended_at,
    )
