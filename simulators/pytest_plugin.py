"""A pytest plugin with simulated providers as a fixture. pytest finds it where this package is installed.

    def test_we_retry(dub5_provider):
        provider = dub5_provider("openai", {"kind": "sequence", "steps": ["status:500"]})
        assert our_client(base_url=f"{provider.url}/v1").ask("hi")
        assert [line.status for line in provider.ledger()] == [500, 200]

Only this file is loaded until a test uses the fixture.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dub5.simulators.server.thread import ProviderHandle, SimulatorThread


@pytest.fixture(scope="session")
def dub5_simulator_thread() -> "Iterator[SimulatorThread]":
    """Start the thread that all simulated providers of the session run in."""
    simulator_thread: SimulatorThread = importlib.import_module(
        "dub5.simulators.server.thread"
    ).SimulatorThread()
    yield simulator_thread
    simulator_thread.close()


@pytest.fixture
def dub5_provider(dub5_simulator_thread: "SimulatorThread") -> "Iterator[Callable[..., ProviderHandle]]":
    """Return a function that starts providers: `dub5_provider(persona="openai", *faults, **table)`.

    The providers end with the test. `faults` are as in `PUT /faults`, or in short ("cut:5:reset"); `table` is
    as a `[[provider]]` of the TOML file, and `seed`.
    """
    started: list[ProviderHandle] = []

    def start(persona: str = "openai", *faults: object, **table: object) -> "ProviderHandle":
        started.append(dub5_simulator_thread.start(persona, faults, table))
        return started[-1]

    yield start
    for provider in started:
        provider.close()
