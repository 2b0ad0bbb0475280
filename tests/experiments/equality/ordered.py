"""Give the open requests an order that is the same in each process.

Admission keeps them in a set, which is ordered by their addresses in memory: a drain that cuts several at one
instant cuts them in another order in another process. For a record they stand in the order of arrival.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from service.policy.admission import Admission


class Ordered(dict[Any, None]):
    """What a set does, in the order of insertion."""

    def add(self, one: Any) -> None:
        """Put it at the end, unless it is there."""
        self.setdefault(one)

    def discard(self, one: Any) -> None:
        """Take it out, if it is there."""
        self.pop(one, None)


@contextmanager
def in_order() -> Iterator[None]:
    """Put an ordered set in the place of each set of an Admission that is made meanwhile."""
    made = Admission.__init__

    def ordered(self: Admission, *args: Any, **more: Any) -> None:
        made(self, *args, **more)
        for name, value in vars(self).items():
            if type(value) is set:
                setattr(self, name, Ordered())

    with patch.object(Admission, "__init__", ordered):
        yield
