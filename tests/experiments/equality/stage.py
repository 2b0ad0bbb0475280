"""Play scenarios against the service, in virtual time, and record what its clients and its providers got.

Ask -> Service, with a fixed seed -> VirtualWire -> simulated providers, with a fixed seed

All of it is deterministic, but for what this process uses of its machine: the values of `process_*` in
/metrics are left out, and so is the length of that body.
"""

import asyncio
import itertools
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dub5.service.app import Service
from dub5.service.config.load import load
from dub5.service.wire.base import WireRequest
from dub5.simulators import settings as simulator_settings
from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.provider import make
from dub5.simulators.script import Respond
from dub5.simulators.virtual import AppClient, AppFault, VirtualWire, run
from tests.experiments.equality.scenario import (
    ENVIRONMENT,
    Ask,
    Drain,
    Faults,
    Reload,
    Scenario,
    Step,
    Together,
    Wait,
)
from tests.experiments.equality.scenarios import SCENARIOS

EPOCH_S = 1_763_700_000
OF_THE_MACHINE = re.compile(r"^(process_\w+(?:\{.*\})?) .*$", re.MULTILINE)


def record(path: Path) -> int:
    """Write the records of all scenarios. Return how many requests there are."""
    records = [one for scenario in SCENARIOS for one in play(scenario)]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return sum("status" in one for one in records)


def play(scenario: Scenario) -> list[dict[str, Any]]:
    """Play one scenario. Return a record for each request, and one of what the providers were asked."""
    return run(_play(scenario))


async def _play(scenario: Scenario) -> list[dict[str, Any]]:
    stage = Stage(scenario)
    async with stage.client:
        for step in scenario.steps:
            await stage.do(step)
    asked = {"name": f"{scenario.name}: what the providers were asked", "asked": stage.asked}
    return [*(stage.records[number] for number in sorted(stage.records)), asked]


class Listening(VirtualWire):
    """A wire that writes down what is sent."""

    def __init__(self, responds: Mapping[str, Respond]) -> None:
        super().__init__(responds)
        self.asked: list[dict[str, Any]] = []

    async def send(self, request: WireRequest) -> Any:
        what = {"method": request.method, "url": request.url, "headers": dict(request.headers)}
        at_s = round(asyncio.get_running_loop().time(), 9)
        self.asked.append({"at_s": at_s, **what, "body": request.body.decode()})
        return await super().send(request)


class Stage:
    """One scenario at play. `asked` are the requests of providers; `records` those of clients, by number."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.records: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        tables = [
            {"name": name, "persona": "openai", "words": 5, **scenario.simulated.get(name, {})}
            for name in scenario.names
        ]
        known = simulator_settings.build({"provider": tables})
        self._providers, _ = make(known, now=self._loop.time, epoch_s=EPOCH_S)
        for name, faults in scenario.faults.items():
            self._set(Faults(name, faults))
        wire = Listening({f"http://{name}.test": self._responding(name) for name in scenario.names})
        self.asked = wire.asked
        self._service = Service(self._loaded(Reload()), wire=wire, seed="equality")
        self.client = AppClient(self._service.asgi)

    def _responding(self, name: str) -> Respond:
        script = self._scenario.scripts.get(name)
        return self._providers[name] if script is None else lambda request: iter(script)

    def _loaded(self, other: Reload) -> Any:
        scenario = self._scenario
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "dub5.toml"
            file.write_text(settings(scenario, other), encoding="utf-8")
            keys = {f"KEY_{name.upper()}": f"sk-{name}" for name in scenario.names}
            return load(file, {**ENVIRONMENT, **keys})

    def _set(self, faults: Faults) -> None:
        self._providers[faults.provider].set_faults(map(parse_fault, faults.faults))

    def _now(self) -> float:
        return round(self._loop.time(), 9)

    async def do(self, step: Step) -> None:
        """Play one step to its end."""
        match step:
            case Ask() if step.recorded:
                await self._ask(step, next(self._numbers))
            case Ask():
                await self.client.request(step.method, step.path, headers=step.headers, json=step.json)
            case Wait(s):
                await asyncio.sleep(s)
            case Faults():
                self._set(step)
            case Reload():
                self._service.reload(self._loaded(step))
            case Drain(after_s):
                await asyncio.sleep(after_s)
                await self._service.drain()
            case Together(steps):
                await asyncio.gather(*map(self.do, steps))

    async def _ask(self, ask: Ask, number: int) -> None:
        await asyncio.sleep(ask.after_s)
        began_s, body, seen = self._now(), bytearray(), dict[str, Any]()
        seen["name"] = f"{self._scenario.name} {number}"
        seen["request"] = f"{ask.method} {ask.path}"
        self.records[number] = seen
        try:
            async with asyncio.timeout(ask.leaves_s), self._open(ask) as reply:
                seen |= {"status": reply.status, "headers": dict(reply.headers)}
                seen["head_s"] = round(self._now() - began_s, 9)
                while data := await reply.read():
                    body += data
                seen["end"] = "whole"
        except TimeoutError:
            seen["end"] = "the client left"
        except AppFault as fault:
            seen["end"] = str(fault)
        seen |= {"status": seen.get("status"), "end_s": round(self._now() - began_s, 9)}
        seen["body"], left_out = OF_THE_MACHINE.subn(r"\1", body.decode("utf-8", "backslashreplace"))
        if left_out:
            seen["headers"]["content-length"] = "that of the body"

    def _open(self, ask: Ask) -> Any:
        return self.client.stream(ask.method, ask.path, headers=ask.headers, body=ask.body, json=ask.json)


def settings(scenario: Scenario, other: Reload) -> str:
    """Return the settings file of a scenario, with what a reload puts in the place of its own."""
    provider: Mapping[str, str] = other.provider or scenario.provider
    tables = [_provider(name, provider.get(name, "")) for name in scenario.names]
    targets = json.dumps([f"{name}/gpt-sim" for name in scenario.names])
    route = f'[[route]]\nname = "chat"\ntargets = {targets}\n{other.route or scenario.route}'
    return "\n".join([*tables, route, other.more or scenario.more])


def _provider(name: str, more: str) -> str:
    url = f"http://{name}.test" + ("" if 'dialect = "anthropic"' in more else "/v1")
    dialect = "" if "dialect" in more else 'dialect = "openai"\n'
    head = f'[[provider]]\nname = "{name}"\nbase_url = "{url}"\nkey_env = ["KEY_{name.upper()}"]\n'
    return f"{head}{dialect}{more}\n"
