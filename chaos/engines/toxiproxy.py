"""The scenario on real processes, sockets and time, with the real Toxiproxy server where there is one."""

import asyncio
import contextlib
import importlib
from pathlib import Path
from typing import Any

from dub5.chaos.engines.find_toxiproxy import ToxiproxyBinary, find_or_build
from dub5.chaos.engines.processes import HarnessFailed, PrintLine, run_until_stopped
from dub5.chaos.engines.stack import Urls, stack
from dub5.chaos.run.journal import Journal
from dub5.chaos.run.runner import RunObserver, ScenarioRun
from dub5.chaos.scenario.compress import compress
from dub5.chaos.scenario.model import Scenario

NAME = "toxiproxy"


def run(scenario: Scenario, seed: int, observer: RunObserver, print_line: PrintLine) -> Journal:
    """Plays it; of one that takes hours what is between its changes is cut. Raises NotStarted, HarnessFailed."""
    return run_until_stopped(_play(compress(scenario), seed, observer, print_line, find_or_build()))


async def _play(
    scenario: Scenario, seed: int, observer: RunObserver, print_line: PrintLine, binary: ToxiproxyBinary
) -> Journal:
    notes = (
        []
        if binary.path
        else [f"No Toxiproxy ({binary.why}): TCP faults are played by the simulators instead."]
    )
    for line in notes or ["toxiproxy: a proxy before each provider"]:
        print_line(line)
    builder: Any = None

    async def proxy_hook(urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        nonlocal builder
        module = await asyncio.to_thread(
            importlib.import_module, "dub5.chaos.engines.real_world"
        )  # while the service starts
        builder = module.EnvironmentBuilder(binary.path)
        said: Urls = await builder.put_proxies(urls, folder, exits)
        return said

    async with (
        stack(scenario.topology, print_line, proxy_hook=proxy_hook) as running,
        contextlib.AsyncExitStack() as exits,
    ):
        environment = await builder.build(running, exits, notes)
        try:
            journal = await ScenarioRun(scenario, NAME, seed, observer).run(environment)
        except ExceptionGroup as group:
            raise HarnessFailed(why) if (why := builder.why(group, running)) else group from group
        if not running.service.running:
            journal.notes.append(f"The service ended by itself: {running.service.log_tail()}")
    return journal
