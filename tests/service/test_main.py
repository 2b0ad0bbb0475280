"""The service as its own process, on real sockets: start, leave, SIGTERM, SIGHUP."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from dub5.service.command import main
from dub5.simulators.script import Respond, Script, SimRequest
from dub5.simulators.server.sockets import serve
from tests.support.world import body, healthy, payloads, status

pytestmark = pytest.mark.real_sockets
ENDLESS = healthy(first_s=0.01, gap_s=0.05, words=("word ",) * 10_000)
PATIENCE_S = 30.0
SMALLEST = (
    '[[provider]]\nname = "one"\ndialect = "openai"\nbase_url = "http://h"\n'
    '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
)
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
            *(sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0"),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_background_of_a_script(tmp_path: Path, number: signal.Signals) -> None:
    """Started with SIGINT ignored, as a script's `&` does, it ends; each line of its log is an object."""
    config = tmp_path / "dub5.toml"
    config.write_text(SMALLEST.replace("http://h", "http://h/v1/chat/completions"))
    command = (sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0")
    job = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(number)
    _, log = job.communicate(timeout=PATIENCE_S)
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["event"] for line in lines] == ["started", "settings", "drain"]
    assert "/chat/completions" in lines[1]["problems"][0]
    assert job.returncode == 0


async def test_sighup(tmp_path: Path) -> None:
    """Reads the file and the keys again: a stream goes on, a new name answers, and a broken file changes
    nothing."""
    used: list[str | None] = []

    def noting(request: SimRequest) -> Script:
        used.append(request.headers.get("authorization"))
        return ENDLESS(request)

    key = tmp_path / "key"
    key.write_text("sk-old\n")
    async with running(tmp_path, noting, KEY_TWO_FILE=str(key)) as (process, url):
        chat = url + "/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(chat, json=body(stream=True)) as stream:
            await stream.content.readany()

            config = tmp_path / "dub5.toml"
            text = config.read_text().replace('"chat"', '"other"')
            text = text.replace('"two"', '"two"\nkey_env = ["KEY_TWO"]') + "[server]\nport = 1\n"
            config.write_text(text)
            told = await reloaded(process, session, url)
            assert (told["ok"], told["problems"]) == (True, [])  # --port still lies over the file
            key.write_text("sk-new\n")
            config.write_text(text + 'wire = "httpx"\n')
            told = await reloaded(process, session, url)
            assert told["problems"] == ["server.wire: needs a restart; the old value stays."]
            async with session.post(chat, json=body(model="other")) as answer:
                assert answer.headers["x-dub5-target"] == "two/m"

            config.write_text("[[route]")
            told = await reloaded(process, session, url)
            assert told["ok"] is False
            assert "is not valid TOML" in told["problems"][0]
            async with session.post(chat, json=body(model="other")) as answer:
                assert answer.status == 200

            while b'"word "' not in await stream.content.readany():
                pass
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    assert used == [None, "Bearer sk-new", "Bearer sk-new"]


async def reloaded(
    process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str
) -> dict[str, Any]:
    """Sends SIGHUP; what /status tells of it then."""

    async def told() -> dict[str, Any] | None:
        async with session.get(url + "/status") as answer:
            return (await answer.json())["reloaded"]

    before = await told()
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(PATIENCE_S):
        while (after := await told()) == before:
            pass
    assert after is not None
    return after


async def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """Ends the service that was started in it: SIGHUP means just that there."""
    in_it = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    config = tmp_path / "dub5.toml"
    config.write_text(SMALLEST)
    terminal, inside = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", in_it, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0"),
        stdin=inside,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(inside)
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).startswith(b"listening")
        os.close(terminal)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_client_that_leaves_is_noticed_by_the_provider(tmp_path: Path) -> None:
    """When a client leaves, the provider notices within 100 ms when idle."""
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
    """A port in use is reported in one line, with what to do."""
    async with serve(ENDLESS) as taken:
        config = tmp_path / "dub5.toml"
        config.write_text(
            f'[[provider]]\nname = "one"\ndialect = "openai"\nbase_url = "{taken.url}"\n'
            '[[route]]\nname = "chat"\ntargets = ["one/m"]\n'
        )
        port = taken.url.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", port),
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 1
    assert said.decode().strip().endswith("Choose another with --port.")
    assert b"Traceback" not in said


def test_idle_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service keeps idle connections longer than load balancers do, which might send a request on a
    closing one."""
    config, seen = tmp_path / "dub5.toml", dict[str, Any]()
    config.write_text(SMALLEST)

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
