"""By way of a proxy every wire keeps the same promises; and none that the environment names is ever asked."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.resolver import DefaultResolver
from msgspec.structs import replace

from dub5.service.app import Service
from dub5.service.config.load import load
from dub5.service.config.settings import SettingsProblems
from dub5.service.wire.base import FailureKind, Slots, Stage, Wire, WireFailure, WireRequest
from dub5.service.wire.httpx_wire import HttpxWire
from dub5.service.wire.native_wire import NativeWire
from dub5.service.wire.proxy import is_private_host
from dub5.simulators.script import Close, Data, Hang, Head, Respond, Script, SimRequest
from dub5.simulators.server.sockets import serve
from tests.support.forward_proxy import (
    PIECE_BYTES,
    Client,
    ForwardProxy,
    SendThenStall,
    closes,
    in_front_of,
    listening,
    resets,
)
from tests.support.wires import (
    SOON_S,
    WHOLE,
    CountedProvider,
    call,
    failure,
    in_turn,
    is_free,
    pieces,
    plays,
    summary,
    whole,
)

pytestmark = pytest.mark.real_sockets

HTTP, HTTPS = "http://provider.test", "https://provider.test"
ENVIRONMENT = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
NOBODY = "http://127.0.0.1:9"
SETTINGS = """
[server]
wire = "{wire}"
proxy = "{proxy}"
[[provider]]
name = "one"
dialect = "openai"
base_url = "https://provider.test/v1"
[[route]]
name = "chat"
targets = ["one/m"]
"""


def make(kind: str, proxy: str | None, slots: Slots | None = None, tls: ssl.SSLContext | None = None) -> Wire:
    if kind == "httpx":
        return HttpxWire(slots=slots, tls=tls, proxy=proxy)
    return NativeWire(slots, tls=tls, proxy=proxy)


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, str(certificate) + ".key")
    return context


@contextlib.asynccontextmanager
async def calling(
    kind: str, respond: Respond, certificate: Path, slots: Slots | None = None, *, trusts: bool = True
) -> AsyncIterator[tuple[Wire, ForwardProxy]]:
    """A wire whose only way to `provider.test` is the proxy: no resolver knows the name."""
    trusted = ssl.create_default_context(cafile=str(certificate) if trusts else None)
    async with (
        asyncio.timeout(SOON_S),
        serve(respond) as provider,
        in_front_of(port := int(provider.url.rpartition(":")[2]), server_tls(certificate)) as secure,
    ):
        proxy = ForwardProxy({"provider.test:80": port, "provider.test:443": secure})
        async with listening(proxy.client) as at:
            proxy.url = f"http://127.0.0.1:{at}"
            wire = make(kind, proxy.url, slots, trusted)
            try:
                yield wire, proxy
            finally:
                await wire.aclose()


@contextlib.asynccontextmanager
async def by_way_of(
    kind: str, client: Client, slots: Slots | None = None
) -> AsyncIterator[tuple[Wire, ForwardProxy]]:
    """A wire with a proxy that does `client` to whoever comes."""
    proxy = ForwardProxy({})
    proxy.instead = client
    async with asyncio.timeout(SOON_S), listening(proxy.client) as at:
        wire = make(kind, f"http://127.0.0.1:{at}", slots)
        try:
            yield wire, proxy
        finally:
            await wire.aclose()


@pytest.mark.parametrize("url", [HTTP, HTTPS])
class TestByWayOfAProxy:
    async def test_what_each_of_them_sees(self, kind: str, url: str, certificate: Path) -> None:
        """The provider sees what it always sees. The proxy of an https call hears the name and nothing
        more."""
        seen: list[SimRequest] = []

        def respond(request: SimRequest) -> Script:
            seen.append(request)
            return iter(WHOLE)

        async with calling(kind, respond, certificate) as (wire, proxy):
            assert await whole(wire, call(url, body=b'{"a":1}')) == b"data"
        assert (seen[0].method, seen[0].path, seen[0].query) == ("POST", "/v1/chat", "x=1")
        assert seen[0].body == b'{"a":1}'
        assert seen[0].headers == {
            "host": "provider.test",
            "accept-encoding": "identity",
            "content-length": "7",
            "authorization": "Bearer k",
            "content-type": "application/json",
        }
        if url == HTTPS:
            assert proxy.asked == ["CONNECT provider.test:443 HTTP/1.1"]
            assert b"Bearer" not in proxy.heard
        else:
            assert proxy.asked == ["POST http://provider.test/v1/chat?x=1 HTTP/1.1"]

    async def test_second_call(self, kind: str, url: str, certificate: Path) -> None:
        """A second call reuses the first one's connection and says so; a fresh call gets a fresh one."""
        async with calling(kind, plays(*WHOLE), certificate) as (wire, proxy):
            reused = []
            for fresh in (False, False, True):
                response = await wire.send(call(url, fresh=fresh))
                reused.append(response.reused)
                assert await pieces(response) == [b"data"]
            assert reused == [False, True, False]
            assert len(proxy.asked) == (2 if url == HTTPS else 3)

    async def test_provider_closes_a_kept_connection(self, kind: str, url: str, certificate: Path) -> None:
        """A kept connection that the provider closes is reported as reused, and the request is not sent
        again."""
        async with calling(kind, in_turn(WHOLE, [Close()], WHOLE), certificate) as (wire, _):
            await whole(wire, call(url))
            assert summary(await failure(wire.send(call(url)))) == (
                Stage.WAIT,
                FailureKind.CLOSED,
                True,
                True,
            )
            assert await whole(wire, call(url, fresh=True)) == b"data"

    async def test_leaving_before_the_headers(self, kind: str, url: str, certificate: Path) -> None:
        """A cancelled wait reaches the provider through the proxy, and frees the slot."""
        slots, provider = Slots(1), CountedProvider(Hang())
        async with calling(kind, provider, certificate, slots) as (wire, _):
            sending = asyncio.create_task(wire.send(call(url)))
            await provider.began.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await is_free(slots, call(url).origin)
            await provider.over.wait()

    async def test_leaving_in_the_body(self, kind: str, url: str, certificate: Path) -> None:
        """A stream that is closed early closes its tunnel."""
        slots, provider = Slots(1), CountedProvider(Head(), Data(b"a"), Hang())
        async with calling(kind, provider, certificate, slots) as (wire, _):
            response = await wire.send(call(url))
            assert await response.read() == b"a"
            await response.aclose()
            assert await is_free(slots, call(url).origin)
            await provider.over.wait()

    async def test_proxy_is_not_there(self, kind: str, url: str) -> None:
        """A missing proxy is "refused", as a missing provider is."""
        wire = make(kind, NOBODY)
        assert summary(await failure(wire.send(call(url)))) == (
            Stage.CONNECT,
            FailureKind.REFUSED,
            False,
            False,
        )
        await wire.aclose()

    async def test_proxy_drops_our_syn(self, kind: str, url: str, deaf: str) -> None:
        """A proxy that drops our SYN is given up after connect_s."""
        wire = make(kind, deaf)
        async with asyncio.timeout(SOON_S):
            broken = await failure(wire.send(replace(call(url), connect_s=0.05)))
        assert summary(broken) == (Stage.CONNECT, FailureKind.TIMEOUT, False, False)
        await wire.aclose()

    async def test_name_of_the_proxy_does_not_resolve(self, kind: str, url: str) -> None:
        """Nobody was reached."""
        wire = make(kind, "http://nobody.invalid:1")
        broken = await failure(wire.send(call(url)))
        if broken.kind is FailureKind.TIMEOUT:
            pytest.skip("the resolver of this machine does not answer")
        assert summary(broken) == (Stage.RESOLVE, FailureKind.REFUSED, False, False)
        await wire.aclose()

    async def test_environment_names_another(
        self, kind: str, url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The proxy of the settings is asked, whatever the environment says of it, or of exceptions."""
        for name in ENVIRONMENT:
            monkeypatch.setenv(name, NOBODY)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("no_proxy", "*")
        async with calling(kind, plays(*WHOLE), certificate) as (wire, proxy):
            assert await whole(wire, call(url)) == b"data"
            assert len(proxy.asked) == 1


STATUS = re.compile(r"HTTP/1.1 ([45]..)")


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await reader.read(1)
    await SendThenStall(b"HTTP/1.1 400 Bad Request\r\n\r\n")(reader, writer)


def in_the_handshake(leaves: Client) -> Client:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read(PIECE_BYTES)
        await leaves(reader, writer)

    return client


ANSWERS: dict[str, tuple[Client, FailureKind]] = {
    "407": (
        SendThenStall(b"HTTP/1.1 407 Who Are You\r\ncontent-length: 4\r\n\r\nwho?"),
        FailureKind.PROTOCOL,
    ),
    "403": (SendThenStall(b"HTTP/1.1 403 Forbidden\r\n\r\n"), FailureKind.PROTOCOL),
    "502": (SendThenStall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nnope"), FailureKind.REFUSED),
    "503": (SendThenStall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), FailureKind.REFUSED),
    "504": (SendThenStall(b"HTTP/1.1 504 Gateway Timeout\r\n\r\n"), FailureKind.TIMEOUT),
    "garbage": (SendThenStall(b"BLAH blah\r\n\r\n"), FailureKind.PROTOCOL),
    "endless header": (SendThenStall(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 200_000), FailureKind.PROTOCOL),
    "no TLS behind it": (speaks_http, FailureKind.PROTOCOL),
    "closed": (closes, FailureKind.CLOSED),
    "reset": (resets, FailureKind.RESET),
    "closed in the handshake": (in_the_handshake(closes), FailureKind.CLOSED),
    "reset in the handshake": (in_the_handshake(resets), FailureKind.RESET),
    "nothing": (SendThenStall(b""), FailureKind.TIMEOUT),
    "half a head": (SendThenStall(b"HTTP/1.1 200 OK\r\n"), FailureKind.TIMEOUT),
    "a tunnel to nowhere": (SendThenStall(b"HTTP/1.1 200 OK\r\n\r\n"), FailureKind.TIMEOUT),
}


class TestNoTunnel:
    @pytest.mark.parametrize(("client", "what"), ANSWERS.values(), ids=ANSWERS)
    async def test_answers_to_connect(self, kind: str, client: Client, what: FailureKind) -> None:
        """Whatever it is, nothing was sent to the provider; the proxy sees us leave, and nothing is kept."""
        slots, request = Slots(1), replace(call(HTTPS), connect_s=0.1 if what is FailureKind.TIMEOUT else 5)
        async with by_way_of(kind, client, slots) as (wire, proxy):
            broken = await failure(wire.send(request))
            assert summary(broken) == (Stage.CONNECT, what, False, False)
            if status := STATUS.search(repr(client)):
                assert str(broken).endswith(f": the proxy answered {status[1]}")
            await proxy.left.wait()
            assert await is_free(slots, request.origin)
            assert kept(wire) == 0
            assert b"Bearer" not in proxy.heard

    @pytest.mark.only("native")
    async def test_resolver_stalls(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Told as such, when it is the proxy's name that is looked up."""

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(DefaultResolver, "resolve", never)
        wire = make(kind, "http://proxy.test:3128")
        broken = await failure(wire.send(replace(call(HTTPS), connect_s=0.05)))
        assert summary(broken) == (Stage.RESOLVE, FailureKind.TIMEOUT, False, False)
        await wire.aclose()

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["asking", "in the handshake"])
    async def test_leaving_on_the_way(self, kind: str, said: bytes) -> None:
        """A call cancelled before there is a tunnel, or before TLS stands in it, leaves no connection
        behind."""
        slots, request = Slots(1), call(HTTPS)
        came = asyncio.Event()

        async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            if said:
                await reader.read(1)
            came.set()
            await SendThenStall(b"")(reader, writer)

        async with by_way_of(kind, stalls, slots) as (wire, proxy):
            sending = asyncio.create_task(wire.send(request))
            await came.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await is_free(slots, request.origin)
            await proxy.left.wait()
            assert kept(wire) == 0

    async def test_unknown_certificate(self, kind: str, certificate: Path) -> None:
        """TLS is agreed on with the provider, not with the proxy: who cannot prove to be it hears nothing."""
        async with calling(kind, plays(*WHOLE), certificate, trusts=False) as (wire, _):
            broken = await failure(wire.send(call(HTTPS)))
            assert summary(broken) == (Stage.CONNECT, FailureKind.PROTOCOL, False, False)
            assert kept(wire) == 0

    async def test_certificate_of_another(self, kind: str, certificate: Path) -> None:
        """Nor does who can prove to be somebody else."""
        async with calling(kind, plays(*WHOLE), certificate) as (wire, proxy):
            proxy.ports["other.test:443"] = proxy.ports["provider.test:443"]
            broken = await failure(wire.send(call("https://other.test")))
            assert summary(broken) == (Stage.CONNECT, FailureKind.PROTOCOL, False, False)


def kept(wire: Wire) -> int:
    """Connections that the wire still knows."""
    if isinstance(wire, NativeWire):
        return len(wire._open) + sum(map(len, wire._idle.values()))
    assert isinstance(wire, HttpxWire)
    pools = [transport._pool for transport in wire._proxied.values()]  # type: ignore[attr-defined]
    return sum(not connection.is_closed() for pool in pools for connection in pool.connections)


class TestDirectly:
    async def test_no_proxy_in_the_settings(
        self, kind: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy that only the environment names is never asked: not for TLS, and not for names it could
        resolve."""
        proxy = ForwardProxy({})
        proxy.instead = closes
        async with (
            asyncio.timeout(SOON_S),
            serve(plays(*WHOLE)) as provider,
            in_front_of(int(provider.url.rpartition(":")[2]), server_tls(certificate)) as secure,
            listening(proxy.client) as at,
        ):
            for name in ENVIRONMENT:
                monkeypatch.setenv(name, f"http://127.0.0.1:{at}")
            for name in ("NO_PROXY", "no_proxy"):
                monkeypatch.delenv(name, raising=False)
            wire = make(kind, None, tls=ssl.create_default_context(cafile=str(certificate)))
            assert await whole(wire, call(provider.url)) == b"data"
            assert await whole(wire, call(f"https://127.0.0.1:{secure}")) == b"data"
            for url in (HTTP, HTTPS):
                await failure(wire.send(replace(call(url), connect_s=1)))
            await wire.aclose()
        assert not proxy.came.is_set()

    async def test_a_provider_that_is_near(self, kind: str) -> None:
        """A provider on this machine is reached without the proxy."""
        async with asyncio.timeout(SOON_S), serve(plays(*WHOLE)) as provider:
            wire = make(kind, NOBODY)
            assert await whole(wire, call(provider.url)) == b"data"
            await wire.aclose()


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("vllm", True),
        ("vllm.models.svc.cluster.local", True),
        ("gpu.internal.", True),
        ("api.openai.com", False),
        ("internal.example.com", False),
        ("1.1.1.1", False),
        ("2606:4700::1111", False),
    ],
)
def test_what_is_near(host: str, near: bool) -> None:
    """Our own network, as far as its names and addresses tell."""
    assert is_private_host(host) is near


@pytest.mark.parametrize("name", ["aiohttp", "native", "httpx"])
async def test_from_the_settings(name: str, tmp_path: Path) -> None:
    """The service's own wire takes the proxy that the settings name; a slot is the provider's, not the
    proxy's."""
    proxy = ForwardProxy({})
    proxy.instead = SendThenStall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    async with asyncio.timeout(SOON_S), listening(proxy.client) as at:
        (tmp_path / "dub5.toml").write_text(SETTINGS.format(wire=name, proxy=f"http://127.0.0.1:{at}"))
        service = Service(load(tmp_path / "dub5.toml", {}))
        request = WireRequest("POST", "https://provider.test/v1/chat", {}, b"{}")
        with pytest.raises(WireFailure, match="the proxy answered 502"):
            await service.wire.send(request)
        await service.aclose()
    assert request.origin == "https://provider.test:443"
    assert proxy.asked == ["CONNECT provider.test:443 HTTP/1.1"]


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://me:secret@proxy:3128", "must hold no user or password"),
        ("http://secret@proxy:3128", "must hold no user or password"),
        ("http://:secret@[proxy:3128", "is not an address"),
        ("proxy:3128", "must be written http://host:port"),
        ("https://proxy:3128", "must be written http://host:port"),
        ("socks5://proxy:1080", "must be written http://host:port"),
        ("http://proxy:3128/secret", "must be written http://host:port"),
        ("http://proxy:secret", "is not an address"),
        ("", "must be written http://host:port"),
    ],
)
def test_proxies_that_cannot_be_used(proxy: str, said: str, tmp_path: Path) -> None:
    """Said before the start, in one sentence, which holds nothing of the address."""
    (tmp_path / "dub5.toml").write_text(SETTINGS.format(wire="native", proxy=proxy))
    with pytest.raises(SettingsProblems) as caught:
        load(tmp_path / "dub5.toml", {})
    (problem,) = caught.value.problems
    assert problem.startswith("server.proxy: ") and said in problem and "secret" not in problem
