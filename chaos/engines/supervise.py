"""Run a command that must not outlive its parent: `python supervise.py COMMAND ...`.

    parent --stdin pipe--> supervisor --starts--> command
    parent gone, even by SIGKILL: the pipe ends -> TERM, then KILL -> the command is gone

Uses the standard library only, so that it starts fast. It leads its own session: a Ctrl-C in the terminal, or
a kill of the parent's process group, must not end the supervisor before the command.
"""

import os
import select
import signal
import subprocess
import sys

PATIENCE_S = 8.0  # between TERM and KILL


def main(command: list[str]) -> int:
    """Return the command's exit code; 128 + n if signal n ended it."""
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
    _wait(child, woken)
    if child.poll() is None:
        _stop(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _wait(child: "subprocess.Popen[bytes]", woken: int) -> None:
    """Return when the child has ended, the parent is gone, or a signal tells this process to end."""
    while child.poll() is None:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready and set(os.read(woken, 64)) - {signal.SIGCHLD}:
            return
        if 0 in ready and not os.read(0, 64):
            return


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
