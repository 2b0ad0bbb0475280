"""Plays each deviation on real sockets, to the official package itself and to the service."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai

from dub5.simulators.script import Script, SimRequest
from dub5.simulators.server.sockets import serve
from tests.experiments.contract.service import running
from tests.experiments.deviations.heard import Heard, Heards, hear
from tests.experiments.deviations.heard_messages import hear_messages
from tests.experiments.deviations.rows import Deviation

AT_ONCE = 6
TIMEOUT_S = 10.0
BASES = {"openai": "/v1", "anthropic": ""}


async def play(rows: Sequence[Deviation]) -> list[Heards]:
    """Return what is heard of each row."""

    def respond(request: SimRequest) -> Script:
        return iter(rows[int(request.path.split("/", 2)[1])].actions)

    async with serve(respond) as server:
        urls = [f"{server.url}/{at}{BASES[row.dialect]}" for at, row in enumerate(rows)]
        async with running(settings(rows, urls)) as service:
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(AT_ONCE) as threads:
                asked = [
                    loop.run_in_executor(threads, _asks(at, row, urls[at], f"{service}/v1"))
                    for at, row in enumerate(rows)
                ]
                return await asyncio.gather(*asked)


def _asks(at: int, row: Deviation, url: str, service: str) -> Callable[[], Heards]:
    def ask() -> Heards:
        with openai.OpenAI(base_url=service, api_key="k", max_retries=0, timeout=TIMEOUT_S) as client:
            through = [
                hear(client, f"{delivery}-{at}", stream=row.stream, **row.fields)
                for delivery in ("live", "whole")
            ]
        return _itself(row, url), through[0], through[1]

    return ask


def _itself(row: Deviation, url: str) -> Heard:
    if row.dialect == "openai":
        with openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=TIMEOUT_S) as client:
            return hear(client, "m", stream=row.stream, **row.fields)
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, timeout=TIMEOUT_S) as other:
        return hear_messages(other, stream=row.stream)


def settings(rows: Sequence[Deviation], urls: Sequence[str]) -> str:
    """Return the service's settings file: a provider for each row, and a route for each delivery."""
    lines = ["[server]", "port = 0"]
    for at, (row, url) in enumerate(zip(rows, urls, strict=True)):
        lines += ["[[provider]]", f'name = "p{at}"', f'dialect = "{row.dialect}"', f'base_url = "{url}"']
        for delivery in ("live", "whole"):
            lines += ["[[route]]", f'name = "{delivery}-{at}"', f'targets = ["p{at}/m"]']
            lines += [f'delivery = "{delivery}"', "[route.timeouts]", "first_token_s = 3"]
    return "\n".join(lines) + "\n"
