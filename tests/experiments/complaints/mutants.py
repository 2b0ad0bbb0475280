"""Mutants: for each theme a service broken as another gateway once was, and the test that must fail then.

mutant.breaks()                 a context manager: the service is broken within the block
mutant.check()                  runs the test in virtual time; raises AssertionError if it fails
"""

import asyncio
import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from benchmarks.canned import CASES, PLAIN, RequestBench
from benchmarks.conftest import BUDGETS
from dub5.service.admission.admission import Admission
from dub5.service.api import chat, stream
from dub5.service.cache import key
from dub5.service.errors import StreamCut
from dub5.service.failover.attempt import Attempt, StreamedAnswer
from dub5.service.gateway import Answer
from dub5.service.model import AttemptRecord, Chunk
from dub5.service.providers.sse import SseDecoder
from dub5.service.resilience.circuit_breaker import Breaker
from dub5.service.resilience.classify import Classification
from dub5.service.resilience.permit import Permit
from dub5.simulators.virtual import run
from tests.experiments.fuzz_upstream import fuzz
from tests.simulation.mutants import permit_kept_on_cancel


@contextlib.contextmanager
def cut_in_silence() -> Iterator[None]:
    """End a stream that breaks off as if it were whole."""
    whole = StreamedAnswer.read

    async def read(self: StreamedAnswer) -> list[Chunk]:
        try:
            return await whole(self)
        except StreamCut:
            return []

    with mock.patch.object(StreamedAnswer, "read", read):
        yield


@contextlib.contextmanager
def deadline_begins_anew() -> Iterator[None]:
    """Give an attempt on a fresh connection the whole time again."""
    whole = Attempt.open

    async def open(self: Attempt, fresh: bool) -> Any:
        if fresh:
            self.timeouts.deadline_s += 60.0
        return await whole(self, fresh)

    with mock.patch.object(Attempt, "open", open):
        yield


@contextlib.contextmanager
def earlier_end_kept() -> Iterator[None]:
    """End a cool-down at the first, earlier time, although it was extended."""
    whole = Permit.end

    def end(self: Permit, classification: Classification | None, now_s: float, *, reached: bool) -> None:
        before_s = self._key.cooldown_until_s
        whole(self, classification, now_s, reached=reached)
        if before_s > now_s:
            self._key.cooldown_until_s = before_s

    with mock.patch.object(Permit, "end", end):
        yield


@contextlib.contextmanager
def breaker_cannot_open() -> Iterator[None]:
    """Never open the breaker, whatever fails."""
    with mock.patch.object(Breaker, "_evaluate", lambda self, now_s, not_before_s: None):
        yield


@contextlib.contextmanager
def connections_left_open() -> Iterator[None]:
    """Never close the connection that an attempt has opened."""

    async def close(self: Attempt, *, at_end: bool = False) -> None: ...

    with mock.patch.object(Attempt, "close", close):
        yield


@contextlib.contextmanager
def leaving_noticed_late() -> Iterator[None]:
    """Notice two seconds late that a client has left."""
    whole = chat.Exchange._on_leave

    def later(self: chat.Exchange) -> None:
        asyncio.get_running_loop().call_later(2.0, whole, self)

    with mock.patch.object(chat.Exchange, "_on_leave", later):
        yield


@contextlib.contextmanager
def drain_waits_for_nobody() -> Iterator[None]:
    """Cut open streams at once when the process is told to end."""

    async def wait_until_empty(self: Admission, within_s: float) -> bool:
        return False

    with mock.patch.object(Admission, "wait_until_empty", wait_until_empty):
        yield


@contextlib.contextmanager
def field_not_in_the_key() -> Iterator[None]:
    """Leave the seed out of the cache key."""
    with mock.patch.object(key, "NOT_IN_KEY", key.NOT_IN_KEY | {"seed"}):
        yield


@contextlib.contextmanager
def chunks_lost() -> Iterator[None]:
    """Forget the beginning of an event with each read."""
    whole = SseDecoder.feed

    def feed(self: SseDecoder, data: bytes) -> list[tuple[bytes, bytes]]:
        self._waiting, self._waiting_bytes = [], 0
        return whole(self, data)

    with mock.patch.object(SseDecoder, "feed", feed):
        yield


@contextlib.contextmanager
def slow_for_everybody() -> Iterator[None]:
    """Spend a few milliseconds on each answer for nothing."""
    whole = stream.trail_header

    def trail_header(trail: list[AttemptRecord], answer: Answer, first_token_s: float) -> str:
        sum(range(200_000))
        return whole(trail, answer, first_token_s)

    with mock.patch.object(chat, "trail_header", trail_header):
        yield


def within_its_budget() -> None:
    """Check the budget of benchmarks/test_requests.py for a JSON answer, with fewer requests and twice the
    budget."""
    case = CASES[0]
    with RequestBench() as bench:
        ratio = bench.compare(case, PLAIN, rounds=20)
    assert ratio.value <= 2 * BUDGETS["ratio"][case.name]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken service and the test that must notice.

    `broken`: a description. `test` is called with `arguments`, unless `instead` holds its essence.
    """

    theme: str
    breaks: Callable[[], contextlib.AbstractContextManager[None]]
    broken: str
    test: str
    arguments: dict[str, Any] = field(default_factory=dict)
    instead: Callable[[], object] | None = None

    def check(self) -> None:
        """Run the test. Raises AssertionError if the promise does not hold."""
        found = (self.instead or _found(self.test))(**self.arguments)
        if inspect.iscoroutine(found):
            run(found)


def _found(test: str) -> Callable[..., object]:
    """Return the test itself; of a hypothesis test, the inner function."""
    file, *names = test.split("::")
    here: Any = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for name in names:
        here = getattr(here() if inspect.isclass(here) else here, name)
    given = getattr(here, "hypothesis", None)
    return given.inner_test if given else here  # type: ignore[no-any-return]


GATEWAY = "tests/service/test_gateway.py"
BEHAVIOUR = "tests/experiments/complaints/test_behaviour.py"
MUTANTS = (
    Mutant(
        "streams",
        cut_in_silence,
        "a stream that breaks off is ended as if it were complete",
        f"{BEHAVIOUR}::test_a_limit_in_the_middle_of_a_stream",
        {"begun": True},
    ),
    Mutant(
        "timeouts",
        deadline_begins_anew,
        "an attempt on a fresh connection has the full timeout again",
        f"{BEHAVIOUR}::test_a_dead_connection_does_not_move_the_deadline",
    ),
    Mutant(
        "retry and routing",
        earlier_end_kept,
        "a second limit during a cool-down does not extend the cool-down",
        f"{BEHAVIOUR}::test_resting_again_lasts_longer",
    ),
    Mutant(
        "dependencies",
        breaker_cannot_open,
        "the circuit breaker of Redis cannot open",
        "tests/service/resilience/test_storage_guard.py::test_nobody_asks_what_is_lost",
        {"hang_s": 0.0},
    ),
    Mutant(
        "memory and pools",
        connections_left_open,
        "the connection of an attempt is not closed",
        "tests/experiments/test_fuzz_upstream.py::test_hundreds_of_streams",
        instead=lambda: fuzz(1, 1, 40),
    ),
    Mutant(
        "cancel",
        leaving_noticed_late,
        "a disconnect of the client is noticed after two seconds",
        f"{GATEWAY}::TestLeaving::test_the_provider_is_told_at_once",
        {"at_s": 0.15},
    ),
    Mutant(
        "limits",
        permit_kept_on_cancel,
        "a permit is not released when its request is cancelled",
        f"{GATEWAY}::TestLeaving::test_the_provider_is_told_at_once",
        {"at_s": 0.05},
    ),
    Mutant(
        "drain and probes",
        drain_waits_for_nobody,
        "shutdown cuts open streams at once",
        f"{GATEWAY}::TestDrain::test_open_streams_finish",
    ),
    Mutant(
        "cache",
        field_not_in_the_key,
        "a field that changes the answer is not in the cache key",
        "tests/service/cache/test_key.py::test_bodies_that_differ_share_no_key",
        {"one": {"seed": 1}, "other": {"seed": 2}},
    ),
    Mutant(
        "bodies and isolation",
        chunks_lost,
        "the beginning of an event is lost when the rest arrives in another read",
        "tests/service/providers/test_sse.py::test_byte_by_byte",
    ),
    Mutant(
        "speed",
        slow_for_everybody,
        "each answer costs a few milliseconds more",
        "benchmarks/test_requests.py::test_a_request",
        instead=within_its_budget,
    ),
)
