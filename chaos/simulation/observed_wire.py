"""The network as the service sees it, with somebody who looks on at both ends of every try."""

from typing import Protocol

from dub5.chaos.simulation.invariants.record import Trial
from dub5.service.wire.base import Wire, WireRequest, WireResponse


class Looker(Protocol):
    """Who looks on."""

    def sent(self, request: WireRequest) -> Trial: ...

    def answered(self, trial: Trial, response: WireResponse) -> None: ...

    def closed(self, trial: Trial) -> None: ...


class CheckedWire:
    """A `dub5.service.wire.base.Wire` around another one."""

    def __init__(self, wire: Wire, looker: Looker) -> None:
        self._wire = wire
        self._looker = looker

    async def send(self, request: WireRequest) -> "CheckedResponse":
        trial = self._looker.sent(request)
        try:
            response = await self._wire.send(request)
        except BaseException:
            self._looker.closed(trial)
            raise
        self._looker.answered(trial, response)
        return CheckedResponse(response, trial, self._looker)

    async def aclose(self) -> None:
        await self._wire.aclose()


class CheckedResponse:
    """A reply; when it is over its trial is closed."""

    def __init__(self, response: WireResponse, trial: Trial, looker: Looker) -> None:
        self.status = response.status
        self.headers = response.headers
        self.reused = response.reused
        self._response = response
        self._trial = trial
        self._looker = looker

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except BaseException:
            self._looker.closed(self._trial)
            raise

    async def aclose(self) -> None:
        await self._response.aclose()
        self._looker.closed(self._trial)
