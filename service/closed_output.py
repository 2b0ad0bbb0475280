"""Commands whose output is read only in part: `dub5 check | head` ends in silence, without a traceback."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")
CLOSED = 141  # 128 + SIGPIPE, as a shell reports it


def ends_with_its_reader(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate a `main`: when the reader of its output is gone, it returns `CLOSED` and says nothing."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            try:
                return main(*args, **kwargs)
            finally:  # here, not at the exit of Python, where nobody can catch it
                for stream in (sys.stdout, sys.stderr):
                    stream.flush()
        except BrokenPipeError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(nothing, descriptor)
            return CLOSED

    return run
