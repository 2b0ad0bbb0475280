"""The gateways of the free-provider week: the service, or a client that calls the providers directly.

    PlainClient      one provider, as an official SDK calls it by default: connects within 5 s, waits 60 s
                     for the next bytes, makes `retries` retries for what SDKs retry (408, 409, 429, 5xx,
                     no connection, no answer), after 0.5 s, 1 s, 2 s or the Retry-After up to a minute;
                     none after the 200
    FailoverClient   the same client once at each provider, in order, until one has begun to answer
    ServiceGateway   the service, in front of all of them

All requests are streams, and no client leaves. Each text is judged against its prompt: answers prove
themselves.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import msgspec

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.options import DegradedOptions
from dub5.service.config.settings import LoadedSettings, ProviderSettings, RouteSettings, Secret, Settings
from dub5.service.wire.base import WireFailure, WireRequest, WireResponse
from dub5.simulators.answers import Proof, judge
from dub5.simulators.virtual import AppClient, VirtualWire
from tests.experiments.free_world import PROVIDERS, FreeWorld

CONNECT_S, SILENT_S = 5.0, 60.0  # of the plain client
RETRY_AFTER_MAX_S = 60.0  # an SDK does not obey longer ones
AGAIN = frozenset({408, 409, 429})
NOTICES = ("important notice", "is being deprecated")
KEYLESS = "tunnel"


@dataclass(frozen=True, slots=True)
class PersonResult:
    """The result of one request.

    `ending`: complete, degraded, failed, cut, wrong (delivered as an answer, and no answer).
    """

    at_s: float
    ending: str
    first_s: float  # until the first content, or the error
    took_s: float
    why: str  # why the answer is not complete
    able: int  # number of providers that could have answered at that time


class RequestFailed(Exception):
    """No answer; the message says why."""

    def __init__(self, why: str, *, again: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.again = again
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class AnswerSoFar:
    """The part of an answer that has been read."""

    text: str = ""
    finished: bool = False  # as far as the client can tell
    first_s: float | None = None

    def judged(self, prompt: str) -> tuple[str, str]:
        """Return how an answer ended that its client takes for whole, and why it is wrong."""
        proof = judge(self.text, prompt)
        if proof is Proof.WHOLE:
            return "complete", ""
        return "wrong", "empty" if not self.text else "a part" if proof is Proof.CUT else "something else"


class AnyGateway(Protocol):
    """A gateway that people send requests to."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def ask(self, prompt: str, reading: AnswerSoFar) -> tuple[str, str]:
        """Send a request. Return the ending, and why it is not complete."""
        ...


class WeekRun:
    """The simulated week with one gateway."""

    def __init__(self, world: FreeWorld) -> None:
        self.world = world
        loop = asyncio.get_running_loop()
        self.providers, self.ledger = world.providers(loop.time, int(clock.wall()))
        self.wire = VirtualWire({free.url: self.providers[free.name] for free in PROVIDERS})
        self.asked: list[PersonResult] = []

    async def play(self, gateway: AnyGateway, tell: Callable[[float], None] = lambda at_s: None) -> None:
        """Send all requests at their times; call `tell` with each result."""
        async with gateway, asyncio.TaskGroup() as group:
            for n, at_s in enumerate(self.world.arrivals_s()):
                await asyncio.sleep(at_s - clock.now())
                tell(at_s)
                group.create_task(self._ask(gateway, f"Question {n}", at_s))

    async def _ask(self, gateway: AnyGateway, prompt: str, at_s: float) -> None:
        able = sum(self.world.able(name, at_s, provider) for name, provider in self.providers.items())
        reading, began_s = AnswerSoFar(), clock.now()
        ending, why = await gateway.ask(prompt, reading)
        took_s = clock.now() - began_s
        first_s = took_s if reading.first_s is None else reading.first_s - began_s
        self.asked.append(PersonResult(began_s, ending, first_s, took_s, why, able))


class PlainClient:
    """A client of one provider, with `retries` retries."""

    def __init__(self, stage: WeekRun, name: str, retries: int) -> None:
        self._wire = stage.wire
        self._url = next(free.url for free in PROVIDERS if free.name == name)
        self._retries = retries
        self._rng = random.Random(f"{stage.world.seed}/backoff")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def ask(self, prompt: str, reading: AnswerSoFar) -> tuple[str, str]:
        """Send a request as the SDKs do."""
        for n in range(self._retries + 1):
            try:
                await read(self._wire, self._url, prompt, reading)
                return reading.judged(prompt)
            except RequestFailed as error:
                if reading.text:
                    return "cut", str(error)
                if not error.again or n == self._retries:
                    return "failed", str(error)
                await asyncio.sleep(self._pause_s(n, error.retry_after_s))
        raise AssertionError("the last one returned")

    def _pause_s(self, n: int, said_s: float | None) -> float:
        if said_s is not None and 0 < said_s <= RETRY_AFTER_MAX_S:
            return said_s
        return min(8.0, 0.5 * 2.0**n) * self._rng.uniform(0.75, 1.0)


class FailoverClient:
    """A client that asks every provider once, in their order."""

    def __init__(self, stage: WeekRun) -> None:
        self._wire = stage.wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def ask(self, prompt: str, reading: AnswerSoFar) -> tuple[str, str]:
        """Send a request to each provider in a loop, as it is often written."""
        why = ""
        for free in PROVIDERS:
            try:
                await read(self._wire, free.url, prompt, reading)
                return reading.judged(prompt)
            except RequestFailed as error:
                if reading.text:
                    return "cut", str(error)
                why = str(error)
        return "failed", why


async def read(wire: VirtualWire, url: str, prompt: str, reading: AnswerSoFar) -> None:
    """Make one attempt of a plain client. Raises RequestFailed."""
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
    headers = {"content-type": "application/json", "accept": "application/json", "authorization": "Bearer sk"}
    request = WireRequest(
        "POST", f"{url}/chat/completions", headers, msgspec.json.encode(body), connect_s=CONNECT_S
    )
    response: WireResponse | None = None
    try:
        async with asyncio.timeout(SILENT_S):
            response = await wire.send(request)
        if response.status != 200:
            raise refused(response)
        async for data in events(response):
            take(data, reading)
    except TimeoutError:
        raise RequestFailed("timeout", again=response is None) from None
    except WireFailure as failure:
        raise RequestFailed(f"{failure.stage}_{failure.kind}", again=response is None) from None
    finally:
        if response is not None:
            await response.aclose()


def refused(response: WireResponse) -> RequestFailed:
    """Read an error status as an SDK does."""
    said = response.headers.get("retry-after", "")
    again = response.status in AGAIN or response.status >= 500
    wait_s = float(said) if said.isdecimal() else None
    return RequestFailed(f"http_{response.status}", again=again, retry_after_s=wait_s)


async def events(response: WireResponse) -> AsyncIterator[bytes]:
    """Yield the payloads of a stream, without comments, up to [DONE] or its end."""
    left = b""
    while True:
        async with asyncio.timeout(SILENT_S):
            data = await response.read()
        *whole, left = (left + data).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: "):
                if event == b"data: [DONE]":
                    return
                yield event[6:]
        if not data:
            return


def take(payload: bytes, reading: AnswerSoFar) -> None:
    """Read an event as an SDK does: an error in it is raised, everything else is an answer."""
    event: dict[str, Any] = msgspec.json.decode(payload)
    if event.get("error"):
        raise RequestFailed("error event")
    for choice in event.get("choices", ()):
        if text := choice.get("delta", {}).get("content"):
            reading.text += text
            if reading.first_s is None:
                reading.first_s = clock.now()


class ServiceGateway:
    """The service with its defaults.

    With `told` it has what an operator of a free route would enable as well: reject patterns and fallback
    answers.
    """

    def __init__(self, stage: WeekRun, *, told: bool = False) -> None:
        route = RouteSettings(
            "chat",
            tuple(f"{one.name}/m" for one in PROVIDERS),
            reject_patterns=NOTICES if told else (),
            degraded=DegradedOptions(enabled=told),
        )
        settings = Settings(
            provider=tuple(ProviderSettings(one.name, one.dialect, one.url) for one in PROVIDERS),
            route=(route,),
        )
        secrets = {one.name: () if one.name == KEYLESS else (Secret("sk"),) for one in PROVIDERS}
        self.service = Service(
            LoadedSettings(settings, secrets, ()), wire=stage.wire, seed=f"week {stage.world.seed}"
        )
        self._client = AppClient(self.service.asgi)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)

    async def ask(self, prompt: str, reading: AnswerSoFar) -> tuple[str, str]:
        """Send one streamed request."""
        body = {"model": "chat", "messages": [{"role": "user", "content": prompt}], "stream": True}
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            reading.first_s = clock.now()
            data = await reply.body()
        if reply.status != 200:
            return "failed", msgspec.json.decode(data)["error"]["code"]
        payloads = [event[6:] for event in data.split(b"\n\n") if event.startswith(b"data: ")]
        try:
            for payload in payloads:
                if payload == b"[DONE]":
                    reading.finished = True
                else:
                    take(payload, reading)
        except RequestFailed:
            return "cut", "error event"
        if "x-dub5-degraded" in reply.headers:
            return "degraded", reply.headers["x-dub5-degraded"]
        return reading.judged(prompt) if reading.finished else ("wrong", "no end")
