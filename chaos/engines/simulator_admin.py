"""A client for the admin API of the simulators: set and clear faults, read the ledger."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from dub5.chaos.run.journal import LedgerEntry
from dub5.chaos.scenario.faults import FaultValue

CALL_S = aiohttp.ClientTimeout(total=5.0)
LINES_PER_PAGE = 5_000


class AdminRefused(Exception):
    """The simulators refused a call. The message is theirs."""


class SimulatorAdmin:
    """The admin API of one simulator process."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"}

    async def set_fault(self, provider: str, fault: Mapping[str, FaultValue]) -> None:
        """Set a fault; it replaces one of the same kind. Raises AdminRefused."""
        await self._call("PUT", f"/faults/{provider}", json=dict(fault))

    async def clear_fault(self, provider: str, kind: str) -> None:
        """Clear the fault of a kind."""
        await self._call("DELETE", f"/faults/{provider}?kind={kind}")

    async def ledger(self) -> list[LedgerEntry]:
        """Return every attempt that has ended, oldest first."""
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
            answer = await response.json()
            if response.status >= 400:
                raise AdminRefused(str(answer.get("error", answer)))
            return answer
