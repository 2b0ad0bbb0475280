"""What this machine lacks is no provider's fault; an address that DNS has left is left."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from dub5.service.resilience.classify import Blame, Then, classify
from dub5.service.wire.base import FailureKind, Stage, WireFailure, is_local
from dub5.simulators.server.sockets import serve
from dub5.simulators.server.tls import Certificates
from tests.support.wires import WHOLE, call, failure, in_turn, make, plays, summary, whole

pytestmark = pytest.mark.real_sockets


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Use up every descriptor that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))  # and below that all holes are filled
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


async def test_no_descriptors(kind: str) -> None:
    """Without descriptors a call fails as our own lack, blames nobody, and works again with them."""
    async with serve(plays(*WHOLE)) as server:
        wire = make(kind)
        with no_descriptors():
            failed = await failure(wire.send(call(server.url)))
        assert summary(failed) == (Stage.CONNECT, FailureKind.LOCAL, False, False)
        assert await whole(wire, call(server.url)) == b"data"
        await wire.aclose()


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ,
    reason="what other tests have left open is closed meanwhile: run this one alone",
)
@pytest.mark.only("native")
async def test_no_descriptors_to_resolve(kind: str) -> None:
    """A name that cannot be asked for without descriptors is no misspelt name."""
    wire = make(kind)
    with no_descriptors():
        failed = await failure(wire.send(call("http://localhost:1")))
    assert failed.kind is FailureKind.LOCAL
    await wire.aclose()


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]
)
def test_lacks(number: int) -> None:
    """Descriptors, buffers, memory and ports that this machine lacks are its own lack."""
    assert is_local(OSError(number, "x"))
    assert not is_local(ConnectionRefusedError(errno.ECONNREFUSED, "x"))


@pytest.mark.parametrize("stage", list(Stage))
def test_nobody_is_blamed(stage: Stage) -> None:
    """Our own lack counts against no target, host or key, at whatever stage, and the reason names it."""
    meaning = classify(WireFailure(stage, FailureKind.LOCAL, sent=False))
    assert (meaning.then, meaning.blame, meaning.overload) == (Then.NEXT, Blame.NOBODY, False)
    assert meaning.reason == f"{stage}_local"


@pytest.mark.parametrize("named", ["native", "httpx"])
async def test_an_address_that_refuses_is_asked_for_again(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a refused connection DNS is asked again, so a provider that has moved is found at once."""
    async with serve(plays(*WHOLE)) as server:
        wire, asked = make(named), []

        async def resolve(host: str, port: int, **_: object) -> list[Any]:
            asked.append(host)
            address = "127.0.0.1" if len(asked) > 1 else "127.0.0.9"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        url = server.url.replace("127.0.0.1", "provider.test")
        assert (await failure(wire.send(call(url)))).kind is FailureKind.REFUSED
        assert await whole(wire, call(url)) == b"data"
        assert await whole(wire, call(url, fresh=True)) == b"data"
        await wire.aclose()
    assert named == "httpx" or len(asked) == 2, "a good address is kept"


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_the_greatest_age(kind: str, secure: bool, tls: Certificates) -> None:
    """Steady traffic leaves a connection of the greatest age between two requests; a young one is kept."""
    async with serve(in_turn(*[WHOLE] * 4), tls=tls if secure else None) as server:
        wire = make(kind, tls=ssl.create_default_context(cafile=tls.ca_file), age_max_s=0.3)
        reused = []
        for wait_s in (0.0, 0.0, 0.4, 0.0):
            await asyncio.sleep(wait_s)
            response = await wire.send(call(server.url))
            while await response.read():
                pass
            reused.append(response.reused)
        await wire.aclose()
    assert reused == [False, True, False, True]
