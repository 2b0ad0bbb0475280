"""The `toxiproxy` engine: real processes, sockets and time, with the Toxiproxy server if there is one."""

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
    """Run a scenario; long plateaus of one that lasts hours are cut. Raises NotStarted, HarnessFailed."""
    return run_until_stopped(_play(compress(scenario), seed, observer, print_line, find_or_build()))


async def _play(
    scenario: Scenario, seed: int, observer: RunObserver, print_line: PrintLine, binary: ToxiproxyBinary
) -> Journal:
    notes = (
        [] if binary.path else [f"No Toxiproxy ({binary.why}): the simulators play the TCP faults instead."]
    )
    for line in notes or ["toxiproxy: a proxy in front of each provider"]:
        print_line(line)
    builder: Any = None

    async def proxy_hook(urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        nonlocal builder
        # A slow import, while the service starts.
        module = await asyncio.to_thread(importlib.import_module, "dub5.chaos.engines.real_world")
        builder = module.EnvironmentBuilder(binary.path)
        proxied: Urls = await builder.put_proxies(urls, folder, exits)
        return proxied

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
            journal.notes.append(f"The service ended unexpectedly: {running.service.log_tail()}")
    return journal
