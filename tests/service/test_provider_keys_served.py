"""Keys of providers on real sockets: a revoked key and a replaced key file, both in the middle of load."""

import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from dub5.service.resilience.provider_keys import key_label
from dub5.simulators.provider import make
from dub5.simulators.server.sockets import serve
from dub5.simulators.settings import build
from tests.support.world import body

pytestmark = pytest.mark.real_sockets
PATIENCE_S = 30.0
SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "{url}/v1"
key_env = ["KEY_A", "KEY_B"]
[[route]]
name = "chat"
targets = ["one/gpt-sim"]
[keys]
check_s = 1
files_s = 0.2
"""


class Load:
    """Clients that ask one after the other; a half of them for streams, which must be whole."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self.answers: list[bool] = []
        self._tasks = [asyncio.create_task(self._ask(stream=bool(i % 2))) for i in range(8)]

    async def _ask(self, *, stream: bool) -> None:
        while True:
            async with self._session.post(self._url, json=body(stream=stream)) as answer:
                data = await answer.read()
                self.answers.append(
                    answer.status == 200 and (not stream or data.endswith(b"data: [DONE]\n\n"))
                )

    async def more(self, count: int) -> None:
        """Wait until so many more requests are over."""
        until = len(self.answers) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.answers) < until:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Stop the clients. What they have met is in `answers`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_revoked_and_replaced_under_load(tmp_path: Path) -> None:
    """A key is revoked, then its file replaced: no request fails, one event tells, /status says which key."""
    loop = asyncio.get_running_loop()
    table = {"name": "one", "persona": "openai", "latency": "zero", "words": 5}
    (provider,) = make(build({"provider": [table]}), now=loop.time)[0].values()
    files = {name: tmp_path / name for name in ("KEY_A", "KEY_B")}
    for name, file in files.items():
        file.write_text(f"sk-{name}-old\n")
    environ = os.environ | {f"{name}_FILE": str(file) for name, file in files.items()}
    config = tmp_path / "dub5.toml"
    async with serve(provider) as server, aiohttp.ClientSession() as session:
        config.write_text(SETTINGS.format(url=server.url))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dub5.service", "serve", "--config", str(config), "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
        assert process.stdout is not None and process.stderr is not None
        url = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).split()[-1].decode()
        log: list[bytes] = []

        async def read_log(lines: asyncio.StreamReader) -> None:
            log.extend([line async for line in lines])

        reading = asyncio.create_task(read_log(process.stderr))

        async def states() -> dict[str, str]:
            async with session.get(f"{url}/status") as answer:
                return {row["key"]: row["state"] for row in (await answer.json())["keys"]}

        async def until_known(key: str, state: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while (await states()).get(key_label(key)) != state:
                    await asyncio.sleep(0.05)

        try:
            load = Load(session, url)
            await load.more(50)
            provider.revoke("sk-KEY_A-old")
            await until_known("sk-KEY_A-old", "refused")
            await load.more(100)
            assert (await states())[key_label("sk-KEY_B-old")] == "valid"

            fresh = tmp_path / "fresh"
            fresh.write_text("sk-KEY_A-new\n")
            fresh.replace(files["KEY_A"])
            await until_known("sk-KEY_A-new", "valid")
            provider.revoke("sk-KEY_B-old")  # no call uses it now: a check finds it
            await until_known("sk-KEY_B-old", "refused")
            await load.more(100)
            await load.end()
            process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE_S)
            await reading
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert len(load.answers) >= 250 and all(load.answers)
    lines = [json.loads(line) for line in log]
    refused = [line["key"] for line in lines if line["event"] == "key" and line["after"] == "refused"]
    assert refused == [key_label("sk-KEY_A-old"), key_label("sk-KEY_B-old")]
    assert sum(line["event"] == "settings" for line in lines) == 1
    assert b"sk-KEY" not in b"".join(log)
