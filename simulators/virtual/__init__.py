"""Virtual time: an event loop, a network and a client that need no real one."""

from simulators.virtual.asgi import AppFault, Reply
from simulators.virtual.client import Answer, AppClient
from simulators.virtual.connect import Connect, Link
from simulators.virtual.loop import Deadlock, Escaped, VirtualLoop
from simulators.virtual.runner import Leaked, Trace, run
from simulators.virtual.wire import VirtualWire

__all__ = [
    "Answer",
    "AppClient",
    "AppFault",
    "Connect",
    "Deadlock",
    "Escaped",
    "Leaked",
    "Link",
    "Reply",
    "Trace",
    "VirtualLoop",
    "VirtualWire",
    "run",
]
