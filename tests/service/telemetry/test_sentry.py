"""What arrives at Sentry: a real server takes what the service sends."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dub5.service import clock
from dub5.service.app import Service
from dub5.service.config.settings import (
    LoadedSettings,
    ProviderSettings,
    RouteSettings,
    Secret,
    SentrySettings,
    Settings,
)
from dub5.service.events import Crashed
from dub5.service.telemetry.outgoing import Post
from dub5.service.telemetry.problems import Problems
from dub5.service.telemetry.sentry import AGAIN_S, AT_ONCE, FIELDS, SentryReporter
from dub5.simulators.virtual import AppClient
from dub5.simulators.virtual import run as run_virtually

QUESTION = "who-reads-this-question"
ANSWERS = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Ingest:
    """A server that takes envelopes."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []  # head and body
        self.arrived = asyncio.Event()
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length"))
        self.requests.append((head, await reader.readexactly(int(length.partition(":")[2]))))
        writer.write(ANSWERS)
        await writer.drain()
        writer.close()
        self.arrived.set()

    def events(self) -> list[dict[str, Any]]:
        """Return the event of each envelope: its third line."""
        return [json.loads(body.split(b"\n")[2]) for _, body in self.requests]


@asynccontextmanager
async def ingesting() -> AsyncIterator[Ingest]:
    ingest = Ingest()
    server = await asyncio.start_server(ingest.accept, "127.0.0.1", 0)
    ingest.port = server.sockets[0].getsockname()[1]
    try:
        yield ingest
    finally:
        server.close()


def loaded(port: int) -> LoadedSettings:
    settings = Settings(
        (ProviderSettings("one", "openai", "http://127.0.0.1:9/v1"),),
        (RouteSettings("chat", ("one/m",)),),
        sentry=SentrySettings("DSN", environment="staging"),
    )
    keys = {"one": (Secret("sk-of-the-provider"),)}
    dsn = Secret(f"http://public-key@127.0.0.1:{port}/42")
    return LoadedSettings(settings, keys, (Secret("caller-key"),), sentry_dsn=dsn)


@pytest.mark.real_sockets
async def test_what_arrives() -> None:
    """Sentry gets an event per group, of a closed list of fields: no question, key or header. No thread."""
    async with ingesting() as ingest:
        threads = threading.active_count()
        service = Service(loaded(ingest.port))
        client = AppClient(service.asgi)
        async with client, asyncio.timeout(20.0):
            asked = {"model": "chat", "messages": [{"role": "user", "content": QUESTION}]}
            headers = {"authorization": "Bearer caller-key", "x-secret": "header-text"}
            reply = await client.request("POST", "/v1/chat/completions", json=asked, headers=headers)
            assert reply.status == 503
            try:
                raise KeyError(QUESTION)
            except KeyError:
                service.events.emit(Crashed("r-9", "KeyError at chat.py:1"))
            service.watch.look()
            while len(ingest.requests) < 2:
                ingest.arrived.clear()
                await ingest.arrived.wait()
            text = (await client.request("GET", "/metrics", headers=headers)).body.decode()
            assert 'gateway_notifications_total{result="sent",to="sentry",what="problem"}' in text
        assert threading.active_count() == threads
    everything = b"".join(body for _, body in ingest.requests).decode() + "".join(
        h for h, _ in ingest.requests
    )
    for secret in (QUESTION, "sk-of-the-provider", "caller-key", "header-text"):
        assert secret not in everything
    assert all(event.keys() <= FIELDS for event in ingest.events())
    by_what = {event["tags"]["what"]: event for event in ingest.events()}
    failed, crashed = by_what["failed"], by_what["crash"]
    assert failed["tags"]["target"] == "one/m" and failed["tags"]["route"] == "chat"
    assert failed["environment"] == "staging" and failed["release"].startswith("dub5@")
    assert failed["extra"]["count"] == 1 and len(failed["extra"]["requests"]) == 1
    assert crashed["level"] == "fatal" and "KeyError at chat.py:1" in crashed["message"]
    assert "sentry_key=public-key" in ingest.requests[0][0]
    assert "/api/42/envelope/" in ingest.requests[0][0]


def reporter() -> tuple[SentryReporter, list[Post]]:
    posts: list[Post] = []
    return SentryReporter("https://key@sentry.test/1", "test", posts.append), posts


def test_one_event_for_many_errors() -> None:
    """A group is reported when it begins, and again after a while if it has grown: never once per error."""

    async def play() -> None:
        (reports, posts), problems = reporter(), Problems()
        for _ in range(4 * int(AGAIN_S)):
            problems.note(Crashed("r", "KeyError at x.py:1"))
            await asyncio.sleep(1.0)
            reports.report(problems.own(), clock.wall())
        assert len(posts) == 4
        await asyncio.sleep(2 * AGAIN_S)
        reports.report(problems.own(), clock.wall())
        reports.report(problems.own(), clock.wall())
        assert len(posts) == 5
        await asyncio.sleep(2 * AGAIN_S)
        reports.report(problems.own(), clock.wall())
        assert len(posts) == 5

    run_virtually(play())


async def test_a_burst_of_groups() -> None:
    """Many new groups are sent a few at a time, so that they hold nobody up."""
    (reports, posts), problems = reporter(), Problems()
    for number in range(3 * AT_ONCE):
        problems.note(Crashed("r", f"KeyError at x.py:{number}"))
    for _ in range(4):
        reports.report(problems.own(), clock.wall())
    assert len(posts) == 3 * AT_ONCE


async def test_the_environment_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own variables change nothing."""
    for name, value in (("SENTRY_SPOTLIGHT", "1"), ("SENTRY_RELEASE", "x"), ("SENTRY_ENVIRONMENT", "y")):
        monkeypatch.setenv(name, value)
    (reports, posts), problems = reporter(), Problems()
    problems.note(Crashed("r", "KeyError at x.py:1"))
    reports.report(problems.own(), clock.wall())
    event = json.loads(posts[0].body.split(b"\n")[2])
    assert event["release"].startswith("dub5@") and event["environment"] == "test"
