"""A fixture for any project that talks to AI providers; pytest finds it where this package is installed.

    def test_we_ask_again(dub5_provider):
        provider = dub5_provider("openai", {"kind": "sequence", "steps": ["status:500"]})
        assert our_client(base_url=f"{provider.url}/v1").ask("hi")
        assert [line.status for line in provider.ledger()] == [500, 200]

Nothing but this file is loaded until a test asks for the fixture.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dub5.simulators.server.thread import ProviderHandle, SimulatorThread


@pytest.fixture(scope="session")
def dub5_beside() -> "Iterator[SimulatorThread]":
    """The thread that all simulated providers of the session live in."""
    simulator_thread: SimulatorThread = importlib.import_module(
        "dub5.simulators.server.thread"
    ).SimulatorThread()
    yield simulator_thread
    simulator_thread.close()


@pytest.fixture
def dub5_provider(dub5_beside: "SimulatorThread") -> "Iterator[Callable[..., ProviderHandle]]":
    """Starts providers: `dub5_provider(persona="openai", *faults, **table)`; they end with the test.

    Faults as in `PUT /faults`, or in short ("cut:5:reset"); `table` as a `[[provider]]` of the TOML file, and `seed`.
    """
    started: list[ProviderHandle] = []

    def start(persona: str = "openai", *faults: object, **table: object) -> "ProviderHandle":
        started.append(dub5_beside.start(persona, faults, table))
        return started[-1]

    yield start
    for simulated in started:
        simulated.close()
