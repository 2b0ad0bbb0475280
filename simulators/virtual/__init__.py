"""Virtual time: an event loop, a network, a database and a client without real time and real sockets.

Call `run(main())`.
"""

from dub5.simulators.virtual.asgi import AppFault, AppStream
from dub5.simulators.virtual.client import AppClient, AppResponse
from dub5.simulators.virtual.connect import Connect, Link
from dub5.simulators.virtual.database import DatabaseFault, VirtualDatabase, VirtualStorage
from dub5.simulators.virtual.loop import Deadlock, Escaped, VirtualLoop
from dub5.simulators.virtual.runner import Leaked, Trace, run
from dub5.simulators.virtual.socket import AppSocket, Closed
from dub5.simulators.virtual.stalls import Stalls
from dub5.simulators.virtual.wire import VirtualWire

__all__ = [
    "AppClient",
    "AppFault",
    "AppResponse",
    "AppSocket",
    "AppStream",
    "Closed",
    "Connect",
    "DatabaseFault",
    "Deadlock",
    "Escaped",
    "Leaked",
    "Link",
    "Stalls",
    "Trace",
    "VirtualDatabase",
    "VirtualLoop",
    "VirtualStorage",
    "VirtualWire",
    "run",
]
