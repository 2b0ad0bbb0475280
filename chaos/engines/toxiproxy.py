"""The scenario on real processes, sockets and time, with the real Toxiproxy server where there is one."""

import asyncio
import contextlib
import importlib
from pathlib import Path
from typing import Any

from chaos.journal import Journal
from chaos.play import Play, Watch
from chaos.processes import HarnessFailed, Tell, run_until_told
from chaos.scenario import Scenario
from chaos.shorter import shorter
from chaos.stack import Urls, stack
from chaos.tools import Found, find_or_build

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
        module = await asyncio.to_thread(importlib.import_module, "chaos.hands")  # while the service starts
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
