"""The scenario on real processes, sockets and time, with the real Toxiproxy server where there is one."""

import asyncio
import contextlib
import importlib
from pathlib import Path
from typing import Any

from dub5.chaos.engines.find_toxiproxy import Found, find_or_build
from dub5.chaos.engines.processes import HarnessFailed, Tell, run_until_told
from dub5.chaos.engines.stack import Urls, stack
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.runner import Play, Watch
from dub5.chaos.scenario.compress import shorter
from dub5.chaos.scenario.model import Scenario

NAME = "toxiproxy"


def run(scenario: Scenario, seed: int, watch: Watch, tell: Tell) -> Journal:
    """Plays it; of one that takes hours what is between its changes is cut. Raises NotStarted, HarnessFailed."""
    return run_until_told(_play(shorter(scenario), seed, watch, tell, find_or_build()))


async def _play(scenario: Scenario, seed: int, watch: Watch, tell: Tell, found: Found) -> Journal:
    notes = (
        []
        if found.path
        else [f"No Toxiproxy ({found.why}): TCP faults are played by the simulators instead."]
    )
    for line in notes or ["toxiproxy: a proxy before each provider"]:
        tell(line)
    hands: Any = None

    async def front(urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        nonlocal hands
        module = await asyncio.to_thread(
            importlib.import_module, "dub5.chaos.engines.real_world"
        )  # while the service starts
        hands = module.Hands(found.path)
        said: Urls = await hands.front(urls, folder, exits)
        return said

    async with (
        stack(scenario.around, tell, front=front) as running,
        contextlib.AsyncExitStack() as exits,
    ):
        world = await hands.take(running, exits, notes)
        try:
            journal = await Play(scenario, NAME, seed, watch).run(world)
        except ExceptionGroup as group:
            raise HarnessFailed(why) if (why := hands.why(group, running)) else group from group
        if not running.service.running:
            journal.notes.append(f"The service ended by itself: {running.service.last_words()}")
    return journal
