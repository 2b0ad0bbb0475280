"""Database URLs: what they name, what is wrong with them, and how to say them without their password.

    sqlite:///data/dub5.db            a file, from the current folder on
    sqlite:////var/lib/dub5/dub5.db   a file, by its absolute path
    postgresql://user:password@host:5432/name?sslmode=require

`sqlite+aiosqlite://`, `postgresql+asyncpg://` and `postgres://` are taken too: other tools write them.
"""

import os
from pathlib import Path
from typing import Literal, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from msgspec import Struct

from dub5.service.optional_parts import load_part
from dub5.service.store.base import Database, DatabaseLost

DEFAULT_URL = "sqlite:///data/dub5.db"
ENGINES = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql"}
DRIVERS = {"sqlite": ("", "aiosqlite"), "postgresql": ("", "asyncpg")}
FORMS = "write sqlite:///path/to/file.db, or postgresql://user:password@host/name"
NO_DRIVER = "PostgreSQL needs one more package: pip install 'dub5[postgres]'"
MOUNTS = Path("/proc/mounts")
# File systems without the shared memory and the locks that a write-ahead log needs.
NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "fuse.s3fs", "fuse.glusterfs", "ceph", "afs", "lustre")
POOLER_PARAMETER = "pgbouncer"  # ours, not PostgreSQL's


class DatabaseUrl(Struct, frozen=True):
    """What a URL names: a file of SQLite, or a server as asyncpg takes it.

    `pooled`: a PgBouncer stands before the server, so that no connection of ours keeps a session.
    """

    engine: Literal["sqlite", "postgresql"]
    path: Path = Path()
    address: str = ""
    pooled: bool = False


class EngineOptions(Protocol):
    """What of [database] an engine has to know."""

    @property
    def sync(self) -> Literal["power", "process"]: ...

    @property
    def pool_max(self) -> int: ...


def parse_url(url: str) -> DatabaseUrl:
    """Return what a URL names. Raises ValueError with a sentence, which shows no password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"is not a URL; {FORMS}") from None
    word, _, driver = parts.scheme.partition("+")
    engine = ENGINES.get(word)
    if engine is None:
        raise ValueError(f"names no database that is known; {FORMS}")
    if driver not in DRIVERS[engine]:
        raise ValueError(f"names the driver {driver!r}, which is not used here; leave out '+{driver}'")
    if engine == "sqlite":
        return DatabaseUrl("sqlite", path=_file(url))
    if not parts.path.strip("/"):
        raise ValueError("names no database: it ends in /name, such as postgresql://user@host/dub5")
    return _server(url)


def _file(url: str) -> Path:
    rest = url.partition(":")[2]
    if not rest.startswith("///") or rest == "///":
        raise ValueError("names no file: write sqlite:///relative/path.db, or sqlite:////absolute/path.db")
    path = unquote(rest[3:])
    if ":memory:" in path:
        raise ValueError("names a database in memory, which would be lost at each start; name a file")
    if "?" in rest or "\0" in path or path.endswith("/"):
        raise ValueError("names no file: a path has no '?' (write %3F) and does not end in '/'")
    return Path(path)


def _server(url: str) -> DatabaseUrl:
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    said = {value.lower() for name, value in options if name == POOLER_PARAMETER}
    host = parts.hostname or ""
    pooled = bool(said & {"true", "1", "yes"}) or (not said and ("pgbouncer" in host or "-pooler." in host))
    query = urlencode([each for each in options if each[0] != POOLER_PARAMETER], safe="/")
    return DatabaseUrl(
        "postgresql",
        address=f"postgresql://{parts.netloc}{parts.path}{f'?{query}' if query else ''}",
        pooled=pooled,
    )


def url_problems(url: str) -> list[str]:
    """Return what is wrong with a URL: sentences that begin with a verb and show no password."""
    try:
        parsed = parse_url(url)
    except ValueError as error:
        return [f"{error}."]
    if parsed.engine == "sqlite" and (kind := network_file_system(parsed.path)) is not None:
        why = f"names a file on a network file system ({kind}), where SQLite loses writes"
        return [f"{why}; use a local disk, or PostgreSQL."]
    if parsed.engine == "postgresql":
        try:
            load_part("database postgresql")
        except ModuleNotFoundError:
            return [f"cannot be used yet. {NO_DRIVER}."]
    return []


def describe(url: str) -> str:
    """Return a URL without its password, to be shown to people."""
    try:
        parsed = parse_url(url)
    except ValueError:
        return "(an unusable database URL)"
    if parsed.engine == "sqlite":
        return f"SQLite, {parsed.path}"
    parts = urlsplit(parsed.address)
    host = dict(parse_qsl(parts.query)).get("host") or parts.hostname or "localhost"
    user = f"{parts.username}@" if parts.username else ""
    return f"PostgreSQL, {user}{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def open_database(url: str, settings: EngineOptions) -> Database:
    """Return the database that a URL names; it connects when it is first asked.

    Raises DatabaseLost if its driver is not installed, ValueError if the URL is invalid.
    """
    parsed = parse_url(url)
    if parsed.engine == "sqlite":
        return cast(Database, load_part("database sqlite")(parsed.path, settings.sync))
    try:
        kind = load_part("database postgresql")
    except ModuleNotFoundError:
        raise DatabaseLost(f"{NO_DRIVER}.") from None
    return cast(Database, kind(url, settings.pool_max))


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the kind of the network file system that a path lies on; None: a local one, or not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place = os.path.realpath(path)
    found = ("", "")  # the last and longest mount point that the path is below
    for line in lines:
        if len(fields := line.split(" ")) > 2:
            point = fields[1].encode().decode("unicode_escape")
            below = place == point or place.startswith(point.rstrip("/") + "/")
            if below and len(point) >= len(found[0]):
                found = (point, fields[2])
    return found[1] if found[1].startswith(NETWORK) else None
