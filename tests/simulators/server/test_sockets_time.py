"""The front end for sockets, in virtual time: when it does what."""

import asyncio
from typing import cast

from dub5.simulators.script import Action, Data, End, Head, Wait
from dub5.simulators.server.sockets import LINGER_S, _Connection

GET = b"GET / HTTP/1.1\r\n\r\n"
STEPS: list[Action] = [
    Head(200, {"content-length": "3"}),
    Wait(1),
    Data(b"a"),
    Wait(1),
    Data(b"b"),
    Wait(1),
    Data(b"c"),
]


class RecordingTransport(asyncio.Transport):
    """A transport that records what is written, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, bytes]] = []

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        said = data if data.isupper() else data[-1:]
        self.written.append((asyncio.get_running_loop().time(), said))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.write(b"EOF")

    def abort(self) -> None:
        self.write(b"ABORT")

    def is_closing(self) -> bool:
        return False


def connected() -> tuple[_Connection, RecordingTransport]:
    wire = RecordingTransport()
    connection = _Connection(lambda request: iter([*STEPS, End()]), set())
    connection.connection_made(cast(asyncio.Transport, wire))
    return connection, wire


async def test_at_its_own_pace() -> None:
    """Every piece goes out when its wait is over."""
    connection, wire = connected()
    connection.data_received(GET)
    await asyncio.sleep(10)
    assert wire.written == [(0, b"\n"), (1, b"a"), (2, b"b"), (3, b"c")]


async def test_behind_its_time() -> None:
    """A script that was held up catches up: its waits count from when they should have begun."""
    connection, wire = connected()
    connection.data_received(GET)
    await asyncio.sleep(0.5)
    connection.pause_writing()
    await asyncio.sleep(2)
    connection.resume_writing()
    await asyncio.sleep(10)
    assert wire.written == [(0, b"\n"), (2.5, b"b"), (3, b"c")]


async def test_reader_again_during_a_wait() -> None:
    """A client that reads again does not shorten a wait."""
    connection, wire = connected()
    connection.data_received(GET)
    connection.pause_writing()
    await asyncio.sleep(0.5)
    connection.resume_writing()
    connection.data_received(GET)  # nor does the next request
    await asyncio.sleep(3)
    assert wire.written[:4] == [(0, b"\n"), (1, b"a"), (2, b"b"), (3, b"\n")]


async def test_refused() -> None:
    """A rejected client may send on for a while: closing at once would reset the response away."""
    connection, wire = connected()
    connection.data_received(b"no HTTP\r\n\r\n")
    connection.data_received(GET)
    await asyncio.sleep(10)
    assert wire.written == [(0, b"\n"), (0, b"EOF"), (LINGER_S, b"ABORT")]
