"""The service as its own process, on real sockets: start, leave, SIGTERM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from service.__main__ import main
from simulators.script import Respond, SimRequest
from simulators.sockets import serve
from tests.service.world import body, healthy, payloads, status

pytestmark = pytest.mark.real_sockets
ENDLESS = healthy(first_s=0.01, gap_s=0.05, words=("word ",) * 10_000)
PATIENCE_S = 30.0
BALANCERS_S = 60  # how long those in front keep an idle connection


@asynccontextmanager
async def running(
    folder: Path, respond: Respond, **environ: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process and its address, with a dead provider before the one that answers."""
    async with serve(status(530, b"error code: 1033")) as dead, serve(respond) as alive:
        config = folder / "dub5.toml"
        config.write_text(
            "".join(
                f'[[provider]]\nname = "{name}"\ndialect = "openai"\nbase_url = "{server.url}/v1"\n'
                for name, server in (("one", dead), ("two", alive))
            )
            + '[[route]]\nname = "chat"\ntargets = ["one/m", "two/m"]\n'
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "serve", "--config", str(config), "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | environ,
        )
        try:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            assert line.startswith(b"listening on http://127.0.0.1:")
            yield process, line.split()[-1].decode()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def test_sigterm_during_fifty_streams(tmp_path: Path) -> None:
    """Each of them ends with a finish or with an error event, and the process ends well."""

    async def ask(session: aiohttp.ClientSession, url: str, begun: asyncio.Semaphore) -> bytes:
        async with session.post(url + "/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.headers["x-dub5-target"] == "two/m"
            begun.release()
            return await answer.read()

    async with running(tmp_path, ENDLESS, DUB5__SERVER__DRAIN_S="0.5") as (process, url):
        async with aiohttp.ClientSession() as session:
            begun = asyncio.Semaphore(0)
            streams = [asyncio.create_task(ask(session, url, begun)) for _ in range(50)]
            for _ in streams:
                await begun.acquire()
            process.send_signal(signal.SIGTERM)
            for data in await asyncio.gather(*streams):
                assert payloads(data)[-1]["error"]["code"] == "shutting_down"
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_a_client_that_leaves_is_noticed_by_the_provider(tmp_path: Path) -> None:
    """Within 100 ms when idle."""
    closed = asyncio.Event()

    def watched(request: SimRequest):
        try:
            yield from ENDLESS(request)
        finally:
            closed.set()

    async with running(tmp_path, watched) as (_, url), aiohttp.ClientSession() as session:
        async with session.post(url + "/v1/chat/completions", json=body(stream=True)) as answer:
            await answer.content.readany()
        left_s = asyncio.get_running_loop().time()
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
        assert asyncio.get_running_loop().time() - left_s < 0.1


async def test_a_port_in_use(tmp_path: Path) -> None:
    """Said in one line, with what to do."""
    async with serve(ENDLESS) as taken:
        config = tmp_path / "dub5.toml"
        config.write_text(
            f'[[provider]]\nname = "one"\ndialect = "openai"\nbase_url = "{taken.url}"\n'
            '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
        )
        port = taken.url.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "serve", "--config", str(config), "--port", port),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert said.decode().strip().endswith("Choose another with --port.")
    assert b"Traceback" not in said


def test_idle_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are the client's to close, or it would send a request into a connection that is just being closed."""
    config, seen = tmp_path / "dub5.toml", dict[str, Any]()
    config.write_text(
        '[[provider]]\nname = "one"\ndialect = "openai"\nbase_url = "http://h"\n'
        '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
    )

    def noting(app: object, **options: Any) -> None:
        seen.update(options)
        raise InterruptedError

    monkeypatch.setattr(uvicorn, "Config", noting)
    with pytest.raises(InterruptedError):
        main(["serve", "--config", str(config)])
    assert seen["timeout_keep_alive"] > BALANCERS_S


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` says everything that is wrong, and fails; it needs no network."""
    config = tmp_path / "dub5.toml"
    config.write_text('[[provider]]\nname = "one"\ndialect = "opneai"\nbase_url = "http://h"\n')
    assert main(["check", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "No route is configured" in said
    assert "must be one of openai, mistral, anthropic (it is 'opneai')" in said
