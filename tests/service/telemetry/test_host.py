"""What a process may use, read from files as kernels and containers write them."""

from pathlib import Path

import pytest

from dub5.service.telemetry.host import HostUsage, read_host

MEMINFO = "MemTotal:       24685072 kB\nMemFree:        1000000 kB\nMemAvailable:   14685072 kB\n"
MIB = 1024 * 1024
STAT = "anon 1000\ninactive_file 104857600\nactive_file 5000\n"
V2 = {
    "proc/self/cgroup": "0::/kubepods/pod1/web\n",
    "sys/fs/cgroup/kubepods/pod1/web/memory.max": "max\n",
    "sys/fs/cgroup/kubepods/pod1/web/memory.current": "1\n",
    "sys/fs/cgroup/kubepods/pod1/memory.max": f"{300 * MIB}\n",
    "sys/fs/cgroup/kubepods/pod1/memory.current": f"{290 * MIB}\n",
    "sys/fs/cgroup/kubepods/pod1/memory.stat": STAT,
    "sys/fs/cgroup/kubepods/pod1/web/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/kubepods/pod1/web/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n",
}
V2_NAMESPACE = {  # as most containers see it: their own group is the root
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{512 * MIB}\n",
    "sys/fs/cgroup/memory.current": f"{100 * MIB}\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 9\n",
}
V1 = {
    "proc/self/cgroup": "12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n1:name=systemd:/\n0::/\n",
    # a container of version 1 has its own group's files at the base, and the host's path in /proc
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 52428800\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "25000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\n",
}
V1_FREE = {
    "proc/self/cgroup": "5:memory:/\n1:cpu:/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
V2_LARGER_THAN_THE_HOST = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{10**13}\n",
    "sys/fs/cgroup/memory.current": f"{100 * MIB}\n",
    "sys/fs/cgroup/cpu.max": "100000000 100000\n",
}
FILES = {
    "v2": V2,
    "v2 in a namespace": V2_NAMESPACE,
    "v1": V1,
    "v1 without limits": V1_FREE,
    "a limit larger than the host": V2_LARGER_THAN_THE_HOST,
    "none": {},
}
HOST = (10_000_000 * 1024, 24_685_072 * 1024, "host")
EXPECTED: dict[str, tuple[tuple[int, int, str], tuple[float | None, str], float | None]] = {
    "v2": ((190 * MIB, 300 * MIB, "cgroup"), (0.5, "cgroup"), 2.5),
    "v2 in a namespace": ((100 * MIB, 512 * MIB, "cgroup"), (None, "host"), None),
    "v1": ((150 * MIB, 256 * MIB, "cgroup"), (0.25, "cgroup"), 1.5),
    "v1 without limits": (HOST, (None, "host"), None),
    "a limit larger than the host": (HOST, (None, "host"), None),
    "none": (HOST, (None, "host"), None),
}


def host_of(folder: Path, files: dict[str, str]) -> HostUsage:
    """Write the files and read them."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return read_host(folder)


@pytest.mark.parametrize("kind", FILES)
def test_what_there_is(kind: str, tmp_path: Path) -> None:
    """The tightest limit around the process counts, and what is used below it; else the host's."""
    found = host_of(tmp_path, FILES[kind])
    memory, (cpus, cpu_source), throttled_s = EXPECTED[kind]
    assert (found.memory_bytes, found.memory_limit_bytes, found.memory_source) == memory
    assert found.cpu_source == cpu_source
    assert cpus is None or found.cpus == cpus
    assert found.throttled_s == throttled_s


def test_nothing_to_read(tmp_path: Path) -> None:
    """Where no file is there, as on macOS, what cannot be known is left out, and nothing fails."""
    found = read_host(tmp_path)
    assert (found.memory_bytes, found.memory_limit_bytes, found.throttled_s) == (None, None, None)
    assert found.cpus is not None and found.cpus >= 1


GARBAGE = (
    "",
    "\0\xff\n",
    "max max max",
    "-5 0",
    "1e400",
    "9" * 400,
    "12\n13\n14",
    "٣",
    "inactive_file\ncpu.max",
)


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("kind", ["v2", "v1"])
def test_garbage(kind: str, garbage: str, tmp_path: Path) -> None:
    """A file that holds anything else is as good as none: the host's values are used."""
    files = {name: garbage for name in FILES[kind] if name != "proc/self/cgroup"}
    found = host_of(tmp_path, {**files, "proc/self/cgroup": FILES[kind]["proc/self/cgroup"]})
    assert (found.memory_limit_bytes, found.memory_source, found.cpu_source) == (HOST[1], "host", "host")
    for name in ("proc/self/cgroup", "proc/meminfo"):
        (tmp_path / name).write_text(garbage)
        read_host(tmp_path)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    """What cannot be opened is passed over."""
    (tmp_path / "proc/self/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").mkdir()
    assert read_host(tmp_path).memory_limit_bytes is None


def test_a_path_that_leads_outside(tmp_path: Path) -> None:
    """A group outside of the container's view is not looked for above its folder."""
    files = {
        **V2_NAMESPACE,
        "proc/self/cgroup": "0::/../../other\n",
        "memory.max": "1\n",
        "other/memory.max": "1\n",
    }
    assert host_of(tmp_path, files).memory_limit_bytes == 512 * MIB
