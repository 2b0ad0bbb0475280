"""The simulators' admin API: faults on, faults off, the ledger."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from dub5.chaos.run.journal import LedgerEntry
from dub5.chaos.scenario.faults import Value

CALL_S = aiohttp.ClientTimeout(total=5.0)
LINES_PER_PAGE = 5_000


class AdminRefused(Exception):
    """The simulators turned a call down; the message is their sentence."""


class SimulatorAdmin:
    """Speaks to one process of simulators."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"}

    async def set_fault(self, provider: str, fault: Mapping[str, Value]) -> None:
        """Begins a fault; it takes the place of one of its kind. Raises AdminRefused."""
        await self._call("PUT", f"/faults/{provider}", json=dict(fault))

    async def clear_fault(self, provider: str, kind: str) -> None:
        """Ends the fault of this kind."""
        await self._call("DELETE", f"/faults/{provider}?kind={kind}")

    async def ledger(self) -> list[LedgerEntry]:
        """Every attempt that has ended, oldest first."""
        lines: list[LedgerEntry] = []
        since, more = 0, True
        while more:
            page = await self._call("GET", f"/ledger?since={since}&limit={LINES_PER_PAGE}")
            lines += [
                LedgerEntry(line["provider"], line["prompt"], tuple(line["faults"])) for line in page["lines"]
            ]
            since, more = page["last"], page["more"]
        return lines

    async def _call(self, method: str, path: str, **more: Any) -> Any:
        async with self._session.request(
            method, self._url + path, headers=self._headers, timeout=CALL_S, **more
        ) as response:
            said = await response.json()
            if response.status >= 400:
                raise AdminRefused(str(said.get("error", said)))
            return said
