"""Reloader: reads the settings and their secrets again, when told to or when a file that holds a key changes.

Platforms replace such files in place (Kubernetes: the link of a whole folder). A change counts once two looks
in a row have seen the same: a file that is being written is not read.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from dub5.service.app import Service
from dub5.service.config.load import secret_files
from dub5.service.config.settings import LoadedSettings, Settings, SettingsProblems

IDLE_S = 60.0  # between two looks at whether files are to be looked at

Stamp = tuple[int, int, int] | None  # when it was changed, its size and its inode; None: it is not there


class FileWatch:
    """What is known of some files. `changed()` looks at them."""

    def __init__(self) -> None:
        self._read: dict[Path, Stamp] = {}  # as they were when they were read
        self._seen: dict[Path, Stamp] = {}  # at the last look

    def note_read(self, files: Iterable[Path]) -> None:
        """Watch these files from now on, as they are now."""
        self._read = self._seen = {file: _stamp(file) for file in files}

    def follow(self, files: Iterable[Path]) -> None:
        """Watch these files instead; of those that were watched before, it stays known what was read."""
        self._read = {file: self._read[file] if file in self._read else _stamp(file) for file in files}
        self._seen = dict(self._read)

    def changed(self) -> bool:
        """Return whether a file is another one than was read, and has been since the last look."""
        now = {file: _stamp(file) for file in self._read}
        settled = now == self._seen
        self._seen = now
        return settled and now != self._read


class Reloader:
    """Reloads the settings of a service. `read_settings` raises SettingsProblems; then the old ones stay."""

    def __init__(self, service: Service, read_settings: Callable[[Settings], LoadedSettings]) -> None:
        self._service = service
        self._read_settings = read_settings
        self._files = FileWatch()

    def reload(self) -> None:
        """Read the settings again, and use them if they are valid."""
        self._files.note_read(secret_files(self._service.settings))  # before: what changes meanwhile is seen
        try:
            self._service.reload(self._read_settings(self._service.settings))
            self._files.follow(secret_files(self._service.settings))
        except SettingsProblems as error:
            self._service.reject_settings(error.problems)

    async def run(self) -> None:
        """Look at the files that hold keys until cancelled."""
        self._files.note_read(secret_files(self._service.settings))
        while True:
            files_s = self._service.settings.keys.files_s
            await asyncio.sleep(files_s or IDLE_S)
            if files_s and self._files.changed():
                self.reload()


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
