"""Prober: active health checks. It probes a target that is due for a probe and gets no traffic.

An unhealthy target is probed as often as its circuit breaker allows: at most 15 s apart, 60 s where the host
is gone. A closed one is probed when the breaker of a single caller opens there, once a minute at most. A
probe is a small request of the operation that the target served last: a chat that is closed at its first
content, or one vector. It is an attempt like any other: breaker, limiter and health record its outcome.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any

from msgspec import Raw

from dub5.service import clock
from dub5.service.config.options import ProbeOptions, TimeoutOptions
from dub5.service.events import crash_of
from dub5.service.failover.context import RequestContext
from dub5.service.failover.loop import Failover
from dub5.service.failover.rejected_content import RejectPatterns
from dub5.service.model import (
    AnyRequest,
    ChatBody,
    ChatRequest,
    EmbedBody,
    EmbedRequest,
    Message,
    Target,
)
from dub5.service.resilience.caller_failures import PROBER
from dub5.service.timeouts import Timeouts

CHECK_INTERVAL_S = 1.0
PROMPT = "Reply with one word: ok"
MODEL = Raw(b'"probe"')
CHAT = ChatBody("probe", [Message("user", PROMPT)], stream=True)
CHAT_FIELDS = {
    "model": MODEL,
    "messages": Raw(b'[{"role":"user","content":"' + PROMPT.encode() + b'"}]'),
    "stream": Raw(b"true"),
}
VECTOR = EmbedBody("probe", "ok")
VECTOR_FIELDS = {"model": MODEL, "input": Raw(b'"ok"')}
ROUTE = "probe"


class Prober:
    """Probes targets without traffic. `timeout_options`: those of a route that the target belongs to.

    A defect of ours ends one probe, never the others and never the prober: it is reported as Crashed.
    """

    def __init__(
        self,
        failover: Failover,
        timeout_options: Mapping[Target, TimeoutOptions],
        options: ProbeOptions,
        rng: Random,
        new_id: Callable[[], str],
    ) -> None:
        self._failover = failover
        self._timeout_options = timeout_options
        self._options = options
        self._rng = rng
        self._new_id = new_id
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run until cancelled; then end the probes that are out."""
        try:
            while self._options.enabled:
                # With jitter, so that many instances do not probe at one time.
                await asyncio.sleep(CHECK_INTERVAL_S * self._rng.uniform(0.5, 1.0))
                self._start(self._start_due(), "prober")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run what may fail in a task of its own: its defect ends nothing else."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failover.dependencies.events.emit(crash_of(error, ROUTE))

    async def _start_due(self) -> None:
        fleet, now_s = self._failover.fleet, clock.now()
        for target in (*fleet.probes_due(now_s, self._options.idle_s), *fleet.take_doubts(now_s)):
            self._start(self._probe(target), f"probe {target.name}")

    async def _probe(self, target: Target) -> None:
        timeout_options, now_s = self._timeout_options[target], clock.now()
        request = self._request(target)
        timeouts = Timeouts(now_s + timeout_options.first_token_s + timeout_options.connect_s)
        try:
            await self._failover.probe(
                RequestContext(request, ROUTE, timeout_options, RejectPatterns(()), timeouts, now_s), target
            )
        finally:
            timeouts.close()

    def _request(self, target: Target) -> AnyRequest:
        new_id, caller = self._new_id(), PROBER
        if self._failover.dependencies.last_operations.get(target) == EmbedRequest.operation:
            return EmbedRequest(new_id, caller, VECTOR, VECTOR_FIELDS)
        return ChatRequest(new_id, caller, CHAT, CHAT_FIELDS, cache_allowed=False)
