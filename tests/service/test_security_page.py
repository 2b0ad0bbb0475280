"""docs/operate/security.md: its table is whole, and its procedure works on the real process."""

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from dub5.service.events import SecurityKind
from dub5.simulators.server.sockets import serve
from tests.support.source import ROOT
from tests.support.world import body, healthy

PAGE = (ROOT / "docs" / "operate" / "security.md").read_text()
PATIENCE_S = 30.0
SETTINGS = """
[server]
caller_keys_env = ["KEY_WEB", "KEY_BATCH"]
[[provider]]
name = "one"
dialect = "openai"
base_url = "{url}/v1"
{isolated}
[[route]]
name = "chat"
targets = ["one/m"]
"""


def test_every_event_has_its_row() -> None:
    """Whatever the service notes is explained, with what to do."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]{10,} \| [^|]{10,} \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(SecurityKind)


@pytest.mark.real_sockets
async def test_revoke_isolate_find(tmp_path: Path) -> None:
    """A key file and SIGHUP revoke one key and no other; the log has all that it did, by its hash."""
    files = {name: tmp_path / name for name in ("KEY_WEB", "KEY_BATCH")}
    for name, file in files.items():
        file.write_text(f"{name}-leaked\n")
    environ = os.environ | {f"{name}_FILE": str(file) for name, file in files.items()}
    config = tmp_path / "dub5.toml"
    async with serve(healthy()) as provider, aiohttp.ClientSession() as session:
        config.write_text(SETTINGS.format(url=provider.url, isolated=""))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
        assert process.stdout is not None and process.stderr is not None
        lines: list[dict[str, object]] = []

        async def logged(event: str) -> None:
            """Read the log until this event comes."""
            assert process.stderr is not None
            while not lines or lines[-1]["event"] != event:
                line = await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)
                lines.append(json.loads(line))

        async def ask(key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            async with session.post(f"{url}/v1/chat/completions", json=body(), headers=headers) as answer:
                return answer.status

        try:
            url = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).split()[-1].decode()
            assert [await ask("KEY_WEB-leaked"), await ask("KEY_BATCH-leaked")] == [200, 200]

            files["KEY_WEB"].write_text("KEY_WEB-new\n")
            process.send_signal(signal.SIGHUP)
            await logged("settings")
            assert [await ask(f"KEY_{key}") for key in ("WEB-leaked", "WEB-new", "BATCH-leaked")] == [
                401,
                200,
                200,
            ]

            config.write_text(SETTINGS.format(url=provider.url, isolated="isolated = true"))
            process.send_signal(signal.SIGHUP)
            lines.append({"event": ""})
            await logged("settings")
            assert await ask("KEY_WEB-new") == 503
            process.send_signal(signal.SIGTERM)
            rest = (await asyncio.wait_for(process.communicate(), PATIENCE_S))[1]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    lines += [json.loads(line) for line in rest.splitlines()]
    leaked = hashlib.sha256(b"KEY_WEB-leaked").hexdigest()[:16]
    assert [line["target"] for line in lines if line.get("caller") == leaked] == ["one/m"]
    (noted,) = [line for line in lines if line["event"] == "security"]
    assert (noted["what"], noted["who"], noted["where"]) == ("bad_key", "127.0.0.1", "/v1/chat/completions")
