"""Commands that are ended from outside, by Ctrl-C or by `dub5 check | head`, end without a traceback."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")
CLOSED, INTERRUPTED = 141, 130  # 128 + SIGPIPE, 128 + SIGINT, as a shell reports them


def ends_with_its_reader(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a `main`: when the reader of its output is gone, it returns `CLOSED` and says nothing.

    At Ctrl-C it returns `INTERRUPTED`, also while its modules are still being imported.
    """

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            try:
                return main(*args, **kwargs)
            except KeyboardInterrupt:
                return INTERRUPTED
            finally:  # here, not at the exit of Python, where nobody can catch it
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(nothing, descriptor)
            return CLOSED

    return run
