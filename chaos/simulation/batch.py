"""Run many worlds in worker processes, one seed per job: `run_seeds(seeds, jobs)` yields their results."""

import gc
import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from dub5.chaos.engines.processes import end_workers
from dub5.chaos.simulation.invariants.coverage import REQUIRED
from dub5.chaos.simulation.mutant import mutated
from dub5.chaos.simulation.run import WorldResult, run_world
from dub5.chaos.simulation.world.generate import generate_world

AHEAD = 4  # jobs queued per worker
COLLECT_EVERY = 8  # worlds: each leaves 3 MB of cycles, and the virtual loop collects only young ones


@dataclass
class Total:
    """The sum of all results so far. `worst`: name -> (largest value, its seed)."""

    seeds: int = 0
    requests: int = 0
    virtual_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    sometimes: Counter[str] = field(default_factory=Counter)
    worst: dict[str, tuple[float, int]] = field(default_factory=dict)
    failed: list[WorldResult] = field(default_factory=list)

    def add(self, result: WorldResult) -> None:
        """Add one result."""
        self.seeds += 1
        self.requests += result.requests
        self.virtual_s += result.virtual_s
        self.outcomes += result.outcomes
        self.sometimes += result.sometimes
        for name, value in result.worst.items():
            self.worst[name] = max(self.worst.get(name, (value, result.seed)), (value, result.seed))
        if result.violations:
            self.failed.append(result)

    def never(self) -> list[str]:
        """Return the required branches that were never reached."""
        return [name for name in REQUIRED if not self.sometimes[name]]


def run_seed(seed: int, mutant: str | None = None) -> WorldResult:
    """Generate and run one world."""
    logging.disable(logging.ERROR)  # failures are in the result; asyncio's own log lines would hide them
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    with mutated(mutant):
        return run_world(generate_world(seed))


def run_seeds(seeds: Sequence[int], jobs: int, mutant: str | None = None) -> Iterator[WorldResult]:
    """Yield results as they are ready, in no fixed order."""
    if jobs == 1:
        for seed in seeds:
            yield run_seed(seed, mutant)
        return
    context = multiprocessing.get_context("spawn")  # the same on every system, and no inherited state
    with ProcessPoolExecutor(jobs, context) as pool:
        left, running = iter(seeds), set[Future[WorldResult]]()
        submit: Callable[[int], None] = lambda seed: running.add(pool.submit(run_seed, seed, mutant))
        try:
            for _, seed in zip(range(jobs * AHEAD), left, strict=False):
                submit(seed)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running.discard(future)
                    if (seed_or_none := next(left, None)) is not None:
                        submit(seed_or_none)
                    yield future.result()
        except BaseException:  # stopped from outside: a world may take long
            end_workers()
            raise
        finally:
            for future in running:
                future.cancel()
