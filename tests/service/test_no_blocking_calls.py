"""All I/O is asynchronous: no request makes the event loop wait for a disk, a name, a socket or a program."""

import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dashboards.providers import PROVIDERS
from dub5.service.app import Service
from dub5.service.config.load import load
from dub5.simulators.server.sockets import serve
from dub5.simulators.virtual import AppClient, AppResponse
from tests.support.blocking_calls import blocking_calls
from tests.support.conversation_world import PAGE

pytestmark = pytest.mark.real_sockets

SETTINGS = """
[[provider]]
name = "down"
dialect = "openai"
base_url = "{down}/v1"
[[provider]]
name = "up"
dialect = "openai"
base_url = "{up}/v1"
[[route]]
name = "chat"
targets = ["down/m", "up/m"]
[route.cache]
enabled = true
[session]
[limits]
ip = {{ count = 1000, window_s = 60 }}
[conversation]
[database]
url = "sqlite:///{file}"
keep_s = 10
patience_s = 10
"""


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[AppClient]:
    """Run a service over a provider that is down, one that answers, a real network and a real SQLite."""
    async with AsyncExitStack() as stack:
        urls = {
            name: (await stack.enter_async_context(serve(PROVIDERS[name]))).url for name in ("down", "up")
        }
        config = folder / "dub5.toml"
        config.write_text(SETTINGS.format(**urls, file=folder / "dub5.db"))
        yield await stack.enter_async_context(AppClient(Service(load(config, {})).asgi))


class Visitor:
    """A page that does all that pages do."""

    def __init__(self, client: AppClient) -> None:
        self._client = client
        self._headers = dict(PAGE)
        self.failed: list[str] = []

    async def send(self, method: str, path: str, body: Any = None, expected: int = 200) -> AppResponse:
        """Send a request, and note it if it is not answered as expected."""
        more = {} if body is None else {"json": body}
        answer = await self._client.request(method, path, headers=self._headers, **more)
        if answer.status != expected:
            self.failed.append(f"{method} {path}: {answer.status} {answer.body[:200]!r}")
        return answer

    async def begin(self) -> None:
        """Begin a session."""
        answer = await self.send("POST", "/v1/session", expected=201)
        self._headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]

    async def do_everything(self, temperature: float) -> None:
        """Ask in every way, read, look, say what it was worth, and delete."""
        for stream in (False, True):
            messages = [{"role": "user", "content": "Hi"}]
            body = {"model": "chat", "messages": messages, "stream": stream, "temperature": temperature}
            await self.send("POST", "/v1/chat/completions", body)
        begun = (await self.send("POST", "/v1/conversations", {"title": "T"}, expected=201)).json()
        path = f"/v1/conversations/{begun['id']}"
        turn = (await self.send("POST", f"{path}/turns", {"text": "Hi"})).json()["id"]
        await self.send("POST", f"{path}/turns", {"text": "And?", "stream": True})
        await self.send("GET", f"/v1/turns/{turn}/events")
        await self.send("PATCH", path, {"title": "U"})
        thumb = {"kind": "answer", "turn": turn, "value": 1}
        await self.send("POST", "/v1/feedback", thumb, expected=201)
        for known in (
            *("/v1/conversations", path, f"/v1/turns/{turn}", f"/v1/feedback?conversation={begun['id']}"),
            *("/v1/models", "/v1/offline", "/livez", "/readyz", "/health", "/health?deep=true"),
            *("/status", "/metrics", "/", "/web/app.js", "/openapi.json"),
        ):
            await self.send("GET", known)
        await self.send("GET", "/v1/turns/x", expected=404)
        await self.send("POST", "/v1/chat/completions", {"model": "none", "messages": []}, expected=400)
        await self.send("DELETE", path, expected=204)


async def test_nothing_blocks_the_loop(tmp_path: Path) -> None:
    """Nothing that a visitor or a monitor does blocks the loop, with failovers and a database, once warm.

    The first time, a module may be imported that only this request needs.
    """
    async with service(tmp_path) as client:
        visitor = Visitor(client)
        await visitor.begin()
        await visitor.do_everything(0.0)
        with blocking_calls() as noted:
            await visitor.do_everything(0.0)
            await visitor.do_everything(0.7)  # not from the cache
        assert visitor.failed == []
        assert noted == [], "\n".join(noted)


BLOCK: dict[str, Callable[[], object]] = {
    "open": lambda: Path(__file__).read_bytes(),
    "os.scandir": lambda: list(Path(__file__).parent.iterdir()),
    "socket.getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "subprocess.Popen": lambda: subprocess.run([sys.executable, "-V"], check=True, capture_output=True),
    "time.sleep": lambda: time.sleep(0),
}


@pytest.mark.parametrize("what", BLOCK)
async def test_blocking_calls_are_found(what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each kind of blocking call in the way of a request is found, and nothing before or after."""
    async with service(tmp_path) as client:
        with blocking_calls() as noted:
            await client.request("GET", "/livez")
            assert noted == []
            monkeypatch.setattr("dub5.service.api.feedback.is_id", lambda text: bool(BLOCK[what]()) or True)
            visitor = Visitor(client)
            await visitor.begin()
            await visitor.send("GET", "/v1/feedback?conversation=x")
        assert any(one.startswith(what) for one in noted), noted
        BLOCK[what]()
        assert all("test_no_blocking_calls" in one or "/service/" in one for one in noted)
