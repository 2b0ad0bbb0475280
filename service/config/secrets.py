"""Where keys come from: the environment, or a file that it names. Nothing here ever shows one."""

import errno
import re
from collections.abc import Mapping
from pathlib import Path

KEY_OK = re.compile(r"[!-~]+")  # it stands in a header


class Keys:
    """Reads keys; what is wrong with them is added to `problems`. `again`: it is a reload."""

    def __init__(self, environ: Mapping[str, str], again: bool, problems: list[str]) -> None:
        self._environ = environ
        self._again = again
        self._problems = problems

    def read(self, where: str, variables: tuple[str, ...]) -> tuple[str, ...]:
        """The keys of these variables."""
        found = []
        for variable in variables:
            try:
                found.append(self._one(variable))
            except ValueError as error:
                self._problems.append(f"{where}: {error}")
        return tuple(found)

    def _one(self, variable: str) -> str:
        """What the variable holds, or the file that VARIABLE_FILE names. The environment of a running process cannot
        be changed from outside, so a key that a reload is to change must be in a file. Raises ValueError."""
        key, named = self._environ.get(variable, "").strip(), f"{variable}_FILE"
        held = f"the environment variable {variable}"
        if file := self._environ.get(named, "").strip():
            if key:
                raise ValueError(f"the environment variables {variable} and {named} are both set; unset one.")
            key, held = self._in_file(file, named), f"the file that {named} names"
        elif not key:
            raise ValueError(f"{held} is not set or empty; set it, or {named}, or take it off the list.")
        if not KEY_OK.fullmatch(key):
            raise ValueError(f"{held} must hold a key: one line of printable characters without spaces.")
        return key

    def _in_file(self, file: str, named: str) -> str:
        try:
            return text_of(Path(file), self._again).strip()
        except UnicodeDecodeError:
            return ""
        except OSError as error:
            raise ValueError(f"the file that {named} names cannot be read ({error.strerror}).") from None


def text_of(path: Path, again: bool) -> str:
    """Raises OSError, UnicodeDecodeError. A pipe can be read once; a second time would wait for ever."""
    if again and path.is_fifo():
        raise OSError(errno.ESPIPE, "a pipe can be read only once")
    return path.read_text(encoding="utf-8")
