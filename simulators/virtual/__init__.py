"""Virtual time: an event loop, a network and a client that need no real one."""

from simulators.virtual.client import Answer, AppClient, AppFault, Reply
from simulators.virtual.loop import Deadlock, Escaped, Leaked, Trace, VirtualLoop, run

__all__ = [
    "Answer",
    "AppClient",
    "AppFault",
    "Deadlock",
    "Escaped",
    "Leaked",
    "Reply",
    "Trace",
    "VirtualLoop",
    "run",
]
