"""The secret of sessions where `session.secret_env` names none: kept in a file beside the SQLite database.

    data/dub5.db           the conversations, each of one session
    data/session.secret    the secret by which a browser still proves its session after a restart

`load` and `check` make no file. `keep_session_secret` does, at the start of a service: once, for its user
alone.
Without a SQLite file there is no folder of ours, and the secret lives as long as the process.
"""

import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from dub5.service.config.secrets import KEY_PATTERN
from dub5.service.config.settings import LoadedSettings, Secret
from dub5.service.store.url import parse_url

FILE_NAME = "session.secret"
CHARS_MIN = 32
READ_MAX = 4_096  # bytes of the file
LIVES_SHORT = "a restart ends all sessions, and no other process knows them"


class _Unusable(Exception):
    """The file is there, but what it holds is no secret."""


def secret_file(loaded: LoadedSettings) -> Path | None:
    """Return the file in which the secret is to be kept; None if it is configured, or has no place."""
    if not _wants_secret(loaded) or loaded.database_url is None:
        return None
    database = parse_url(loaded.database_url.reveal())
    return database.path.parent / FILE_NAME if database.engine == "sqlite" else None


def with_secret_warning(loaded: LoadedSettings) -> LoadedSettings:
    """Return these settings, with a warning if the secret has no place where it is kept."""
    if not _wants_secret(loaded) or secret_file(loaded) is not None:
        return loaded
    return _warned(loaded, f"session.secret_env: is empty, so a secret is made at each start: {LIVES_SHORT}.")


def secret_plan(loaded: LoadedSettings) -> str | None:
    """Return what a start would do about the file, for `check`; None if it would do nothing."""
    file = secret_file(loaded)
    if file is None:
        return None
    if os.access(file, os.R_OK):
        return f"sessions: their secret is kept in {file}"
    return f"sessions: their secret will be made at the first start, and kept in {file}"


def keep_session_secret(loaded: LoadedSettings) -> LoadedSettings:
    """Return these settings with the secret that is kept; it is made now if there is none.

    If it cannot be kept, a warning says why, and the process makes one for itself.
    """
    file = secret_file(loaded)
    if file is None:
        return loaded
    try:
        return msgspec.structs.replace(loaded, session_secrets=(Secret(_kept_secret(file)),))
    except (_Unusable, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        text = (
            f"session.secret_env: is empty, and the secret cannot be kept in {file} ({why}): {LIVES_SHORT}."
        )
        return _warned(loaded, text)


def _wants_secret(loaded: LoadedSettings) -> bool:
    session = loaded.settings.session
    return session is not None and not session.secret_env


def _warned(loaded: LoadedSettings, text: str) -> LoadedSettings:
    return msgspec.structs.replace(loaded, warnings=(*loaded.warnings, text))


def _kept_secret(file: Path) -> str:
    """Return the secret in the file, made if there is none. Raises _Unusable, OSError."""
    try:
        with file.open("rb") as known:
            content = known.read(READ_MAX)
    except FileNotFoundError:
        content = b""
    return _checked(content) if content else _made_secret(file)


def _made_secret(file: Path) -> str:
    """Make the secret, or return the one that another process has made meanwhile: the lock admits one.

    An empty file is filled: a process that was killed, or a loss of power, has left it.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if content := made.read(READ_MAX):
            return _checked(content)
        secret = secrets.token_urlsafe(CHARS_MIN)
        made.write(f"{secret}\n".encode())
        os.fsync(made)
        return secret


def _checked(content: bytes) -> str:
    secret = content.decode("utf-8", "replace").strip()
    if len(secret) < CHARS_MIN or not KEY_PATTERN.fullmatch(secret):
        raise _Unusable(f"it holds no secret of {CHARS_MIN} characters or more; delete it, and one is made")
    return secret
