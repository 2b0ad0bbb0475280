"""Broken builds, on request: whoever wants one says where it is to be found, as `module:name`."""

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def mutated(mutant: str | None) -> Iterator[None]:
    """The service as it is; or, for so long, as `module:name` breaks it: a context manager."""
    if mutant is None:
        yield
        return
    module, _, name = mutant.partition(":")
    with getattr(importlib.import_module(module), name)():
        yield
