"""Guessed keys: an address that tries many has to wait; callers with right keys there do not."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from dub5.service.admission import key_guesses
from dub5.service.admission.key_guesses import (
    ACCEPTED_S,
    ADDRESSES_MAX,
    BLOCK_MAX_S,
    BLOCK_S,
    GUESSES_MAX,
    WINDOW_S,
    KeyGuesses,
)
from dub5.service.config.settings import ServerSettings
from dub5.simulators.virtual import AppClient, AppResponse
from tests.support.world import ServiceWorld, body, healthy

RIGHT, OTHER = "right-key", "other-key"
ATTACKER, ELSEWHERE = "203.0.113.7", "198.51.100.1"
ENDPOINTS = ("/v1/models", "/v1/models/chat", "/v1/offline", "/status", "/metrics")


class GuardedWorld(ServiceWorld):
    """A service with caller keys, asked from several addresses."""

    def __init__(self, **more: Any) -> None:
        super().__init__(one=healthy(), caller_keys=(RIGHT, OTHER), **more)

    def get(
        self, key: str, address: str = ATTACKER, path: str = "/v1/models", **headers: str
    ) -> Awaitable[AppResponse]:
        """Send a GET request with a key from an address."""
        client = AppClient(self.service.asgi, client=(address, 1), lifespan=False)
        return client.request("GET", path, headers={"authorization": f"Bearer {key}", **headers})

    def chat(self, key: str, address: str = ATTACKER) -> Awaitable[AppResponse]:
        """Send a chat request with a key from an address."""
        client = AppClient(self.service.asgi, client=(address, 1), lifespan=False)
        headers = {"authorization": f"Bearer {key}"}
        return client.request("POST", "/v1/chat/completions", json=body(), headers=headers)

    async def guess(self, count: int = GUESSES_MAX, address: str = ATTACKER) -> list[int]:
        """Send different unknown keys; return the statuses."""
        start = self.happened("bad_key")
        return [(await self.get(f"guess-{start + i}", address)).status for i in range(count)]


async def test_block() -> None:
    """Ten unknown keys block their address, on every endpoint that takes keys, with the time to wait."""
    async with GuardedWorld() as world:
        assert await world.guess() == [401] * GUESSES_MAX
        for response in (
            await world.get("guess-x"),
            await world.get(RIGHT),
            await world.chat("guess-y"),
            await world.chat(RIGHT),
            *[await world.get(RIGHT, path=path) for path in ENDPOINTS],
        ):
            assert (response.status, response.json()["error"]["code"]) == (429, "rate_limited")
            assert response.headers["retry-after"] == str(int(BLOCK_S))
            assert response.headers["x-should-retry"] == "true"
        assert (await world.get(RIGHT, ELSEWHERE)).status == 200
        assert (await world.client.request("GET", "/health")).status == 200
        assert world.happened("rate_abuse") == 1

        await asyncio.sleep(BLOCK_S)
        assert (await world.get(RIGHT)).status == 200


async def test_right_keys_go_on() -> None:
    """Whoever has used a right key from that address within the hour is served on, and only with that key."""
    async with GuardedWorld() as world:
        assert (await world.chat(RIGHT)).status == 200
        await asyncio.sleep(ACCEPTED_S - 10)
        assert await world.guess() == [401] * GUESSES_MAX
        assert (await world.chat(RIGHT)).status == 200
        assert (await world.chat(OTHER)).status == 429
        assert (await world.chat(OTHER, ELSEWHERE)).status == 200

        await asyncio.sleep(ACCEPTED_S + BLOCK_S)
        await world.guess()
        assert (await world.chat(RIGHT)).status == 429


async def test_one_old_key_is_no_guess() -> None:
    """A client with one old key is told so, however often it asks; so is one without any."""
    async with GuardedWorld() as world:
        for _ in range(5 * GUESSES_MAX):
            assert (await world.get("old-key")).status == 401
            assert (await world.client.request("GET", "/v1/models")).status == 401
        assert (await world.get(RIGHT)).status == 200
        assert world.happened("bad_key") == 5 * GUESSES_MAX


async def test_slow_guesses() -> None:
    """Typing errors over a day block nobody."""
    async with GuardedWorld() as world:
        for _ in range(5 * GUESSES_MAX):
            assert await world.guess(1) == [401]
            await asyncio.sleep(WINDOW_S / (GUESSES_MAX - 1))
        assert world.happened("rate_abuse") == 0


async def test_progressive() -> None:
    """Each further block takes twice as long, up to an hour; after a quiet time it begins anew."""
    async with GuardedWorld() as world:
        blocks = []
        for _ in range(8):
            await world.guess()
            blocks.append(float((await world.get(RIGHT)).headers["retry-after"]))
            await asyncio.sleep(blocks[-1])
        assert blocks == [60, 120, 240, 480, 960, 1920, 3600, 3600]
        assert blocks[-1] == BLOCK_MAX_S

        await asyncio.sleep(BLOCK_MAX_S)
        await world.guess()
        assert (await world.get(RIGHT)).headers["retry-after"] == "60"


async def test_an_ipv6_network_is_one_client() -> None:
    """An attacker with 2^64 addresses has one."""
    async with GuardedWorld() as world:
        for i in range(GUESSES_MAX):
            await world.get(f"guess-{i}", f"2001:db8::{i:x}")
        assert (await world.get(RIGHT, "2001:db8::ffff")).status == 429
        assert (await world.get(RIGHT, "2001:db8:0:1::1")).status == 200


async def test_behind_a_proxy() -> None:
    """Behind trusted proxies the client is blocked, not the proxy."""
    server = ServerSettings(trusted_proxies=("10.0.0.0/8",))
    async with GuardedWorld(server=server) as world:
        for i in range(GUESSES_MAX):
            await world.get(f"guess-{i}", "10.0.0.1", **{"x-forwarded-for": f"1.2.3.{i}, {ATTACKER}"})
        assert (await world.get(RIGHT, "10.0.0.1", **{"x-forwarded-for": ATTACKER})).status == 429
        assert (await world.get(RIGHT, "10.0.0.1", **{"x-forwarded-for": ELSEWHERE})).status == 200
        assert (await world.get(RIGHT, ATTACKER, **{"x-forwarded-for": ELSEWHERE})).status == 429


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "127.0.0.1", "::1", "fd12::1"])
async def test_behind_an_unknown_proxy(address: str) -> None:
    """Where the proxies are not known, all clients have its address: nobody is blocked, but it is noted."""
    async with GuardedWorld() as world:
        for i in range(2 * GUESSES_MAX):
            assert (await world.get(f"g-{i}", address, **{"x-forwarded-for": ATTACKER})).status == 401
        assert (await world.get(RIGHT, address, **{"x-forwarded-for": ELSEWHERE})).status == 200
        assert world.happened("bad_key") == 2 * GUESSES_MAX


@pytest.mark.parametrize("address", [ATTACKER, "8.8.8.8", "2001:db8::1"])
async def test_a_forged_proxy_header(address: str) -> None:
    """Who asks from the internet is blocked, whatever it says of a proxy."""
    async with GuardedWorld() as world:
        for i in range(GUESSES_MAX):
            await world.get(f"guess-{i}", address, **{"x-forwarded-for": f"1.2.3.{i}"})
        assert (await world.get("guess-x", address, **{"x-forwarded-for": "1.2.3.4"})).status == 429
        assert (await world.get(RIGHT, ELSEWHERE)).status == 200


async def test_admin_tokens() -> None:
    """Wrong admin tokens are noted, and many of them block; the operator who is at work goes on."""
    async with ServiceWorld(one=healthy()) as world:
        token = world.service.admin.token.reveal()

        async def order(token: str) -> int:
            headers = {"host": "127.0.0.1:8080", "authorization": f"Bearer {token}"}
            orders = {"json": {"everything": True}, "headers": headers}
            return (await world.client.request("POST", "/admin/cache/invalidate", **orders)).status

        statuses = [await order(f"guess-{i}") for i in range(GUESSES_MAX + 1)]
        assert statuses == [401] * GUESSES_MAX + [429]
        assert await order(token) == 429
        assert world.happened("admin_refused") == GUESSES_MAX + 1
        await asyncio.sleep(BLOCK_S)
        assert await order(token) == 200
        await asyncio.gather(*[order(f"more-{i}") for i in range(GUESSES_MAX)])
        assert [await order("x"), await order(token)] == [429, 200]


@pytest.mark.parametrize("what", ["suspects", "accepted"])
def test_bounded(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses come, so many are remembered, the latest."""
    monkeypatch.setattr(key_guesses, "ADDRESSES_MAX", 5)
    guesses = KeyGuesses()
    for i in range(100):
        if what == "suspects":
            guesses.note_unknown(f"a{i}", "k", 0.0)
        else:
            guesses.note_accepted(f"a{i}", "c", 0.0)
    assert len(guesses._suspects) + len(guesses._accepted) == 5
    assert ADDRESSES_MAX == 10_000
    assert guesses.was_accepted("a99", "c", 1.0) == (what == "accepted")
