"""Secrets: reads API keys from environment variables, or from the files that `<variable>_FILE` names.

Call `SecretReader.read(where, variables)`. No message ever shows a key.
"""

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

KEY_CHARS_MAX = 8192
KEY_PATTERN = re.compile(rf"[!-~]{{1,{KEY_CHARS_MAX}}}")  # a key is sent in a header
PLACEHOLDER = re.compile(  # what examples and templates hold where a key belongs
    r"<.*>|\$\{?\w+\}?|.*\.\.\.|.*[-_]here"
    r"|(?:sk[-_])?your[-_]?(?:[a-z0-9]{1,20}[-_]){0,4}(?:(?:api)?key|token|secret)"
    r"|(?:change|replace)[-_]?me|(?:insert|replace)[-_](?:with[-_])?key|placeholder|todo"
    r"|(?:[a-z]+[-_])*x{3,}|\*{3,}",
    re.IGNORECASE,
)


class ReadVariable(Struct, frozen=True):
    """An environment variable that the settings read: its `state`, never its value."""

    name: str
    state: Literal["set", "by a file", "not set"]
    read_by: str

    @classmethod
    def of(
        cls, name: str, read_by: str, environ: Mapping[str, str], *, may_be_a_file: bool = False
    ) -> "ReadVariable":
        """Look a variable up; that of a key `may_be_a_file`: NAME_FILE then names it."""
        if environ.get(name, "").strip():
            return cls(name, "set", read_by)
        by_file = may_be_a_file and environ.get(f"{name}_FILE", "").strip()
        return cls(name, "by a file" if by_file else "not set", read_by)


class SecretReader:
    """A reader of keys; an invalid key adds a sentence to `problems`. `is_reload`: the service runs."""

    def __init__(self, environ: Mapping[str, str], is_reload: bool, problems: list[str]) -> None:
        self._environ = environ
        self._is_reload = is_reload
        self._problems = problems

    def read(self, where: str, variables: tuple[str, ...]) -> tuple[str, ...]:
        """Return the valid keys of these variables; `where` begins each message."""
        found = []
        for variable in variables:
            try:
                found.append(self._read_one(variable))
            except ValueError as error:
                self._problems.append(f"{where}: {error}")
        return tuple(found)

    def _read_one(self, variable: str) -> str:
        """Return the key in the variable, or in the file that VARIABLE_FILE names.

        The environment of a running process cannot change, so a key that a reload replaces must be in a file.
        Raises ValueError.
        """
        key, file_variable = self._environ.get(variable, "").strip(), f"{variable}_FILE"
        source = f"the environment variable {variable}"
        if file := self._environ.get(file_variable, "").strip():
            if key:
                raise ValueError(
                    f"the environment variables {variable} and {file_variable} are both set; unset one."
                )
            key, source = self._read_file(file, file_variable), f"the file that {file_variable} names"
        elif not key:
            raise ValueError(
                f"{source} is not set or empty; set it, or {file_variable}, or leave its name out."
            )
        if not KEY_PATTERN.fullmatch(key):
            raise ValueError(
                f"{source} must hold a key: one line of printable characters without spaces,"
                f" {KEY_CHARS_MAX:,} at most."
            )
        if PLACEHOLDER.fullmatch(key):
            raise ValueError(f"{source} holds what an example writes in place of a key; put the key there.")
        return key

    def _read_file(self, file: str, file_variable: str) -> str:
        try:
            return read_text(Path(file), self._is_reload).strip()
        except UnicodeDecodeError:
            return ""
        except OSError as error:
            raise ValueError(
                f"the file that {file_variable} names cannot be read ({error.strerror})."
            ) from None


def read_text(path: Path, is_reload: bool) -> str:
    """Read a text file. A reload refuses a pipe, as a second read would wait for ever.

    Raises OSError, UnicodeDecodeError.
    """
    if is_reload and path.is_fifo():
        raise OSError(errno.ESPIPE, "a pipe can be read only once")
    return path.read_text(encoding="utf-8")
