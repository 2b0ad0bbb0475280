"""Our hands on a running stack: Toxiproxy before its providers, faults on and off, the door of its service.

Apart from engines/toxiproxy.py because it brings much with it: it is imported while the service starts.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from dub5.chaos.engines.http_endpoint import HttpDoor, http_session
from dub5.chaos.engines.processes import Child
from dub5.chaos.engines.proxies import Proxies
from dub5.chaos.engines.simulator_admin import Admin, AdminRefused
from dub5.chaos.engines.stack import Stack, Urls
from dub5.chaos.engines.toxiproxy_client import Proxy, Toxic, ToxiproxyError
from dub5.chaos.run.endpoint import Door
from dub5.chaos.run.journal import Asked
from dub5.chaos.scenario.model import Fault

TOXIPROXY = "Toxiproxy"
SIMULATORS = "the simulators"
INSTEAD = "the simulators, for want of Toxiproxy"
OURS = (ToxiproxyError, AdminRefused, aiohttp.ClientError)  # calls to what is not under test


class Hands:
    """Gets hold of a stack, in two steps: `front` while it starts, `take` when it runs. `path`: of Toxiproxy's server."""

    def __init__(self, path: Path | None) -> None:
        self._proxies = Proxies(path) if path else None

    async def front(self, urls: Urls, folder: Path, exits: contextlib.AsyncExitStack) -> Urls:
        """Puts the proxies before the providers, if there are any."""
        return await self._proxies.put(urls, folder, exits) if self._proxies else urls

    async def take(
        self, running: Stack, exits: contextlib.AsyncExitStack, notes: Sequence[str]
    ) -> "RealWorld":
        """The world to play in."""
        session = await exits.enter_async_context(http_session())
        admin = Admin(session, running.admin, running.token)
        proxies = self._proxies.by_provider if self._proxies else {}
        return RealWorld(HttpDoor(session, running.url), admin, proxies, notes)

    def why(self, group: ExceptionGroup[Exception], running: Stack) -> str:
        """Whose fault a failed run was, if it was ours: who has died, else the first error; empty if it was not ours."""
        ours = group.subgroup(OURS)
        if ours is None:
            return ""
        server: Child | None = self._proxies.server if self._proxies else None
        for one in (running.simulators, server):
            if one is not None and not one.running:
                return f"{one.name} ended during the run.\n{one.last_words()}"
        return f"{type(ours.exceptions[0]).__name__}: {ours.exceptions[0]}"


@dataclass
class RealWorld:
    """Hands on the processes of a stack."""

    door: Door
    admin: Admin
    proxies: Mapping[str, Proxy]  # none without Toxiproxy
    notes: Sequence[str]
    toxics: dict[Fault, Toxic] = field(default_factory=dict)
    latest: dict[tuple[str, str], Fault] = field(default_factory=dict)  # by provider and kind

    async def apply(self, fault: Fault) -> str:
        if fault.tcp and self.proxies:
            await asyncio.to_thread(self._apply_toxic, fault)
            return TOXIPROXY
        said = fault.said
        if said is None:
            return ""
        self.latest[fault.provider, str(said["kind"])] = fault
        await self.admin.set_fault(fault.provider, said)
        return INSTEAD if fault.tcp else SIMULATORS

    async def lift(self, fault: Fault) -> None:
        if fault.tcp and self.proxies:
            await asyncio.to_thread(self._lift_toxic, fault)
        elif (said := fault.said) is not None:
            kind = str(said["kind"])
            if self.latest[fault.provider, kind] is fault:  # else another one has taken its place, just now
                await self.admin.clear_fault(fault.provider, kind)

    async def ledger(self) -> list[Asked]:
        return await self.admin.ledger()

    def _apply_toxic(self, fault: Fault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.disable()
            return
        attributes = {name: int(value) for name, value in fault.options.items() if name != "stream"}
        stream = str(fault.options.get("stream", "downstream"))
        self.toxics[fault] = proxy.add(fault.kind, attributes, stream)

    def _lift_toxic(self, fault: Fault) -> None:
        proxy = self.proxies[fault.provider]
        if fault.kind == "down":
            proxy.enable()
        else:
            proxy.lift(self.toxics.pop(fault))
