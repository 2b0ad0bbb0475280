"""What the process may use, and what of it is used: of its cgroup where that has a limit, else of the host.

    /proc/self/cgroup --> the folders of the controllers, the own one first, then those around it
    memory            limit: the tightest one; used: what is there without idle pages of files
    cpu               limit: the tightest quota; throttled: how long the kernel has held the processes back

Control groups of version 2 and 1. Whatever file is missing or holds something else is passed over: on macOS
only the load and the number of processors are known. Reading takes a dozen small files, none of a disk.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path("/")
CGROUPS = Path("sys/fs/cgroup")
NO_LIMIT_BYTES = 1 << 60  # version 1 writes no limit as about 2^63


class HostUsage(Struct, frozen=True):
    """What there is and what is used; None is not known. The sources are "cgroup" or "host"."""

    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    memory_source: str = "host"
    cpus: float | None = None
    cpu_source: str = "host"
    throttled_s: float | None = None
    load: float | None = None


class _CgroupFolder(Struct, frozen=True):
    """The folder of a controller for one group."""

    place: Path
    version: int


def read_host(root: Path = ROOT) -> HostUsage:
    """Return what this process may use, and what is used."""
    used, limit = _host_memory(root)
    cpus, memory_source, cpu_source = float(_host_cpus()), "host", "host"
    if (group := _tightest(_folders(root, "memory"), _memory_limit)) is not None:
        folder, group_limit = group
        if limit is None or group_limit < limit:
            used, limit, memory_source = _memory_used(folder), int(group_limit), "cgroup"
    if (group := _tightest(_folders(root, "cpu"), _cpu_limit)) is not None and group[1] < cpus:
        cpus, cpu_source = group[1], "cgroup"
    return HostUsage(used, limit, memory_source, cpus, cpu_source, _throttled_s(root), _load())


def _folders(root: Path, controller: str) -> list[_CgroupFolder]:
    """Return the folders of the process's groups for a controller, the innermost first."""
    unified = None
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):  # of version 1, which then has it
            return list(_upwards(root / CGROUPS / controller, path, 1))
        if number == "0" and not controllers:
            unified = path
    return [] if unified is None else list(_upwards(root / CGROUPS, unified, 2))


def _upwards(base: Path, path: str, version: int) -> Iterator[_CgroupFolder]:
    """Yield the folder of a path, and those around it. A path may be that of the host: then only the base."""
    parts = [part for part in path.split("/") if part]
    if ".." not in parts:
        for length in range(len(parts), 0, -1):
            yield _CgroupFolder(base.joinpath(*parts[:length]), version)
    yield _CgroupFolder(base, version)


def _tightest(
    folders: list[_CgroupFolder], limit_of: Callable[[_CgroupFolder], float | None]
) -> tuple[_CgroupFolder, float] | None:
    """Return the folder with the lowest limit, and that limit; None where there is none."""
    limits = [(folder, limit) for folder in folders if (limit := limit_of(folder)) is not None]
    return min(limits, key=lambda one: one[1], default=None)


def _memory_limit(folder: _CgroupFolder) -> float | None:
    limit = _number(folder.place / ("memory.max" if folder.version == 2 else "memory.limit_in_bytes"))
    return limit if limit is not None and 0 < limit < NO_LIMIT_BYTES else None


def _memory_used(folder: _CgroupFolder) -> int | None:
    """Return what is used without the pages of files that nobody has used lately: those are dropped first."""
    is_v2 = folder.version == 2
    used = _number(folder.place / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
    if used is None:
        return None
    name = "inactive_file" if is_v2 else "total_inactive_file"
    return max(0, used - (_field(folder.place / "memory.stat", name) or 0))


def _cpu_limit(folder: _CgroupFolder) -> float | None:
    if folder.version == 2:
        words = (_text(folder.place / "cpu.max") or "").split()
        quota, period = (_whole(words[0]), _whole(words[1])) if len(words) == 2 else (None, None)
    else:
        quota = _number(folder.place / "cpu.cfs_quota_us")
        period = _number(folder.place / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _throttled_s(root: Path) -> float | None:
    """Return how long the groups of the process were held back: the largest value, as one holds another."""
    found = []
    for folder in _folders(root, "cpu"):
        name, per_s = ("throttled_usec", 1e6) if folder.version == 2 else ("throttled_time", 1e9)
        if (value := _field(folder.place / "cpu.stat", name)) is not None:
            found.append(value / per_s)
    return max(found, default=None)


def _host_memory(root: Path) -> tuple[int | None, int | None]:
    """Return what is used of the host's memory, and all of it."""
    place = root / "proc/meminfo"
    total, available = _field(place, "MemTotal:"), _field(place, "MemAvailable:")
    if total is None:
        return None, None
    return None if available is None else 1024 * (total - available), 1024 * total


def _host_cpus() -> int:
    """Return the processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS has no such call
        return os.cpu_count() or 1


def _load() -> float | None:
    """Return how many processes wanted to run, averaged over a minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _text(place: Path) -> str | None:
    try:
        return place.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 25 else None


def _number(place: Path) -> int | None:
    """Return the number that a file holds; None for "max" and for anything else."""
    return _whole((_text(place) or "").strip())


def _field(place: Path, name: str) -> int | None:
    """Return the number of a line `name number`."""
    for line in (_text(place) or "").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name:
            return _whole(words[1])
    return None
