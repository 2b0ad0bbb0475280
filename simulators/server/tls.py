"""TLS of simulated providers: valid and invalid certificates, made at the start, and handshakes that fail.

CA (the client must trust its file) --signs--> good | expired | wrong_name
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
NO_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"
OPENSSL_S = 60.0
SPANS = {"good": ("20200101000000Z", "20491231000000Z"), "expired": ("20200101000000Z", "20200102000000Z")}
CONFIG = """
[req]
prompt = no
distinguished_name = subject
x509_extensions = authority
[subject]
CN = simulated authority
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[ca]
default_ca = signing
[signing]
new_certs_dir = .
database = index.txt
serial = serial
default_md = sha256
unique_subject = no
policy = policy
[policy]
CN = supplied
[good]
subjectAltName = IP:127.0.0.1, IP:::1, DNS:localhost
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
[wrong_name]
subjectAltName = DNS:elsewhere.invalid
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
"""


class NoCertificates(ValueError):
    """Certificates could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """TLS contexts by certificate: good, expired, wrong_name. The CA in `ca_file` signed all of them."""

    ca_file: str
    contexts: Mapping[str, ssl.SSLContext]


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    """Make certificates with `openssl`, and delete their files after the block. Takes half a second.

    Raises NoCertificates.
    """
    with tempfile.TemporaryDirectory(prefix="simulators-tls-") as name:
        folder = Path(name)
        try:
            yield _made(folder)
        except FileNotFoundError:
            raise NoCertificates("tls needs the program `openssl`, which is not installed") from None
        except subprocess.SubprocessError as error:
            output = getattr(error, "stderr", b"") or b""
            raise NoCertificates(
                f"openssl made no certificate: {output.decode(errors='replace')[-300:]}"
            ) from None


def _made(folder: Path) -> Certificates:
    (folder / "config").write_text(CONFIG)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("1000\n")
    key = "-newkey rsa:2048 -nodes"
    _openssl(folder, f"req -x509 {key} -config config -days 3650 -keyout ca.key -out ca.pem")
    _openssl(folder, f"req {key} -config config -subj /CN=simulated -keyout key -out request")
    contexts = {}
    for name in ("good", "expired", "wrong_name"):
        start, end = SPANS.get(name, SPANS["good"])
        extensions = "wrong_name" if name == "wrong_name" else "good"
        _openssl(
            folder,
            "ca -batch -notext -config config -cert ca.pem -keyfile ca.key -in request"
            f" -extensions {extensions} -startdate {start} -enddate {end} -out {name}.pem",
        )
        contexts[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        contexts[name].load_cert_chain(folder / f"{name}.pem", folder / "key")
    return Certificates(str(folder / "ca.pem"), contexts)


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(
        ["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True, timeout=OPENSSL_S
    )


class Droppable(Protocol):
    """A connection that can be ended."""

    def abort(self) -> None:
        """End the connection at once."""
        ...

    def drop(self) -> None:
        """End the connection at once, because the provider is gone."""
        ...


def reset(transport: asyncio.Transport) -> None:
    """End a connection by a TCP RST."""
    sock = cast(socket.socket, transport.get_extra_info("socket"))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()


class BadHandshake(asyncio.Protocol):
    """A TLS handshake that fails after the client's first message. `how`: close, reset, garbage, stall."""

    def __init__(self, how: str, connections: set[Droppable]) -> None:
        self._how = how
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        match self._how:
            case "close":
                self._transport.close()
            case "reset":
                reset(self._transport)
            case "garbage":
                self._transport.write(NO_HANDSHAKE)
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    drop = abort
