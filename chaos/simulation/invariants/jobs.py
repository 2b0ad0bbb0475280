"""Jobs of a world: what was asked of whom, held against what the database says.

rule              says
jobs_end          a job that was told to be kept is there, and ends once nothing is wrong any more, whatever
                  died meanwhile; it is done when all of its steps are
steps_kept_once   a step whose result is kept is not asked again; in one process a step whose work was done is
                  not asked again, whatever the database says; no two do one job at one time
"""

from collections import Counter
from dataclasses import dataclass

from dub5.chaos.simulation.invariants.record import RunRecord
from dub5.chaos.simulation.world.model import World
from dub5.simulators.virtual import VirtualStorage

POSITION = "SELECT done FROM job WHERE id = $1"
ROWS = "SELECT id, state, done, steps, problem FROM job"
OPEN = "SELECT COUNT(*) FROM job WHERE ended_at IS NULL"
RUNNING = "SELECT id FROM job WHERE state = 'running'"
TRIES_MAX = 5


@dataclass(frozen=True, slots=True)
class JobStep:
    """A step of a job."""

    job: str
    number: int


class JobsRecord:
    """What was observed of the jobs of a world. `kept`: those that were told to be kept."""

    def __init__(self, record: RunRecord, storage: VirtualStorage) -> None:
        self.kept: list[str] = []
        self.asked: Counter[JobStep] = Counter()
        self.worked: Counter[JobStep] = Counter()  # the step was done, whether it was kept or not
        self._lives: dict[JobStep, int] = {}  # the process in which its work was done
        self._at_work: dict[str, int] = {}  # the process that does a job, by job
        self._left: set[str] = set()  # what a process that died had under its lease
        self._record = record
        self._storage = storage

    def begin(self, step: JobStep, life: int) -> None:
        """Note that a step is asked."""
        ((done,),) = self._storage.rows(POSITION, step.job)
        if done > step.number:
            self._violated(f"step {step.number} of {step.job} is asked, and {done} are kept")
        if self._lives.get(step) == life:
            self._violated(f"step {step.number} of {step.job} is asked again, and its work was done")
        if self._at_work.get(step.job) == life:
            self._violated(f"{step.job} is at work twice")
        took_over = step.job in self._left
        self._left.discard(step.job)
        self._record.sometimes["lease taken over"] += took_over
        self._record.sometimes["job step tried again"] += self.asked[step] > 0 and not took_over
        self._at_work[step.job] = life
        self.asked[step] += 1
        self._record.log(f"step {step.number} of job {step.job} in process {life}")

    def end(self, step: JobStep, life: int, *, worked: bool) -> None:
        """Note that a step has worked, failed or was cancelled."""
        if self._at_work.get(step.job) == life:
            del self._at_work[step.job]
        if worked:
            self._lives[step] = life
            self.worked[step] += 1

    def note_crash(self) -> None:
        """Note which jobs a process has at the moment in which it dies."""
        self._left = {str(id_) for (id_,) in self._storage.rows(RUNNING)}

    def all_ended(self) -> bool:
        """Return whether no job is left to do."""
        return self._storage.rows(OPEN) == [(0,)]

    def _violated(self, what: str) -> None:
        self._record.violated("steps_kept_once", what)


def check_jobs(world: World, record: RunRecord, jobs: JobsRecord, storage: VirtualStorage) -> None:
    """Check all jobs at the end of a run."""
    rows = {row[0]: row[1:] for row in storage.rows(ROWS)}
    for id_ in jobs.kept:
        if id_ not in rows:
            record.violated("jobs_end", f"job {id_} was told to be kept, and is gone")
    for id_, (state, done, steps, problem) in rows.items():
        record.sometimes[f"job {state}"] += 1
        if world.drain is None and state not in ("done", "failed"):
            record.violated("jobs_end", f"job {id_} is {state} for ever, after {done} of {steps} steps")
        if (state == "done") is not (done == steps) or (state == "failed") is not (problem is not None):
            record.violated("jobs_end", f"job {id_} is {state}: {done} of {steps}, {problem!r}")
        for number in range(done):
            if not jobs.worked[JobStep(id_, number)]:
                record.violated("jobs_end", f"step {number} of {id_} is kept, and nobody did it")
        if state == "failed" and jobs.asked[JobStep(id_, done)] < TRIES_MAX:
            record.violated("jobs_end", f"job {id_} was given up early: {problem!r}")
    lives = 1 if world.crash is None else 2
    for step, count in jobs.worked.items():
        if count > lives:
            record.violated("steps_kept_once", f"step {step.number} of {step.job} was done {count} times")
