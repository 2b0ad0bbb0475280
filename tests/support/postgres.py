"""A real PostgreSQL for the tests, in a temporary folder, on a socket file and on a free port of 127.0.0.1.

It runs under an account without rights, since PostgreSQL refuses root. A supervisor ends it when
the tests are gone, even by SIGKILL. Without PostgreSQL the tests are skipped, loudly; with CI=true they fail.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dub5.chaos.engines import supervise
from tests.support.machine import free_port, program

START_S = 120.0
ACCOUNTS = ("postgres", "nobody")
PASSWORD = "a-password-of-the-tests"
# What a server for tests needs no more of. Syncing the disk is for a loss of power, which no test plays.
SETTINGS = {
    "max_connections": "60",
    "shared_buffers": "16MB",
    "autovacuum": "off",
    "fsync": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "logging_collector": "off",
    "recovery_init_sync_method": "syncfs",  # else each file of each database, after a crash
}


def postgres_program(name: str) -> str:
    """Return the path of a program of PostgreSQL, of the newest version that is here."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    path = os.pathsep.join([*map(str, reversed(folders)), os.environ.get("PATH", "")])
    return program(name, path=path, package="postgresql")


class PostgresServer:
    """A PostgreSQL server; its data outlive a stop, and end with the folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._data = folder / "data"
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    @property
    def address(self) -> str:
        """The server's URL, up to the name of a database."""
        return f"postgresql://dub5:{PASSWORD}@127.0.0.1:{self.port}"

    def make(self) -> None:
        """Make the files of the server: `initdb`."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        for path in (self.folder, secret):
            if self._account is not None:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            "dub5",
            "-A",
            "scram-sha-256",
            "--pwfile",
            secret,
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        )

    def start(self) -> None:
        """Start the server; return when it answers."""
        options = [
            *("-D", self._data, "-p", self.port, "-k", self.folder, "-h", "127.0.0.1"),
            *(f"--{name}={value}" for name, value in SETTINGS.items()),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, supervise.__file__, *self._command("postgres", *options)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        ready = [postgres_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        for _ in range(int(START_S / 0.05)):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            try:
                self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            break
        pytest.fail(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2_000:]}")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server as `pg_ctl stop` does: "fast", or "immediate", which is a crash."""
        if self._process is None:
            return
        self.resume()
        self._signal(signal.SIGQUIT if mode == "immediate" else signal.SIGINT)
        self._process.wait(START_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None

    def pause(self) -> None:
        """Stop all processes of the server: connections stay open, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all processes of the server go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._family():
            with contextlib.suppress(ProcessLookupError):  # that of a connection may have ended meanwhile
                os.kill(process, number)

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        self._databases += 1
        name = f"test_{os.getpid()}_{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return f"{self.address}/{name}"

    def sql(self, text: str, database: str = "postgres") -> str:
        """Execute SQL by psql; return what it prints."""
        command = [postgres_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text]
        done = subprocess.run(
            [*command, f"{self.address}/{database}"], check=True, capture_output=True, text=True
        )
        return done.stdout

    def _server(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    def _signal(self, which: signal.Signals) -> None:
        os.kill(self._server(), which)

    def _family(self) -> list[int]:
        """Return the server's process and those of its connections."""
        server = self._server()
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return [server, *map(int, children)]

    def _run(self, name: str, *arguments: object) -> None:
        command = self._command(name, *arguments)
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    def _command(self, name: str, *arguments: object) -> list[str]:
        """Return a command that runs under the account; `setpriv` belongs to every Debian."""
        command = [postgres_program(name), *map(str, arguments)]
        if self._account is None:
            return command
        user, group = self._account.pw_uid, self._account.pw_gid
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *command]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Make and start a server for a session of tests; stop it at the end."""
    postgres_program("postgres")
    with tempfile.TemporaryDirectory(prefix="dub5-pg-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


def _account() -> pwd.struct_passwd | None:
    """Return an account without rights, if this is root."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail("PostgreSQL refuses root, and there is no other account")
