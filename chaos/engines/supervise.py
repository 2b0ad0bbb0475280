"""python supervise.py COMMAND ...: runs a command that must not outlive whoever started it.

    parent --stdin pipe--> leash --starts--> command
    parent gone, however it went (SIGKILL too): the pipe ends -> TERM, then KILL -> the command is gone

Stands alone, on the standard library, so that it starts in an instant. It leads a session of its own: a Ctrl-C in the
terminal, or a kill of the parent's whole group, must not take the leash away before its work is done.
"""

import os
import select
import signal
import subprocess
import sys

PATIENCE_S = 8.0  # between TERM and KILL


def main(command: list[str]) -> int:
    """The command's exit code; 128 + n if signal n ended it."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the byte in the pipe is what counts
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    _watch(child, woken)
    if child.poll() is None:
        _end(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _watch(child: "subprocess.Popen[bytes]", woken: int) -> None:
    """Returns when the child has ended, the parent is gone, or somebody tells us to end."""
    while child.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready and set(os.read(woken, 64)) - {signal.SIGCHLD}:
            return
        if 0 in ready and not os.read(0, 64):
            return


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
