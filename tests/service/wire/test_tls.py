"""TLS that breaks, in the handshake or after it: both wires tell it in the same words."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from dub5.service.wire.base import FailureKind, Slots, Stage
from dub5.simulators.server.tls import Certificates
from tests.support.forward_proxy import PIECE_BYTES, closes, listening, resets
from tests.support.wires import call, failure, is_free, make, summary

pytestmark = pytest.mark.real_sockets

T = TypeVar("T")
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Fault = Callable[[Reader, Writer], Awaitable[None]]
SERVER_HELLO = b"\x16\x03\x03\x00\x7a\x02\x00\x00"  # the beginning of one
NO_COMMON_CIPHER = b"\x15\x03\x03\x00\x02\x02\x28"
HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nda"


async def plain(reader: Reader, writer: Writer) -> None:
    """A word that is no TLS, as of a server behind it that has lost its way."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read(1)


def after(said: bytes, fault: Fault) -> Fault:
    """`said`, and then the fault."""

    async def client(reader: Reader, writer: Writer) -> None:
        writer.write(said)
        await fault(reader, writer)

    return client


HANDSHAKES: dict[str, tuple[Fault, FailureKind]] = {
    "closed": (closes, FailureKind.CLOSED),
    "closed within a record": (after(SERVER_HELLO, closes), FailureKind.CLOSED),
    "reset": (resets, FailureKind.RESET),
    "reset within a record": (after(SERVER_HELLO, resets), FailureKind.RESET),
    "refused by an alert": (after(NO_COMMON_CIPHER, closes), FailureKind.PROTOCOL),
    "plain HTTP": (plain, FailureKind.PROTOCOL),
}


class TestHandshake:
    @pytest.mark.parametrize("name", HANDSHAKES)
    async def test_breaks(self, kind: str, name: str) -> None:
        """An end is `closed`, a reset is `reset`, what cannot be agreed on is `protocol`; nothing was
        sent."""
        fault, what = HANDSHAKES[name]
        slots = Slots(1)

        async def client(reader: Reader, writer: Writer) -> None:
            await reader.read(PIECE_BYTES)
            await fault(reader, writer)

        async with listening(client) as port, asyncio.timeout(10):
            wire, request = make(kind, slots), call(f"https://127.0.0.1:{port}")
            assert summary(await failure(wire.send(request))) == (Stage.CONNECT, what, False, False)
            assert await is_free(slots, request.origin)
            await wire.aclose()

    async def test_reset_at_once(self, kind: str) -> None:
        """A host that resets before it hears a word is no less reset."""
        async with listening(resets) as port, asyncio.timeout(10):
            wire = make(kind)
            broken = await failure(wire.send(call(f"https://127.0.0.1:{port}")))
            assert summary(broken) == (Stage.CONNECT, FailureKind.RESET, False, False)
            await wire.aclose()

    @pytest.mark.parametrize("shown", ["expired", "wrong_name"])
    async def test_bad_certificate(self, kind: str, shown: str, tls: Certificates) -> None:
        """A certificate signed by a trusted CA is refused if it is expired or of another name."""
        async with listening(closes, tls.contexts[shown]) as port, asyncio.timeout(10):
            wire = make(kind, tls=ssl.create_default_context(cafile=tls.ca_file))
            broken = await failure(wire.send(call(f"https://127.0.0.1:{port}")))
            assert summary(broken) == (Stage.CONNECT, FailureKind.PROTOCOL, False, False)
            await wire.aclose()


class TlsProvider:
    """A provider's end of TLS whose bytes go through our hands, so that others can be put between them."""

    def __init__(self, tls: ssl.SSLContext, reader: Reader, writer: Writer) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._in, self._out, server_side=True)
        self._reader, self._writer = reader, writer

    async def answer(self, said: bytes) -> None:
        """The handshake, the request, and `said`."""
        await self._done(self._tls.do_handshake)
        await self._done(lambda: self._tls.read(PIECE_BYTES))
        await self._done(lambda: self._tls.write(said))

    async def goodbye(self) -> None:
        """TLS is ended as it should be."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._writer.write(self._out.read())

    async def _done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._writer.write(self._out.read())
                heard = await self._reader.read(PIECE_BYTES)
                if not heard:
                    raise ConnectionError("the client has left") from None
                self._in.write(heard)
            finally:
                self._writer.write(self._out.read())


LATER: dict[str, tuple[Fault, FailureKind]] = {
    "closed without a goodbye": (closes, FailureKind.CLOSED),
    "reset": (resets, FailureKind.RESET),
    "plain HTTP": (plain, FailureKind.PROTOCOL),
    "an alert out of place": (after(NO_COMMON_CIPHER, closes), FailureKind.PROTOCOL),
}


class TestLater:
    @pytest.mark.parametrize("stage", [Stage.WAIT, Stage.BODY])
    @pytest.mark.parametrize("name", [*LATER, "closed with a goodbye"])
    async def test_breaks(self, kind: str, name: str, stage: Stage, tls: Certificates) -> None:
        """So it is with a connection that was secure until then; the request counts as sent."""
        fault, what = LATER.get(name, (closes, FailureKind.CLOSED))
        received = asyncio.Event()

        async def client(reader: Reader, writer: Writer) -> None:
            secured = TlsProvider(tls.contexts["good"], reader, writer)
            await secured.answer(HALF if stage is Stage.BODY else b"")
            await received.wait()
            if "with a goodbye" in name:
                await secured.goodbye()
            await fault(reader, writer)

        async def ask(url: str) -> None:
            response = await wire.send(call(url))
            assert await response.read() == b"da"
            received.set()
            await response.read()

        wire = make(kind, tls=ssl.create_default_context(cafile=tls.ca_file))
        if stage is Stage.WAIT:
            received.set()
        async with listening(client) as port, asyncio.timeout(10):
            broken = await failure(ask(f"https://127.0.0.1:{port}"))
            assert summary(broken) == (stage, what, True, False)
            await wire.aclose()
