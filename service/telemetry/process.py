"""What this process uses. Linux tells through /proc; elsewhere the nearest thing that Python offers."""

import os
import resource
import sys

PAGE_BYTES = resource.getpagesize()


def cpu_s() -> float:
    """User and system time so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_bytes() -> int:
    """Resident memory now; where only its highest value can be had (macOS), that."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024


def descriptors() -> int:
    """Open file descriptors, the one used for looking left out."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1
        except OSError:
            continue
    return 0
