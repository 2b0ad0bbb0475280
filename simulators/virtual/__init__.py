"""Virtual time: an event loop, a network and a client that need no real one."""

from simulators.virtual.loop import Deadlock, Escaped, Leaked, Trace, VirtualLoop, run

__all__ = ["Deadlock", "Escaped", "Leaked", "Trace", "VirtualLoop", "run"]
