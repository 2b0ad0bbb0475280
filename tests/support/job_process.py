"""`dub5 work` with a tiny kind of jobs, as a process: `-m tests.support.job_process DATABASE STEP_S LEASE_S`.

Each step writes a row, without regard to rows that are there: a step that was done twice is seen.
"""

import asyncio
import sys

from dub5.service import work_command
from dub5.service.app import Service
from dub5.service.config.settings import (
    ConversationSettings,
    JobsSettings,
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    SessionSettings,
    Settings,
)
from dub5.service.jobs import job_run, worker
from dub5.service.jobs.model import Job
from dub5.service.store.base import BoundStatement, Statement

KIND = "row"
WORKERS = 8
TABLE = "CREATE TABLE result (job TEXT NOT NULL, step BIGINT NOT NULL)"
PUT = Statement("put_row", "INSERT INTO result (job, step) VALUES ($1, $2)")


class RowKind:
    """Steps that wait for a while, and write a row."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    async def step(self, job: Job) -> list[BoundStatement]:
        """Do a step."""
        await asyncio.sleep(self._step_s)
        return [PUT.bind(job.id, job.done)]


def loaded_settings(url: str) -> LoadedSettings:
    """Return the settings of a service whose only use are its jobs."""
    settings = Settings(
        (ProviderSettings("one", "openai", "http://127.0.0.1:9/v1"),),
        (RouteSettings("chat", ("one/m",)),),
        session=SessionSettings(),
        conversation=ConversationSettings(),
        jobs=JobsSettings(workers=WORKERS),
    )
    return LoadedSettings(settings, {"one": ()}, (), database_url=Secret(url))


def main(url: str, step_s: float, lease_s: float) -> None:
    """Do jobs until a signal comes."""
    job_run.LEASE_S = worker.LEASE_S = lease_s
    job_run.RENEW_S = lease_s / 3
    loaded = loaded_settings(url)
    service = Service(loaded)
    assert service.jobs is not None
    service.jobs.kinds[KIND] = RowKind(step_s)
    asyncio.run(work_command.work(service, lambda running: loaded))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
