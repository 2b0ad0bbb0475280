"""The watch of the process: a blocked loop and a collection are seen, and nothing stays behind."""

import asyncio
import gc
import threading
import time

import pytest

from dub5.service.telemetry.process_watch import ProcessWatch
from tests.support.world import ServiceWorld, healthy

BLOCK_S, EVERY_S = 0.25, 0.01


class Noted:
    """What a watch has noted."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self.pauses: list[tuple[int, float]] = []

    def start(self, watch: ProcessWatch) -> ProcessWatch:
        """Start a watch that notes here."""
        watch.start(self.lags_s.append, lambda generation, pause_s: self.pauses.append((generation, pause_s)))
        return watch


@pytest.mark.real_sockets
async def test_a_blocked_loop_is_seen() -> None:
    """Whatever blocks the loop is seen with its length, up to one period of the timer."""
    noted = Noted()
    watch = noted.start(ProcessWatch(EVERY_S))
    time.sleep(BLOCK_S)  # noqa: ASYNC251 - this is what it is about
    await asyncio.sleep(2 * EVERY_S)
    watch.close()
    assert max(noted.lags_s) >= BLOCK_S - EVERY_S


async def test_a_free_loop_is_never_late() -> None:
    """On virtual time, where nothing blocks, each timer comes when it is due: two in a second."""
    noted = Noted()
    watch = noted.start(ProcessWatch())
    await asyncio.sleep(10.25)
    watch.close()
    assert noted.lags_s == [0.0] * 20


@pytest.mark.real_sockets
async def test_a_collection_is_seen() -> None:
    """Each garbage collection is noted with its generation, in whatever thread it happens."""
    noted = Noted()
    watch = noted.start(ProcessWatch())
    gc.collect()
    thread = threading.Thread(target=gc.collect, args=(1,))
    thread.start()
    thread.join()
    watch.close()
    generations = [generation for generation, pause_s in noted.pauses if pause_s > 0]
    assert {1, 2} <= set(generations)


async def test_nothing_is_left() -> None:
    """A watch that is closed notes nothing any more, and leaves neither timer nor callback; twice is once."""
    before, noted = list(gc.callbacks), Noted()
    watch = noted.start(ProcessWatch())
    assert len(gc.callbacks) == len(before) + 1
    watch.close()
    watch.close()
    assert gc.callbacks == before
    await asyncio.sleep(10)
    assert noted.lags_s == []
    ProcessWatch().close()


async def test_a_service_starts_and_ends_its_watch() -> None:
    """The watch runs from the start of the service to its end; its values are among the metrics."""
    before = list(gc.callbacks)
    world = ServiceWorld(one=healthy())
    world.service._process_watch = ProcessWatch()
    async with world:
        await asyncio.sleep(60)
        gc.collect()
        text = (await world.client.request("GET", "/metrics")).body.decode()
        assert "process_loop_lag_seconds_count 120.0" in text
        for generation in range(3):
            assert f'process_gc_pause_seconds_count{{generation="{generation}"}}' in text
    assert gc.callbacks == before


async def test_no_watch_unless_asked() -> None:
    """A service of a simulation or a test watches nothing."""
    before = list(gc.callbacks)
    async with ServiceWorld(one=healthy()):
        assert gc.callbacks == before
