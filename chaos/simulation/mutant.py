"""Mutants: builds of the service that are broken on purpose, named as `module:name`."""

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def mutated(mutant: str | None) -> Iterator[None]:
    """Break the service as `module:name` does while the context lasts; None changes nothing."""
    if mutant is None:
        yield
        return
    module, _, name = mutant.partition(":")
    with getattr(importlib.import_module(module), name)():
        yield
