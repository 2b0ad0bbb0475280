"""What tests take from this machine: a free port, and the programs that are installed."""

import os
import shutil
import socket

import pytest


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(*names: str, path: str | None = None, package: str | None = None) -> str:
    """Return the path of the first program that is here, on `path` or PATH.

    Without one the test is skipped, loudly; with CI=true it fails.
    """
    for name in names:
        if (found := shutil.which(name, path=path)) is not None:
            return found
    hint = f" (Debian: apt-get install {package})" if package else ""
    why = f"NOT AS THOROUGH AS IN CI: {' or '.join(names)} is not here{hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
