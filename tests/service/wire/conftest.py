"""Each contract test runs for each wire; the default one also on uvloop, where it runs in production."""

import contextlib
import inspect
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from dub5.simulators.server.tls import Certificates, NoCertificates, certificates

KINDS = ("native", "native on uvloop", "httpx")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        metafunc.parametrize("kind", [k for k in KINDS if not only or k.startswith(only.args)])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(wire): what this wire can do and another cannot")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "uvloop" not in str(
        pyfuncitem.funcargs.get("kind")
    ):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    uvloop.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate of no known CA for 127.0.0.1 and provider.test, with its key."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = [
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:provider.test",
        "-keyout",
        str(path) + ".key",
        "-out",
        str(path),
    ]
    try:
        subprocess.run([*command.split(), *names], check=True, capture_output=True)
    except FileNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("openssl is not installed: no certificate to test with")
    return path


@pytest.fixture(scope="session")
def tls() -> Iterator[Certificates]:
    """Return the certificates that a provider may show, valid and invalid."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(certificates())
        except NoCertificates as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))
        yield made


@pytest.fixture
def deaf() -> Iterator[str]:
    """Yield the address of a host that drops every SYN, as one with a full backlog does."""
    with socket.socket() as full, contextlib.ExitStack() as filling:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            sock = filling.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"
