"""Verifies with a real service and a real Prometheus that every panel shows what happened.

    python -m dashboards.verify

It starts the service over five simulated providers (dashboards/providers.py) and a real PostgreSQL, and a
Prometheus that scrapes it once a second. It sends requests for twenty seconds, and holds a conversation over
WebSockets that break off, in the middle of which the database stands still. Then every query of every panel
must return finite numbers, the shown rate must be the sent rate, the p95 of the first token must agree with
the client's, and the panels of MUST_MOVE must not be zero.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from dashboards.generate import DASHBOARDS, dashboard_json
from dashboards.providers import KEY_VARIABLE, PROVIDERS, settings
from dub5.service.telemetry import names
from dub5.simulators.server.sockets import serve
from tests.support.postgres import PostgresServer, postgres_server

RATE_PER_S = 20
SECONDS = 20
RATE_INTERVAL_S = 10
START_S = 20.0
TURN_EVERY_S = 2.0
PAUSED_TURN, RESUMED_TURN = 4, 7  # of ten: what fails is still in the rates at the end
# Statements that nobody uses now, and targets that nobody asks now, have no time.
MAY_REST = {"Database: time of statements", "First token by target", "Attempts: duration by target"}
OUTCOME_PANEL, FIRST_TOKEN_PANEL = "Requests by outcome", "First token, as clients see it"
HOST_DEPENDENT = {
    panel.title for dashboard in DASHBOARDS for panel in dashboard.all_panels if panel.host_dependent
}
MUST_MOVE = (  # panels that must show a value above zero
    "Retries, hedges and probes",
    "Retries denied by the retry budget",
    "Queue exits by outcome",
    "Fallback answers",
    "Shared calls",
    "Breaker, health and limit changes",
    "Problems, now and over",
    "Notifications",
    "Tokens",
    "Cost",
    "Database: what failed",
    "Turns of conversations",
    "Turns live, and read on",
    "WebSockets",
    "Files read",
    "Jobs at work, and over",
    "Steps of jobs",
    "Thumbs down",
    "Feedback by kind",
    "Event loop lag",
    "Connections",
)
# The repeated pattern of requests: failovers, cached answers, cut streams, a route whose only target's
# breaker opens, a route with a fallback answer then, one that exhausts its retry budget, and one with equal
# questions at its limit.
REQUEST_PATTERN = (
    [("chat", True, 1)] * 7
    + [("chat", False, 0)] * 3
    + [("torn", True, 1)]
    + [("down", False, 1)] * 3
    + [("sorry", False, 1)]
    + [("keyed", True, 1)]
    + [("flaky", False, 1)] * 7
    + [("slow", False, 0)] * 2
    + [("slow", False, 1)] * 5
)


async def verify(prometheus: str) -> list[str]:
    """Run the verification; return the problems."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dub5-dashboards-")))
        urls = {name: (await stack.enter_async_context(serve(play))).url for name, play in PROVIDERS.items()}
        postgres = stack.enter_context(postgres_server())
        service = await stack.enter_async_context(_service(folder, urls, postgres.new_database()))
        database = await stack.enter_async_context(_prometheus(prometheus, folder, service))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        print(f"{RATE_PER_S} requests a second for {SECONDS} s ...", flush=True)
        async with asyncio.TaskGroup() as group:
            talk = group.create_task(_talk(service, postgres))
            driven = group.create_task(_drive(client, service, talk))
            group.create_task(_study(service, talk))
        first_tokens_s = driven.result()
        await asyncio.sleep(1.5)  # one more scrape
        return await _problems(client, database, first_tokens_s)


async def _drive(client: httpx.AsyncClient, service: str, talk: asyncio.Task[None]) -> list[float]:
    """Send requests at an even rate until the talk is over; return the last streams' seconds to content."""
    first_tokens_s: list[tuple[float, float]] = []  # when each began, and how long it took

    async def send(model: str, stream: bool, temperature: int) -> None:
        question = {"role": "user", "content": "?"}
        body = {"model": model, "messages": [question], "stream": stream, "temperature": temperature}
        started_s = time.perf_counter()
        async with client.stream("POST", f"{service}/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if stream and '"content"' in line:
                    first_tokens_s.append((started_s, time.perf_counter() - started_s))
                    stream = False

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in count():
            if number >= RATE_PER_S * SECONDS and talk.done():
                break
            await asyncio.sleep(max(0.0, began_s + number / RATE_PER_S - time.perf_counter()))
            group.create_task(send(*REQUEST_PATTERN[number % len(REQUEST_PATTERN)]))
    ends_s = time.perf_counter()
    return [took_s for started_s, took_s in first_tokens_s if started_s > ends_s - RATE_INTERVAL_S]


async def _talk(service: str, postgres: PostgresServer) -> None:
    """Hold a conversation for as long; the database stands still for a while."""
    page = {"sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(base_url=service, headers=page, timeout=30, trust_env=False) as client:
        await client.post("/v1/session")
        begun = (await client.post("/v1/conversations", json={})).json()
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        async with _socket(service, cookie):  # that is idle
            for number in range(int(SECONDS / TURN_EVERY_S)):
                if number == PAUSED_TURN:
                    postgres.pause()
                if number == RESUMED_TURN:
                    postgres.resume()
                turn = await client.post(f"/v1/conversations/{begun['id']}/turns", json={"text": "?"})
                turn.raise_for_status()
                thumb = {"kind": "answer", "turn": turn.json()["id"], "value": 1 if number % 2 else -1}
                await client.post("/v1/feedback", json=thumb)
                await _read_on(service, cookie, begun["id"], f"over-a-socket-{number}")
                await asyncio.sleep(TURN_EVERY_S)


async def _study(service: str, talk: asyncio.Task[None]) -> None:
    """Upload documents and make decks of them, for as long as the talk takes; stop every other deck's job.

    While the database stands still, nothing comes of it.
    """
    page = {"sec-fetch-site": "same-origin"}
    async with httpx.AsyncClient(base_url=service, headers=page, timeout=3, trust_env=False) as client:
        await client.post("/v1/session")
        number = 0
        while not talk.done():
            number += 1
            try:
                await _make_decks(client, number)
            except (httpx.HTTPError, KeyError):  # the reply is an error
                pass
            await asyncio.sleep(TURN_EVERY_S / 2)


async def _make_decks(client: httpx.AsyncClient, number: int) -> None:
    """Make two decks of a new document; stop the job of one, whose step is under way."""
    text = f"Text {number}. A cell is the smallest unit of life. " * 20
    headers = {"content-type": "application/octet-stream"}
    name = {"name": f"{number}.txt"}
    uploaded = await client.post("/v1/documents", params=name, content=text, headers=headers)
    document = uploaded.json()["id"]
    await client.post("/v1/decks", json={"document": document, "model": "chat"})
    slow = await client.post("/v1/decks", json={"document": document, "model": "slow"})
    await asyncio.sleep(0.2)
    await client.post(f"/v1/jobs/{slow.json()['job']['id']}/stop")


def _socket(service: str, cookie: str) -> connect:
    """Return a WebSocket, about to be opened."""
    headers = {"cookie": cookie, "origin": service}
    address = f"ws{service.removeprefix('http')}/v1/ws"
    return connect(address, additional_headers=headers, subprotocols=[Subprotocol("dub5.v1")], proxy=None)


async def _read_on(service: str, cookie: str, conversation: str, name: str) -> None:
    """Ask over one WebSocket, and read the answer over another one."""
    asked = {"type": "ask", "id": name, "text": "?", "conversation": conversation}
    async with _socket(service, cookie) as socket:
        turn = (await _said(socket, asked, "accepted"))["turn"]
    async with _socket(service, cookie) as socket:
        await _said(socket, {"type": "resume", "turn": turn}, "end")


async def _said(socket: ClientConnection, message: dict[str, Any], kind: str) -> dict[str, Any]:
    """Send a message, and return the first one of this kind that comes."""
    await socket.send(json.dumps(message))
    async for text in socket:
        found: dict[str, Any] = json.loads(text)
        if found["type"] == kind:
            return found
        if found["type"] == "error":
            raise ValueError(f"{kind!r} was wanted: {text!r}")
    raise ValueError(f"the WebSocket was closed before {kind!r}")


async def _problems(client: httpx.AsyncClient, database: str, first_tokens_s: list[float]) -> list[str]:
    problems: list[str] = []
    end_s = time.time()
    for dashboard in DASHBOARDS:
        for panel in dashboard_json(dashboard)["panels"]:
            if panel["type"] == "row":
                continue
            seen = [await _query(client, database, target["expr"], end_s) for target in panel["targets"]]
            problems += _empty_queries(panel, seen)
            if panel["title"] in MUST_MOVE and not any(
                value > 0 for lines in seen for line in lines for value in line
            ):
                problems.append(f"{panel['title']}: nothing moves")
            if panel["title"] == OUTCOME_PANEL and seen[0]:
                problems += _wrong_rate(seen[0])
            if panel["title"] == FIRST_TOKEN_PANEL and seen[1]:
                problems += _wrong_p95(seen[1][0], first_tokens_s)
    return problems


async def _query(client: httpx.AsyncClient, database: str, expr: str, end_s: float) -> list[list[float]]:
    """Return the values of each line, over the last seconds of the run."""
    for variable, value in (("$__rate_interval", f"{RATE_INTERVAL_S}s"), ("$job", ".+"), ("$instance", ".+")):
        expr = expr.replace(variable, value)
    parameters: dict[str, str | float] = {"query": expr, "start": end_s - 5, "end": end_s, "step": 1}
    answer = (await client.get(f"{database}/api/v1/query_range", params=parameters)).json()
    if answer["status"] != "success":
        raise ValueError(f"{expr}: {answer.get('error')}")
    return [[float(value) for _, value in line["values"]] for line in answer["data"]["result"]]


def _empty_queries(panel: dict[str, Any], seen: list[list[list[float]]]) -> list[str]:
    problems = [
        f"{panel['title']}: query {target['refId']} is empty"
        for target, lines in zip(panel["targets"], seen, strict=True)
        if not lines and panel["title"] not in HOST_DEPENDENT
    ]
    # A quantile without requests is NaN, and drawn as a gap; a line of NaN only is a mistake.
    finite = [any(map(math.isfinite, line)) for lines in seen for line in lines]
    if not (any(finite) if panel["title"] in MAY_REST else all(finite)):
        problems.append(f"{panel['title']}: a line has no finite number")
    return problems


def _wrong_rate(lines: list[list[float]]) -> list[str]:
    shown = sum(max(line) for line in lines)
    if abs(shown - RATE_PER_S) <= RATE_PER_S * 0.1:
        return []
    return [f"{OUTCOME_PANEL}: shows {shown:.1f} requests a second, {RATE_PER_S} were sent"]


def _wrong_p95(line: list[float], first_tokens_s: list[float]) -> list[str]:
    """Compare the p95 with the clients' p90 to p99, and one bucket to either side.

    There are about fifty streams, so on a busy machine one slow stream more or less moves the p95.
    """
    ordered = sorted(first_tokens_s)
    low_s, high_s = (ordered[int(len(ordered) * share)] for share in (0.90, 0.99))
    bounds = [0.0, *names.FIRST_TOKEN.buckets]
    low, high = (next(i for i, bound in enumerate(bounds) if at_s <= bound) for at_s in (low_s, high_s))
    if bounds[max(0, low - 2)] <= line[-1] <= bounds[min(high + 1, len(bounds) - 1)]:
        return []
    seen = f"{low_s * 1000:.0f} to {high_s * 1000:.0f} ms"
    return [f"{FIRST_TOKEN_PANEL}: p95 {line[-1] * 1000:.0f} ms, clients saw {seen} (p90 to p99)"]


@asynccontextmanager
async def _service(folder: Path, urls: dict[str, str], database_url: str) -> AsyncIterator[str]:
    """Run the service over these providers and this database; yield its URL."""
    config = folder / "service.toml"
    config.write_text(settings(urls), encoding="utf-8")
    command = (sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0")
    variables = {"DUB5_HOOK_URL": urls["up"], "DUB5_HOOK_SECRET": "0" * 32, KEY_VARIABLE: "sk-keyed"}
    async with _process(folder, *command, DUB5_DATABASE_URL=database_url, **variables) as process:
        assert process.stdout is not None, "the pipe was requested"
        first_line = await asyncio.wait_for(process.stdout.readline(), START_S)
        yield first_line.decode().removeprefix("listening on ").strip()


@asynccontextmanager
async def _prometheus(program: str, folder: Path, service: str) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes the service once a second; yield its URL."""
    host = service.removeprefix("http://")
    config = folder / "prometheus.json"
    job = {"job_name": "dub5", "scrape_interval": "1s", "static_configs": [{"targets": [host]}]}
    config.write_text(json.dumps({"scrape_configs": [job]}), encoding="utf-8")  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as borrowed:
        url = f"http://127.0.0.1:{borrowed.getsockname()[1]}"  # the port is free again after this block
    flags = {"config.file": config, "storage.tsdb.path": folder / "data", "web.listen-address": url[7:]}
    async with _process(folder, program, *(f"--{name}={value}" for name, value in flags.items())):
        await _until_ready(url)
        yield url


async def _until_ready(url: str) -> None:
    async with asyncio.timeout(START_S), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                if (await client.get(f"{url}/-/ready")).is_success:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _process(
    folder: Path, *command: str, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a child process with these environment variables until the block ends."""
    pipe, log = asyncio.subprocess.PIPE, (folder / f"{Path(command[0]).name}.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=log, env=os.environ | variables
    )
    try:
        yield process
    finally:
        log.close()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if every panel is right, 1 if not, 2 without a Prometheus."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prometheus", default="prometheus", help="the program (found on PATH)")
    program = shutil.which(parser.parse_args(arguments).prometheus)
    if program is None:
        print("No prometheus on PATH: install it, or name it with --prometheus.", file=sys.stderr)
        return 2
    problems = asyncio.run(verify(program))
    for problem in problems:
        print(problem)
    panels = sum(len(dashboard.all_panels) for dashboard in DASHBOARDS)
    print(f"{panels} panels, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
