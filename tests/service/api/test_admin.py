"""Orders to the running service: who may give them, and that they are carried out."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dub5.service import VERSION
from dub5.service.api.admin import BODY_BYTES_MAX
from dub5.service.cache.cache import AnswerCache, Selection
from dub5.service.config.options import CacheOptions
from dub5.service.config.settings import Secret
from dub5.service.resilience.storage_guard import StorageLost
from dub5.simulators.virtual import AppClient, AppResponse
from tests.support.world import ServiceWorld, healthy

PATH = "/admin/cache/invalidate"
ROUTE = {"cache": CacheOptions(enabled=True)}
HOST = "127.0.0.1:8080"


def house(**more: Any) -> ServiceWorld:
    return ServiceWorld(one=healthy(), route=ROUTE, **more)


async def order(
    world: ServiceWorld,
    said: Any = None,
    *,
    client: AppClient | None = None,
    token: str | None = None,
    body: bytes | None = None,
    **headers: str,
) -> AppResponse:
    """An order as an operator gives it, but for what is said otherwise."""
    known = {
        "host": HOST,
        "content-type": "application/json",
        "authorization": f"Bearer {world.service.admin.token.reveal() if token is None else token}",
    }
    sent = {name: value for name, value in (known | headers).items() if value}
    whole = {"json": said or {"everything": True}} if body is None else {"body": body}
    return await (client or world.client).request("POST", PATH, headers=sent, **whole)


async def cached(world: ServiceWorld) -> str:
    return (await world.ask(temperature=0)).headers["x-dub5-cache"]


@pytest.mark.parametrize(
    "said",
    [{"route": "chat"}, {"model": "m"}, {"model": "one/m"}, {"caller": "anonymous"}, {"everything": True}],
)
async def test_kept_answers_are_given_no_more(said: dict[str, Any]) -> None:
    """An invalidated answer is not served any more, and the operator is told the count."""
    async with house() as world:
        assert [await cached(world), await cached(world)] == ["miss", "hit"]
        answer = await order(world, said)
        assert (answer.status, answer.json()) == (200, {"invalidated": said})
        assert await cached(world) == "miss"
        assert world.happened("cache_invalidated") == 1


async def test_others_stay() -> None:
    """Answers that were not named stay."""
    async with house() as world:
        await cached(world)
        await order(world, {"route": "another"})
        assert await cached(world) == "hit"


HERE = [HOST, "localhost", "LOCALHOST:80", "[::1]:8080", "127.0.0.2:9"]


@pytest.mark.parametrize("host", HERE)
async def test_names_of_this_machine(host: str) -> None:
    """A page that we served ourselves may ask as well."""
    async with house() as world:
        assert (await order(world, host=host)).status == 200
        assert (await order(world, host=host, origin=f"http://{host}")).status == 200


ELSEWHERE: dict[str, dict[str, str]] = {
    "a public name": {"host": "dub5.example"},
    "a name that resolves to us": {"host": "localhost.attacker.example:8080"},
    "no name": {"host": ""},
    "no real name": {"host": "[::1"},
    "a user before the name": {"host": "127.0.0.1@attacker.example"},
    "a page of another origin": {"origin": "https://attacker.example"},
    "a page of another port": {"origin": "http://127.0.0.1:9999"},
    "a page without origin": {"origin": "null"},
    "by way of a proxy": {"x-forwarded-for": "127.0.0.1"},
    "by way of another": {"forwarded": "for=127.0.0.1"},
}


@pytest.mark.parametrize("headers", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_from_elsewhere_there_is_nothing(headers: dict[str, str]) -> None:
    """From another origin the endpoint does not exist, even with the token."""
    async with house() as world:
        await cached(world)
        answer = await order(world, **headers)
        assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")
        assert await cached(world) == "hit"


@pytest.mark.parametrize("peer", ["192.168.1.7", "8.8.8.8", "2001:db8::1", "::ffff:8.8.8.8", ""])
async def test_from_another_machine_there_is_nothing(peer: str) -> None:
    """From another machine the endpoint does not exist, whatever its headers claim."""
    async with house() as world:
        client = AppClient(world.service.asgi, client=(peer, 1), lifespan=False)
        assert (await order(world, client=client)).status == 404


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "Basic {}", "{}", "Bearer {}x", "Bearer ü"]
)
async def test_without_the_token(authorization: str) -> None:
    """A call without the token is a 401, and does nothing."""
    async with house() as world:
        await cached(world)
        said = authorization.format(world.service.admin.token.reveal())
        answer = await order(world, authorization=said)
        assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert world.service.admin.token.reveal() not in answer.body.decode()
        assert await cached(world) == "hit"


async def test_a_callers_key_is_no_admins() -> None:
    """A caller's key is no admin token, and a service with caller keys accepts admin calls without one."""
    async with house(caller_keys=("key-of-a-caller",)) as world:
        assert (await order(world, token="key-of-a-caller")).status == 401
        assert (await order(world)).status == 200


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no selection": b"{}",
    "two selections": b'{"route": "a", "model": "b"}',
    "an unknown one": b'{"rout": "a"}',
    "no text": b'{"route": 1}',
    "everything, but not": b'{"everything": false}',
    "a long name": b'{"route": "%s"}' % (b"x" * 1000),
}


@pytest.mark.parametrize("said", BAD.values(), ids=BAD)
async def test_an_order_that_cannot_be_understood(said: bytes) -> None:
    """An order that is malformed, selects nothing, or selects two things is a 400."""
    async with house() as world:
        await cached(world)
        assert (await order(world, body=said)).status == 400
        assert await cached(world) == "hit"


async def test_what_a_form_could_send() -> None:
    """A page of any origin may send text without asking first."""
    async with house() as world:
        assert (await order(world, **{"content-type": "text/plain"})).status == 400


async def test_an_endless_order() -> None:
    """An endless body is not read to its end."""
    async with house() as world:
        assert (await order(world, body=b" " * (BODY_BYTES_MAX + 1))).status == 413


async def test_a_lost_storage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be invalidated may still be served: the operator must know."""

    async def lost(cache: AnswerCache, selection: Selection) -> None:
        raise StorageLost("gone")

    monkeypatch.setattr(AnswerCache, "invalidate", lost)
    async with house() as world:
        answer = await order(world)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert "may still be served" in answer.json()["error"]["message"]


async def test_a_token_from_the_settings() -> None:
    """Holds at once when it is changed; without one, the service's own stays."""
    async with house() as world:
        admin = world.service.admin
        own = admin.token.reveal()
        admin.reload(None)
        assert admin.own_token and admin.token.reveal() == own and len(own) >= 32
        admin.reload(Secret("a token of the settings"))
        assert (await order(world, token=own)).status == 401
        assert (await order(world, token="a token of the settings")).status == 200
        assert own not in repr(admin.token)


SETTINGS = """
[[provider]]
name = "one"
dialect = "openai"
base_url = "http://127.0.0.1:9/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""


@pytest.mark.real_sockets
@pytest.mark.parametrize(
    ("named", "terminal", "tokens"),
    [(False, True, 1), (True, True, 0), (False, False, 0)],
    ids=["own token on a terminal", "token of the settings", "own token into a log"],
)
async def test_the_token_is_printed_only_if_it_is_our_own_and_to_a_terminal(
    tmp_path: Path, named: bool, terminal: bool, tokens: int
) -> None:
    """Only a terminal is told a generated token; one line says version, settings file and targets."""
    file = tmp_path / "dub5.toml"
    file.write_text(SETTINGS + ('[admin]\ntoken_env = "ADMIN_TOKEN"\n' if named else ""))
    environment = {**os.environ, "ADMIN_TOKEN": "chosen-by-the-operator"}
    reader, writer = os.openpty() if terminal else os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5.service", "serve", "--config", str(file), "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=writer,
        env=environment,
    )
    os.close(writer)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        address = (await process.stdout.readline()).decode().split()[-1]
        process.send_signal(signal.SIGTERM)
        await process.communicate()
    told = os.read(reader, 65_536)
    os.close(reader)
    assert len(re.findall(rb"^admin token: \S{32}\r?$", told, re.MULTILINE)) == tokens
    assert b"chosen-by-the-operator" not in told
    lines = [json.loads(line) for line in told.splitlines() if line.startswith(b"{")]
    (started,) = [line for line in lines if line["event"] == "started"]
    assert (started["version"], started["settings"]) == (VERSION, str(file))
    assert (started["address"], started["targets"]) == (address, ["one/m"])
