"""A `Wire` that reports each attempt to an observer: when it is sent, answered and closed."""

from typing import Protocol

from dub5.chaos.simulation.invariants.record import ObservedAttempt
from dub5.service.wire.base import Wire, WireRequest, WireResponse


class WireObserver(Protocol):
    """Receives what happens on the wire."""

    def sent(self, request: WireRequest) -> ObservedAttempt: ...

    def answered(self, attempt: ObservedAttempt, response: WireResponse) -> None: ...

    def closed(self, attempt: ObservedAttempt) -> None: ...


class ObservedWire:
    """Wraps a `dub5.service.wire.base.Wire`."""

    def __init__(self, wire: Wire, observer: WireObserver) -> None:
        self._wire = wire
        self._observer = observer

    async def send(self, request: WireRequest) -> "ObservedResponse":
        attempt = self._observer.sent(request)
        try:
            response = await self._wire.send(request)
        except BaseException:
            self._observer.closed(attempt)
            raise
        self._observer.answered(attempt, response)
        return ObservedResponse(response, attempt, self._observer)

    async def aclose(self) -> None:
        await self._wire.aclose()


class ObservedResponse:
    """Wraps a response, and reports when it is closed."""

    def __init__(self, response: WireResponse, attempt: ObservedAttempt, observer: WireObserver) -> None:
        self.status = response.status
        self.headers = response.headers
        self.reused = response.reused
        self._response = response
        self._attempt = attempt
        self._observer = observer

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except BaseException:
            self._observer.closed(self._attempt)
            raise

    async def aclose(self) -> None:
        await self._response.aclose()
        self._observer.closed(self._attempt)
