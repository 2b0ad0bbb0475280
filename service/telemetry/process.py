"""Resource usage of this process: from /proc on Linux, elsewhere the nearest value that Python offers."""

import os
import resource
import sys

PAGE_BYTES = resource.getpagesize()


def cpu_s() -> float:
    """Return user and system time in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """Return the resident memory in bytes, or its peak where only that is available (macOS)."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024


def descriptors_max() -> int | None:
    """Return how many file descriptors the process may have open; None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def descriptors() -> int:
    """Count open file descriptors, without the one used for counting."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1
        except OSError:
            continue
    return 0
