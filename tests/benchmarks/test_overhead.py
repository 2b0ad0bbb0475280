"""What benchmarks/overhead.py makes of its times: schedule, percentiles, steps, void windows, verdicts."""

import asyncio
import random
import time
from collections import Counter

import pytest

from benchmarks.overhead import rows, table
from benchmarks.overhead_client import LoadedArm, send_all
from benchmarks.overhead_figures import (
    BOUNDS_MS,
    ArmTimes,
    LoadWindow,
    added,
    has_step,
    percentiles,
    pooled,
    schedule,
    verdicts,
)


def test_every_arm_gets_its_rate() -> None:
    """50 a second for 2 s are 100 to each arm, in order of time, spread over the whole span."""
    plan = list(schedule(["direct", "service", "relay"], 50, 2.0, random.Random(1)))
    assert Counter(arm for _, arm in plan) == {"direct": 100, "service": 100, "relay": 100}
    assert [at_s for at_s, _ in plan] == sorted(at_s for at_s, _ in plan)
    assert plan[0][0] < 0.01 and 1.98 < plan[-1][0] < 2.0


def test_no_arm_has_a_place_of_its_own() -> None:
    """The order is drawn anew for each turn: nobody always comes after the same other one."""
    plan = list(schedule(["direct", "service"], 50, 2.0, random.Random(1)))
    assert {arm for _, arm in plan[::2]} == {"direct", "service"}


@pytest.mark.parametrize(
    ("count", "names"), [(10, {"p50"}), (100, {"p50", "p99"}), (1000, {"p50", "p99", "p99.9"})]
)
def test_percentiles_need_values(count: int, names: set[str]) -> None:
    """A percentile that not one value lies beyond is left out: it would be the maximum."""
    assert set(percentiles([1.0] * count)) == names


def test_percentiles_over_direct() -> None:
    """What is added is the difference of the same percentile, where both have it."""
    direct, through = percentiles([1.0] * 100), percentiles([3.0] * 99 + [9.0] * 901)
    assert added(direct, through) == {"p50": 8.0, "p99": 8.0}


def test_a_crowd_at_40_ms_is_a_step() -> None:
    """Times that crowd at 40 ms are found; a tail that runs through them evenly, or is small, is none."""
    assert has_step([1.0] * 900 + [40.5, 41.0, 44.0])
    assert not has_step([1.0] * 900 + [40.5, 41.0])
    assert not has_step([float(value) for value in range(200)])


def window(through_ms: float = 2.0, late_ms: float = 0.1, failures: tuple[str, ...] = ()) -> LoadWindow:
    arms = {"direct": ArmTimes([1.0] * 100, cpu_us=[50.0]), "service": ArmTimes([through_ms] * 100)}
    arms["service"].cpu_us.append(400.0)
    return LoadWindow(arms, [late_ms] * 100, failures)


def test_a_failed_request_voids_the_window() -> None:
    """One failure is enough, and is told."""
    assert window().void_because(1.0) == ""
    assert window(failures=("relay: status 500",)).void_because(1.0) == "a request failed: relay: status 500"


def test_a_late_generator_voids_the_window() -> None:
    """A window whose generator was late says nothing of the ways, and neither does one without requests."""
    assert "1.50 ms late" in window(late_ms=1.5).void_because(1.0)
    assert LoadWindow({}, [], []).void_because(1.0)


def test_windows_are_pooled() -> None:
    """The times of all windows that had the arm count, with direct's of the same windows."""
    direct, through = pooled([window(2.0), window(4.0), LoadWindow({}, [], [])], "service")
    assert len(direct.answers) == 200 and sorted(set(through.answers)) == [2.0, 4.0]


def test_the_table() -> None:
    """A way has a row for each kind of time, with what it adds and the processor time of its process."""
    (row,) = rows([window()], ["service", "relay"])
    assert row["over_direct_ms"] == {"p50": 1.0, "p99": 1.0}
    assert "| answer | service | 100 | 1.00 ms | 1.00 ms |  | 1.00 ms | 1.00 ms | 400 us |" in table([row])


def test_verdicts() -> None:
    """Each bound is held or not met; what was not measured is not met."""
    told = verdicts({"answer": {"p50": 0.9, "p99": 3.0}})
    assert len(told) == len(BOUNDS_MS)
    assert [line.split(":")[0] for line in told] == ["held", "not met", "not met", "not met"]


class SlowServer(asyncio.Protocol):
    """Answers all requests of a connection that has been silent, wrongly if told so."""

    body = b'{"content":"#%b#"}'

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        body = self.body.replace(b"%b", data.partition(b"#")[2].partition(b"#")[0])
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


class WrongServer(SlowServer):
    """Answers another question."""

    body = b'{"content":"#99999999#"}'


def loaded(server_class: type[SlowServer], plan: list[tuple[float, str]]) -> LoadWindow:
    async def run() -> LoadWindow:
        server = await asyncio.get_running_loop().create_server(server_class, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        arm = LoadedArm("direct", f"http://127.0.0.1:{port}", "m", "sk-1", is_stream=False)
        await arm.open(1)
        try:
            return await send_all({"direct": arm}, plan, 0.0, 1)
        finally:
            arm.close()
            server.close()

    return asyncio.run(run())


def test_times_count_from_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that is held up counts the wait: the request was due, whoever was late."""
    held_up = time.monotonic_ns() - 500_000_000
    monkeypatch.setattr("benchmarks.overhead_client.time.monotonic_ns", _first(held_up))
    found = loaded(SlowServer, [(0.0, "direct"), (0.0, "direct")])
    assert found.failures == []
    assert all(answer_ms > 400 for answer_ms in found.arms["direct"].answers)
    assert all(late_ms > 400 for late_ms in found.late_ms)


def _first(value_ns: int):  # type: ignore[no-untyped-def]
    values, read = [value_ns], time.monotonic_ns
    return lambda: values.pop() if values else read()


def test_an_answer_to_another_question_is_a_failure() -> None:
    """A gateway that mixes answers up, or takes them from a cache, is not measured."""
    found = loaded(WrongServer, [(0.0, "direct")])
    assert found.failures == ["direct: the answer is to another question"]
    assert found.arms["direct"].answers == []
