"""What the deploy files start, started as platforms do it: from an installed wheel, without a checkout."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dub5.service.config.settings import Secret
from dub5.service.verify.command import verify
from dub5.service.verify.site import Site
from dub5.service.wire.native_wire import NativeWire
from dub5.simulators.server.sockets import serve
from tests.support.installed import PATIENCE_S, build_wheel, install_wheel
from tests.support.machine import free_port
from tests.support.source import ROOT
from tests.support.world import WORDS, body, healthy, payloads

pytestmark = pytest.mark.real_sockets
KEYS = {"DUB5_CALLER_KEY": "caller-key-of-this-test", "OPENAI_API_KEY": "sk-of-this-test"}
AUTHORIZED = {"authorization": f"Bearer {KEYS['DUB5_CALLER_KEY']}"}
SETTINGS = """
[server]
caller_keys_env = ["DUB5_CALLER_KEY"]
[[provider]]
name = "one"
dialect = "openai"
base_url = "URL/v1"
key_env = ["OPENAI_API_KEY"]
[[route]]
name = "chat"
targets = ["one/m"]
"""
RENDER = re.findall(r"^ +startCommand: (.*)$", (ROOT / "render.yaml").read_text(), re.MULTILINE)
PROCFILE = re.findall(r"^web: (.*)$", (ROOT / "Procfile").read_text(), re.MULTILINE)
UVICORN = "python -m uvicorn dub5.service.asgi:app --port $PORT --log-level warning --lifespan"
# The commands that start a web service; Heroku's is Render's.
COMMANDS = {"render": RENDER, "uvicorn": [f"{UVICORN} on"], "no lifespan": [f"{UVICORN} off"]}
NEEDS_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="Vercel's runtime needs Python 3.12")
EXCLUDED_ALWAYS = ("public", "node_modules")  # by Vercel's builder, besides hidden folders and caches


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("platform")
    return install_wheel(build_wheel(folder), folder / "venv")


def environ_of(python: Path, **more: str) -> dict[str, str]:
    """Return the environment of a platform: its own commands first, no checkout, and bytecode on the disk."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DUB5", "PYTHON"))}
    return kept | KEYS | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | more


async def ready(url: str, process: asyncio.subprocess.Process) -> None:
    """Poll /readyz until it is 200, as a platform does, for as long as the process lives."""
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)
    raise AssertionError("it ended before it was ready")


@asynccontextmanager
async def started(
    command: list[str], folder: Path, environ: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def text_of(stream: bytes) -> str:
    """Return the text of a stream that is whole: it has a finish reason, and says that it is done."""
    events = payloads(stream)
    assert events[-1] == "[DONE]"
    choices = [event["choices"][0] for event in events[:-1] if event["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("platform", COMMANDS)
async def test_start_command(platform: str, python: Path, tmp_path: Path) -> None:
    """The command serves on $PORT; a SIGTERM in the middle of a stream lets it come to its honest end."""
    (command,) = COMMANDS[platform]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with serve(healthy(first_s=0.01, gap_s=0.1)) as provider:
        (tmp_path / "dub5.toml").write_text(SETTINGS.replace("URL", provider.url))
        environ = environ_of(python, PORT=str(port))
        async with started(["bash", "-c", command], tmp_path, environ) as process:
            await ready(url, process)
            chat = f"{url}/v1/chat/completions"
            async with (
                aiohttp.ClientSession(headers=AUTHORIZED) as session,
                session.post(chat, json=body(stream=True)) as answer,
            ):
                begin = await answer.content.readline()
                process.send_signal(signal.SIGTERM)
                assert text_of(begin + await answer.read()) == "".join(WORDS)
            assert process.stderr is not None
            log = (await process.stderr.read()).decode()
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) in (0, -signal.SIGTERM)
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert events[0] == "started" and "request" in events, log


def test_one_command() -> None:
    """Render, Heroku and the container start the same command."""
    container = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert RENDER == PROCFILE == [" ".join(json.loads(container[0]))]


def vercel_bundle(folder: Path) -> None:
    """Copy what Vercel's builder packs besides the installed packages: all files but the excluded ones."""
    config = json.loads((ROOT / "vercel.json").read_text())
    pattern = config["functions"]["api/index.py"]["excludeFiles"]
    excluded = {*re.fullmatch(r"\{(.*)\}/\*\*", pattern)[1].split(","), *EXCLUDED_ALWAYS}  # type: ignore[index]
    for path in ROOT.iterdir():
        if path.name in excluded or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)


@asynccontextmanager
async def vercel_runtime(python: Path, folder: Path) -> AsyncIterator[str]:
    """Start a function under Vercel's own runtime, and be the platform on its socket. Yield its address."""
    told = asyncio.Queue[dict[str, Any]]()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while message := (await reader.readuntil(b"\0")):
            told.put_nowait(json.loads(message[:-1]))

    async with (
        await asyncio.start_unix_server(hear, folder / "ipc"),
        started(*function(python, folder)) as process,
    ):
        message = await asyncio.wait_for(told.get(), PATIENCE_S)
        assert message["type"] == "server-started", message
        yield f"http://127.0.0.1:{message['payload']['httpPort']}"
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_S)


def function(python: Path, folder: Path) -> tuple[list[str], Path, dict[str, str]]:
    """Return what starts the function of a bundle under Vercel's runtime: command, folder, environment."""
    environ = environ_of(
        python,
        VERCEL_IPC_PATH=str(folder / "ipc"),
        __VC_HANDLER_MODULE_NAME="api.index",
        __VC_HANDLER_ENTRYPOINT="api/index.py",
        __VC_HANDLER_ENTRYPOINT_ABS=str(folder / "api" / "index.py"),
        __VC_HANDLER_VARIABLE_NAME="app",
    )
    return [str(python), "-c", "import vercel_runtime.vc_init"], folder, environ


@NEEDS_3_12
async def test_vercel_without_settings(python: Path, tmp_path: Path) -> None:
    """Where no settings file was deployed, the log of the function says so in one sentence."""
    vercel_bundle(tmp_path)
    async with started(*function(python, tmp_path)) as process:
        assert process.stderr is not None
        log = (await process.stderr.read()).decode()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 2
    assert log.strip().splitlines() == [
        "Invalid configuration (1 error):",
        "  - dub5.toml: cannot be read (No such file or directory).",
    ]


@NEEDS_3_12
async def test_vercel(python: Path, tmp_path: Path) -> None:
    """Under Vercel's runtime, from what its builder packs, health, a JSON answer and a stream are whole."""
    vercel_bundle(tmp_path)
    assert not (tmp_path / "service").exists()
    async with serve(healthy()) as provider:
        (tmp_path / "dub5.toml").write_text(SETTINGS.replace("URL", provider.url))
        async with (
            vercel_runtime(python, tmp_path) as url,
            aiohttp.ClientSession(headers=AUTHORIZED) as session,
        ):
            async with session.get(f"{url}/health") as answer:
                assert answer.status == 200
            async with session.post(f"{url}/v1/chat/completions", json=body()) as answer:
                told = await answer.json()
                assert told["choices"][0]["message"]["content"] == "".join(WORDS)
            async with session.post(f"{url}/v1/chat/completions", json=body(stream=True)) as answer:
                assert text_of(await answer.read()) == "".join(WORDS)
            assert await verified(url) == 0


async def verified(url: str) -> int:
    """Return the exit code of `dub5 verify` there."""
    wire = NativeWire()
    try:
        return await verify(Site(url, wire, Secret(KEYS["DUB5_CALLER_KEY"]), "chat", ()))
    finally:
        await wire.aclose()


@pytest.mark.thorough
def test_container_commands(tmp_path: Path) -> None:
    """The commands of the Dockerfile, played in a folder in place of the image, install the service."""
    context, prefix = tmp_path / "context", tmp_path / "opt"
    context.mkdir()
    for name in re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, context)
    for command in re.findall(r"^RUN (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        here = command.replace("/opt", str(prefix)).replace("python ", f"{sys.executable} ", 1)
        subprocess.run(["sh", "-c", here], cwd=context, check=True, timeout=600)
    told = subprocess.run([prefix / "dub5/bin/dub5", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("dub5 ")
