"""The openai package against the service itself, in front of simulated providers.

Each case has a route and targets of its own on ports of their own, so that no case disturbs another.
"""

import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dub5.simulators.faults.answers import parse_fault
from dub5.simulators.latency import PRESETS
from dub5.simulators.personas.base import Profile
from dub5.simulators.provider import SimulatedProvider
from dub5.simulators.server.sockets import serve
from tests.experiments.contract.packages import ProgramFailed

READY_S = 30.0
TIMEOUT_S = 10.0  # timeout of the package: the service's own timeouts must expire first
BASES = {"openai": "/v1", "mistral": "/v1", "anthropic": ""}
OPENAI = ("openai", ())
LATE = {"kind": "status", "status": 503, "retry_after_s": 100}  # the package alone would obey up to 120 s
SOON = {"kind": "status", "status": 503, "retry_after_s": 5}
DOWN = {"kind": "status", "status": 500}

Upstream = tuple[str, Sequence[Mapping[str, Any]]]  # persona, its faults


@dataclass(frozen=True, kw_only=True)
class ServiceCase:
    """A call. `expected` holds for every version, with the error's code in brackets."""

    name: str
    expected: str
    call: str = "chat"
    upstreams: tuple[Upstream, ...] = (OPENAI,)
    params: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = True
    unknown_model: bool = False


def limited(retry_after_s: float) -> Upstream:
    """Return a provider that is rate limited for this many seconds."""
    return "openai", ({"kind": "status", "status": 429, "retry_after_s": retry_after_s},)


def cut(how: str) -> Upstream:
    """Return a provider whose streams break off."""
    return "openai", ({"kind": "cut", "after_tokens": 3, "how": how},)


SERVICE_CASES = (
    *(
        ServiceCase(name=f"{call}, from {persona}", expected="ok", call=call, upstreams=((persona, ()),))
        for persona in BASES
        for call in ("chat", "stream", "tool", "tool_stream", "async_stream", "helper")
    ),
    ServiceCase(
        name="the first target is down",
        expected="ok",
        call="stream",
        upstreams=(("openai", (DOWN,)), ("mistral", ())),
    ),
    ServiceCase(
        name="all down, for 100 s: x-should-retry: false",
        expected="1x InternalServerError (all_targets_down), waits none",
        upstreams=(("openai", (LATE,)), ("mistral", (LATE,))),
    ),
    ServiceCase(
        name="the same, before a stream",
        expected="1x InternalServerError (all_targets_down), waits none",
        call="stream",
        upstreams=(("openai", (LATE,)), ("mistral", (LATE,))),
    ),
    ServiceCase(
        name="all down, for 5 s: it comes back then",
        expected="3x InternalServerError (all_targets_down), waits ~5, ~5",
        upstreams=(("openai", (SOON,)),),
    ),
    ServiceCase(
        name="all at their limit, for 100 s",
        expected="1x RateLimitError (all_targets_limited), waits none",
        upstreams=(limited(100), limited(100)),
    ),
    ServiceCase(
        name="all at their limit, for 5 s",
        expected="3x RateLimitError (all_targets_limited), waits ~5, ~5",
        upstreams=(limited(5), limited(5)),
    ),
    *(
        ServiceCase(
            name=f"the stream is cut: {how}",
            expected="1x APIError (stream_cut), waits none",
            call="stream",
            upstreams=(cut(how),),
        )
        for how in ("close", "reset", "error_event", "end_without_finish")
    ),
    ServiceCase(
        name="no such model",
        expected="1x NotFoundError (model_not_found), waits none",
        unknown_model=True,
    ),
    ServiceCase(
        name="a body we cannot take",
        expected="1x BadRequestError (invalid_request), waits none",
        params={"messages": "none"},
    ),
)


def settings(addresses: Sequence[Sequence[str]]) -> str:
    """Return the service's settings file: a route for each case, with that case's targets."""
    lines = ["[server]", "port = 0"]
    for n, (case, urls) in enumerate(zip(SERVICE_CASES, addresses, strict=True)):
        names = [f"p{n}-{at}" for at in range(len(urls))]
        for name, (persona, _), url in zip(names, case.upstreams, urls, strict=True):
            lines += ["[[provider]]", f'name = "{name}"', f'dialect = "{persona}"']
            lines += [f'base_url = "{url}{BASES[persona]}"']
        targets = ", ".join(f'"{name}/m"' for name in names)
        lines += ["[[route]]", f'name = "r{n}"', f"targets = [{targets}]"]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run a service with the providers of all cases; yield its address. Raises ProgramFailed."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        for case in SERVICE_CASES:
            urls = []
            for persona, known in case.upstreams:
                profile = Profile("one", PRESETS["quick"], words=20)
                provider = SimulatedProvider(persona, profile, rng=random.Random(case.name), now=lambda: 0.0)
                provider.set_faults(map(parse_fault, known))
                urls.append((await stack.enter_async_context(serve(provider))).url)
            addresses.append(urls)
        yield await stack.enter_async_context(running(settings(addresses)))


@contextlib.asynccontextmanager
async def running(settings: str) -> AsyncIterator[str]:
    """Run a service with these settings; yield its address. Raises ProgramFailed."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder, "dub5.toml")
        file.write_text(settings)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5.service", "serve", "--config", str(file), "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        stack.push_async_callback(process.wait)
        stack.callback(_end, process)
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode()
        if not line.startswith("listening on "):
            raise ProgramFailed(f"the service did not start: {line!r}")
        yield line.split()[-1]


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def service_calls(url: str) -> list[dict[str, Any]]:
    """Return the cases for a probe."""
    return [
        {
            "name": case.name,
            "url": url,
            "call": case.call,
            "timeout_s": TIMEOUT_S,
            "params": {"model": "nobody" if case.unknown_model else f"r{n}", **case.params},
        }
        for n, case in enumerate(SERVICE_CASES)
    ]
