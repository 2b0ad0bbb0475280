"""Fuzzing with random upstream bytes, through the whole service in virtual time.

The service must not crash, and must not deliver an answer as whole that is not.

    python -m tests.experiments.fuzz_upstream --streams 100000 --seed 1
    python -m tests.experiments.fuzz_upstream --seed 1 --world 17            # only the world that failed

upstream_bytes makes what three providers send, upstream_reading is the oracle of what it means, `_check`
compares that with what the client received. A world is one service and a few hundred streams; equal numbers
give equal worlds.
"""

import argparse
import asyncio
import itertools
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest import mock

from dub5.service.app import Service
from dub5.service.config.options import (
    BreakerOptions,
    CacheOptions,
    KeysOptions,
    ProbeOptions,
    TimeoutOptions,
)
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    ServerSettings,
    Settings,
)
from dub5.service.errors import every_error
from dub5.service.events import Crashed, Event
from dub5.service.telemetry import watch
from dub5.service.wire.base import Slots
from dub5.simulators.personas.base import parse_request
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.virtual import AppClient, Deadlock, Escaped, VirtualWire, run
from tests.experiments import upstream_bytes, upstream_reading
from tests.experiments.upstream_bytes import BrokenReply
from tests.experiments.upstream_reading import ReadAnswer

DIALECTS = ("openai", "mistral", "anthropic")
STREAMS_PER_WORLD = 250
AT_A_TIME = 8
SLOTS = 20
A_LONG_WHILE_S = 3 * 86_400.0  # every cool-down is over by then
TIMEOUTS = TimeoutOptions(first_token_s=2, whole_answer_s=3, between_tokens_s=2, total_s=10)
NEVER = BreakerOptions(calls_min=10**9, failures_in_a_row=10**9)
SERVER = ServerSettings(event_bytes_max=64 * 1024, answer_bytes_max=128 * 1024, in_flight_max=AT_A_TIME)
ERROR_FIELDS = {"message", "type", "code", "param", "id", "retry_after", "suggestion", "attempts"}
KNOWN = {(error.code, error.type): error.status for error in every_error()}
DEFECT = "internal_error"
KEY = "sk-secret"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
FAILED = (AssertionError, ExceptionGroup, LookupError, TypeError, ValueError, Deadlock, Escaped)


class Violation(AssertionError):
    """The service violated its contract."""


@dataclass
class FuzzedRequest:
    """A request, and everything that its providers sent."""

    number: int
    route: str
    stream: bool
    usage: bool
    cached: bool  # may be answered from the cache
    leaves_after: int | None  # reads
    slow: bool
    tool: bool = False
    played: list[BrokenReply] = field(default_factory=list)
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    left: bool = False

    def json(self) -> dict[str, Any]:
        """Return the request's body."""
        fields: dict[str, Any] = {
            "model": self.route,
            "messages": [{"role": "user", "content": f"ask {self.number}"}],
            "stream": self.stream,
        }
        if self.usage and self.stream:
            fields["stream_options"] = {"include_usage": True}
        if self.tool:
            fields |= {"tools": [TOOL], "tool_choice": "required"}
        return fields | ({"temperature": 0} if self.cached else {})


class FuzzedService:
    """A service in front of three providers that send random bytes."""

    def __init__(self, seed: int, number: int, streams: int) -> None:
        self.seed = f"{seed}/{number}"
        self.rng = Random(f"{self.seed}/asks")
        self.left = streams
        self.probing = number % 4 == 0
        self.crashes: list[str] = []
        self.asks: dict[int, FuzzedRequest] = {}
        self.counts: Counter[str] = Counter()
        urls = {d: f"http://{d}.test" + ("" if d == "anthropic" else "/v1") for d in DIALECTS}
        self.slots = Slots(SLOTS)
        self.wire = VirtualWire({urls[d]: self._provider(d) for d in DIALECTS}, slots=self.slots)
        settings = Settings(
            provider=tuple(ProviderSettings(d, d, urls[d]) for d in DIALECTS),  # type: ignore[arg-type]
            route=tuple(_routes()),
            breaker=BreakerOptions() if self.probing else NEVER,
            probe=ProbeOptions(enabled=False),
            server=SERVER,
            keys=KeysOptions(check_s=0.0),  # what is sent would be fuzzed as well
        )
        secrets = {d: (Secret(KEY),) for d in DIALECTS}
        self.service = Service(
            LoadedSettings(settings, secrets, ()), wire=self.wire, seed=self.seed, log=self._note
        )
        self.client = AppClient(self.service.asgi)

    def _note(self, event: Event) -> None:
        if isinstance(event, Crashed):
            self.crashes.append(event.where)

    def _provider(self, dialect: str) -> Respond:
        def respond(request: SimRequest) -> Script:
            ask = self.asks[int(parse_request(request.body).prompt.removeprefix("ask "))]
            rng = Random(f"{self.seed}/{ask.number}/{dialect}/{len(ask.played)}")
            reply = upstream_bytes.make(rng, dialect, request)
            ask.played.append(reply)
            self.left -= 1
            self.counts["streams"] += 1
            return reply.script()

        return respond

    async def play(self) -> Counter[str]:
        """Play until enough streams have been sent. Raises Violation."""
        numbers = itertools.count()
        async with self.client:
            quiet = asyncio.all_tasks()
            while self.left > 0:
                asks = [self._draw(next(numbers)) for _ in range(AT_A_TIME)]
                async with asyncio.TaskGroup() as group:
                    for ask in asks:
                        group.create_task(self._ask(ask))
                # probes and canary requests that lost finish in the background
                await asyncio.sleep(TIMEOUTS.total_s)
                self._at_rest(quiet, asks)
                for ask in asks:
                    await self._check(ask)
                self.asks.clear()
                await asyncio.sleep(A_LONG_WHILE_S)
        return self.counts

    def _draw(self, number: int) -> FuzzedRequest:
        rng = self.rng
        leaves_after = rng.randrange(4) if rng.random() < 0.08 else None
        route = rng.choice([f"{'only-' if rng.random() < 0.5 else ''}{d}" for d in DIALECTS])
        ask = FuzzedRequest(
            number,
            route,
            stream=rng.random() < 0.75,
            usage=rng.random() < 0.5,
            cached=rng.random() < 0.3,
            leaves_after=leaves_after,
            slow=rng.random() < 0.05,
            tool=rng.random() < 0.2,
        )
        self.asks[number] = ask
        return ask

    async def _ask(self, ask: FuzzedRequest) -> None:
        await asyncio.sleep(ask.number % 3 / 100)
        async with self.client.stream("POST", "/v1/chat/completions", json=ask.json()) as reply:
            ask.status, ask.headers = reply.status, reply.headers
            parts: list[bytes] = []
            while ask.leaves_after is None or len(parts) < ask.leaves_after:
                if ask.slow:
                    await asyncio.sleep(0.1)
                if not (data := await reply.read()):
                    break
                parts.append(data)
            else:
                ask.left = True
            ask.body = b"".join(parts)

    def _at_rest(self, quiet: set[asyncio.Task[Any]], asks: list[FuzzedRequest]) -> None:
        """Check that nothing is left over: no request, permit, slot, connection or task."""
        states = self.service.fleet.snapshots(asyncio.get_running_loop().time())
        free = [semaphore._value for semaphore in self.slots._free.values()]
        tasks = {task for task in asyncio.all_tasks() - quiet if not task.done()}
        left_over = {
            "crashes": self.crashes,
            "requests in flight": self.service.admission.in_flight,
            "passes": sum(state.in_flight for state in states),
            "slots": sum(SLOTS - places for places in free),
            "connections": len(self.wire._open) + sum(up.open for ask in asks for up in ask.played),
            "tasks": [task.get_name() for task in tasks],
        }
        for what, how_many in left_over.items():
            if how_many:
                told = [_shown(ask) for ask in asks if ask.status == 500] or [_shown(ask) for ask in asks]
                raise Violation("\n".join([f"left over: {what}: {how_many}", *told]))

    async def _check(self, ask: FuzzedRequest) -> None:
        """Check what the client received against what the providers sent."""
        try:
            outcome = _check_left(ask) if ask.left else _check_whole(ask)
            self.counts[outcome] += 1
            self.counts["tool calls"] += outcome == "complete" and ask.tool
            if outcome == "complete" and ask.cached and ask.number % 2:
                await self._check_cached(ask)
        except Violation as violation:
            raise Violation(f"{violation}\n{_shown(ask)}") from None

    async def _check_cached(self, ask: FuzzedRequest) -> None:
        """Send the same request again, and check that the cache returns the same answer."""
        before = len(ask.played)
        again = FuzzedRequest(
            ask.number, ask.route, ask.number % 4 == 1, ask.usage, True, None, False, ask.tool, ask.played
        )
        await self._ask(again)
        if again.headers.get("x-dub5-cache") != "hit":
            return
        self.counts["cache hits"] += 1
        _hold(len(ask.played) == before, "a cache hit asked a provider")
        texts = [list(_check_client(one).texts.values()) for one in (again, ask)]
        _hold(texts[0] == texts[1], f"another answer: {again.body!r}")


def _routes() -> Iterator[RouteSettings]:
    for at, first in enumerate(DIALECTS):
        order = DIALECTS[at:] + DIALECTS[:at]
        for name, targets in ((first, order), (f"only-{first}", order[:1])):
            names = tuple(f"{target}/m" for target in targets)
            yield RouteSettings(name, names, timeouts=TIMEOUTS, cache=CacheOptions(enabled=True))


def _check_whole(ask: FuzzedRequest) -> str:
    """Check a reply that was read to its end; return its outcome."""
    _hold(KEY.encode() not in ask.body, "the key is in the answer")
    if ask.status != 200:
        return _check_refused(ask)
    told = _check_client(ask)
    sources = _sources(ask)
    if ask.stream and told.error is not None:
        _check_error({"error": told.error}, None)
        _hold(told.done == 0, "[DONE] after an error")
        _hold(any(upstream_reading.begins(told.texts, one.texts) for one in sources), "text of nobody")
        _hold(ask.slow or not _turned_away(ask), "a good answer was cut")
        return "cut"
    _hold(told.done == (1 if ask.stream else 0), f"[DONE] {told.done} times")
    if ask.stream:
        _hold(ask.body.endswith(b"data: [DONE]\n\n"), "[DONE] is not the end")
    _hold(bool(told.whole) and not told.open, "told as whole, and what the client got is not")
    _hold(
        any(
            one.whole is not None
            and upstream_reading.begins(one.whole, told.texts)
            and upstream_reading.begins(told.texts, one.texts)
            for one in sources
        ),
        f"told as whole, and no provider said so: {told.texts}",
    )
    if ask.tool and _answering(ask)[-1].harmless:
        _hold(
            _same_json(told.calls, sources[-1].calls), f"another call: {told.calls!r}, {sources[-1].calls!r}"
        )
    return "complete"


def _check_left(ask: FuzzedRequest) -> str:
    """Check a reply that the client did not read to its end."""
    if ask.status == 200 and ask.stream:
        told = upstream_reading.openai_stream(ask.body)
        _hold(any(upstream_reading.begins(told.texts, one.texts) for one in _sources(ask)), "text of nobody")
    return "left"


def _check_client(ask: FuzzedRequest) -> ReadAnswer:
    """Check that any client could read the reply: each event is JSON."""
    told = upstream_reading.openai_stream(ask.body) if ask.stream else upstream_reading.openai_json(ask.body)
    _hold(not told.odd, f"no client can read this: {told.odd}")
    if ask.stream:
        frames = ask.body.split(b"\n\n")
        _hold(
            frames[-1] == b"" and all(f.startswith(b"data: ") for f in frames[:-1]), "frames of another kind"
        )
    return told


def _check_refused(ask: FuzzedRequest) -> str:
    """Check an error before the first content: it has the one shape, and no good answer was turned away."""
    try:
        said = json.loads(ask.body)
    except ValueError:
        raise Violation("an error that is no JSON") from None
    _check_error(said, ask.status)
    _hold(ask.headers["content-type"] == "application/json", "an error of another type")
    _hold(ask.headers["x-request-id"] == said["error"]["id"], "an error without its id")
    _hold(not _turned_away(ask), "a good answer was turned away")
    return "refused"


def _check_error(said: Any, status: int | None) -> None:
    error = said["error"]
    _hold(set(said) == {"error"} and set(error) == ERROR_FIELDS, f"fields of an error: {error}")
    _hold((error["code"], error["type"]) in KNOWN and error["code"] != DEFECT, f"code of an error: {error}")
    if status is not None and error["code"] != "provider_refused":
        _hold(KNOWN[error["code"], error["type"]] == status, f"status {status} of {error['code']}")
    _hold(isinstance(error["message"], str) and len(error["message"]) <= 400, "the message of an error")


def _sources(ask: FuzzedRequest) -> list[ReadAnswer]:
    """Return what the attempts at the target that answered have sent."""
    return [upstream_reading.upstream(up.persona, up.stream, up.received()[0]) for up in _answering(ask)]


def _answering(ask: FuzzedRequest) -> list[BrokenReply]:
    """Return the attempts at the target that answered; other targets may have been asked in parallel."""
    target = ask.headers["x-dub5-target"].partition("/")[0]
    return [
        up
        for up in ask.played
        if up.persona == target and up.status == 200 and (up.stream or up.received()[1])
    ]


def _same_json(one: str, other: str) -> bool:
    return bool(json.loads(one) == json.loads(other))


def _turned_away(ask: FuzzedRequest) -> bool:
    """Return whether the last provider gave a whole, good answer. One that lost a hedge was not needed."""
    target = ask.headers.get("x-dub5-target", "").partition("/")[0]
    heard = [up for up in ask.played if up.persona == target] if target else ask.played
    hedge_lost = not target and b'"hedge_lost"' in ask.body
    return bool(heard) and heard[-1].harmless and not hedge_lost


def _hold(true: bool, otherwise: str) -> None:
    if not true:
        raise Violation(otherwise)


def _shown(ask: FuzzedRequest) -> str:
    told = [f"asked: {ask.json()}", f"client got: {ask.status} {dict(ask.headers)}\n  {ask.body[:6000]!r}"]
    return "\n".join([*told, *(f"upstream {i + 1}: {up}" for i, up in enumerate(ask.played))])


def fuzz(seed: int, number: int, streams: int = STREAMS_PER_WORLD) -> Counter[str]:
    """Run one world. Raises Violation, and what `run` raises."""
    # Else the days between the rounds are most of a world's work, and a look may be under way as one ends.
    with mock.patch.object(watch, "LOOK_S", A_LONG_WHILE_S):
        return run(FuzzedService(seed, number, streams).play(), seed=number)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.experiments.fuzz_upstream", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--streams", type=int, default=10_000, help="how many upstream streams (10000)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal streams (0)")
    parser.add_argument("--world", type=int, help="only this world: what a failure's line says")
    parser.add_argument(
        "--keep-going", action="store_true", help="count failures instead of ending at the first"
    )
    asked = parser.parse_args()
    logging.disable()
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    for number in itertools.count() if asked.world is None else [asked.world]:
        left = asked.streams - counts["streams"] if asked.world is None else STREAMS_PER_WORLD
        if left <= 0:
            break
        try:
            counts += fuzz(asked.seed, number, min(STREAMS_PER_WORLD, left))
        except FAILED as error:
            again = f"python -m tests.experiments.fuzz_upstream --seed {asked.seed} --world {number}"
            print(f"\n{type(error).__name__}: {error}\nagain: {again}", flush=True)
            if not asked.keep_going:
                return 1
            counts += Counter(streams=STREAMS_PER_WORLD, failures=1)
        if number % 20 == 19:
            took_s = time.perf_counter() - began
            print(f"{counts['streams']:7} streams, {took_s:5.0f} s", file=sys.stderr, flush=True)
    took_s = time.perf_counter() - began
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"{told}; seed {asked.seed}, {took_s:.0f} s")
    return 1 if counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
