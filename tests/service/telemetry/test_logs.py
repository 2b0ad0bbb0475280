import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.service.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetSpent,
    CacheLooked,
    CallerBarred,
    Crashed,
    DrainBegan,
    HealthChanged,
    Hedged,
    LimitLowered,
    RequestEnded,
    SecurityKind,
    SecurityNoted,
    SettingsReloaded,
)
from dub5.service.model import AttemptRecord, Outcome, Usage
from dub5.service.telemetry import logs
from dub5.service.telemetry.event_tables import Level
from dub5.service.telemetry.logs import FLUSH_S, EventLogger, LineWriter, encode_text


class CollectedLines:
    """Keeps what is written, decoded."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.hurried: list[bool] = []

    def write(self, line: bytes, *, at_once: bool) -> None:
        assert b"\n" not in line
        self.seen.append(json.loads(line))
        self.hurried.append(at_once)


async def test_a_request(request_ended: Callable[..., RequestEnded]) -> None:
    """One line says what was requested by whom, how it ended and which attempts were made."""
    lines = CollectedLines()
    EventLogger(lines.write).log(request_ended(route='a"b\n' + "x" * 500))
    (line,) = lines.seen
    assert (line["event"], line["level"], line["id"], line["caller"]) == (
        "request",
        "INFO",
        "r-1",
        "anonymous",
    )
    assert (line["outcome"], line["target"], line["total_ms"]) == ("complete", "two/slow", 1500.0)
    assert [(row["target"], row["reason"]) for row in line["trail"]] == [
        ("one/fast", "http_530"),
        ("two/slow", "ok"),
    ]
    assert line["route"].startswith('a"b\n') and len(line["route"]) < 200
    assert lines.hurried == [False]


async def test_a_session(request_ended: Callable[..., RequestEnded]) -> None:
    """The line of a request names its session, by the digits that its browser was told; others have none."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    log.log(request_ended(session="0a1b2c3d"))
    log.log(request_ended())
    assert [line.get("session") for line in lines.seen] == ["0a1b2c3d", None]
    assert "session" not in lines.seen[1]


async def test_only_changes_of_the_cache() -> None:
    """A cache that is down for an hour says so once, and once more when it works again."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    for result in ["miss", "error", "error", "error", "hit", "miss"]:
        log.log(CacheLooked("chat", result))
    assert [line["works"] for line in lines.seen] == [False, True]


async def test_costs(request_ended: Callable[..., RequestEnded]) -> None:
    """A line says what its answer cost, and each try without one what it may have; without prices,
    neither."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    lost = AttemptRecord(
        "one/fast", 0.0, 0.2, "body_reset", usage=Usage(9, 1, 10, estimated=True), cost_usd=0.001
    )
    answer = AttemptRecord("two/slow", 0.2, 1.5, "ok", usage=Usage(10, 11, 21), cost_usd=0.25)
    log.log(request_ended(attempts=(lost, answer)))
    log.log(request_ended())
    priced, plain = lines.seen
    assert priced["cost_usd"] == 0.25
    assert (priced["trail"][0]["cost_usd"], priced["trail"][0]["tokens"]) == (0.001, [9, 1])
    assert "cost_usd" not in plain and not any("cost_usd" in row for row in plain["trail"])


async def test_health() -> None:
    """A target that begins to do badly is a warning; what follows is for the record."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    log.log(HealthChanged("one/fast", "healthy", "degraded"))
    log.log(HealthChanged("one/fast", "degraded", "unhealthy"))
    log.log(HealthChanged("one/fast", "unhealthy", "healthy"))
    log.log(Hedged("r-1", "chat", "one/fast", "probe"))  # stands in the trail
    assert [(line["level"], line["event"], line["target"], line["after"]) for line in lines.seen] == [
        ("WARNING", "health", "one/fast", "degraded"),
        ("INFO", "health", "one/fast", "unhealthy"),
        ("INFO", "health", "one/fast", "healthy"),
    ]


async def test_a_caller_that_a_target_fails_with() -> None:
    """The caller is named as in the lines of its requests, by its hash."""
    lines = CollectedLines()
    EventLogger(lines.write).log(CallerBarred("one/fast", "c4", "5 failures in a row"))
    (line,) = lines.seen
    assert (line["level"], line["event"], line["why"]) == ("WARNING", "caller_barred", "5 failures in a row")
    assert (line["target"], line["caller"]) == ("one/fast", "c4")


async def test_an_overload_does_not_flood_the_log() -> None:
    """Denied retries and lowered limits: a line a second for each provider, which says how many there
    were."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    for _ in range(40):
        log.log(BudgetSpent("one"))
        await asyncio.sleep(0.05)
    log.log(BudgetSpent("two"))
    log.log(LimitLowered("one", 40, 28, "http_429"))
    log.log(LimitLowered("one", 28, 19, "http_429"))
    said = [(line["event"], line["provider"], line["times"]) for line in lines.seen]
    assert said == [
        ("retry_denied", "one", 1),
        ("retry_denied", "one", 20),
        ("retry_denied", "two", 1),
        ("limit_lowered", "one", 1),
    ]
    assert {line["level"] for line in lines.seen} == {"WARNING"}
    assert (lines.seen[-1]["before"], lines.seen[-1]["after"], lines.seen[-1]["why"]) == (40, 28, "http_429")


async def test_security_events() -> None:
    """An attack is a line a second for each kind, with the last address and how many there were."""
    lines = CollectedLines()
    logger = EventLogger(lines.write)
    for number in range(30):
        logger.log(SecurityNoted(SecurityKind.BAD_KEY, f"203.0.113.{number}", "/v1/models"))
    logger.log(SecurityNoted(SecurityKind.ADMIN_REFUSED, "127.0.0.1", "/admin/cache/invalidate"))
    await asyncio.sleep(logs.REPEAT_EVERY_S)
    logger.log(SecurityNoted(SecurityKind.BAD_KEY, "203.0.113.99", "/v1/models"))

    assert [(line["event"], line["what"], line["who"], line["times"]) for line in lines.seen] == [
        ("security", "bad_key", "203.0.113.0", 1),
        ("security", "admin_refused", "127.0.0.1", 1),
        ("security", "bad_key", "203.0.113.99", 30),
    ]
    assert {line["level"] for line in lines.seen} == {"WARNING"}


async def test_a_long_path() -> None:
    """The path of a security event is the caller's own text: its line holds the beginning alone."""
    lines = CollectedLines()
    EventLogger(lines.write).log(SecurityNoted(SecurityKind.HOST_REFUSED, "203.0.113.1", "/" * 60_000))
    assert lines.seen[0]["where"] == "/" * 200


async def test_levels(request_ended: Callable[..., RequestEnded]) -> None:
    """Below the level nothing is written; what went wrong is written at once."""
    lines = CollectedLines()
    log = EventLogger(lines.write, Level.WARNING)
    log.log(request_ended())
    log.log(DrainBegan(3))
    log.log(BreakerChanged("one/fast", "open", "closed", "the probe succeeded"))
    log.log(request_ended(outcome=Outcome.CUT, code="stream_cut"))
    log.log(BreakerChanged("one/fast", "closed", "open", "5 failures in a row"))
    log.log(Crashed("r-1", "KeyError at gateway.py:1"))
    assert [(line["event"], line["level"]) for line in lines.seen] == [
        ("request", "WARNING"),
        ("breaker", "WARNING"),
        ("crash", "ERROR"),
    ]
    assert all(lines.hurried)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            pass


async def test_lines_wait_for_each_other(pipe: tuple[int, int]) -> None:
    """Ordinary lines go out together a little later; a pressing one takes the waiting ones along, in
    order."""
    reading, writing = pipe
    writer = LineWriter(writing)
    writer.write(b"one", at_once=False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    await asyncio.sleep(FLUSH_S * 2)
    assert os.read(reading, 100) == b"one\n"

    writer.write(b"two", at_once=False)
    writer.write(b"three", at_once=True)
    assert os.read(reading, 100) == b"two\nthree\n"


async def test_a_reader_who_stopped_reading(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe holds nobody up. Lines beyond the bound are lost, counted and owned up to; none is torn,
    though each takes more than one write."""
    monkeypatch.setattr(logs, "LINES_MAX", 50)
    reading, writing = pipe
    writer = LineWriter(writing)
    for i in range(150):
        writer.write(json.dumps({"i": i, "pad": "x" * 10_000}).encode(), at_once=True)

    received = b""
    while writer._lines or not received:
        received += os.read(reading, 3000)
        writer.flush()
    received += os.read(reading, 1_000_000)
    lines = [json.loads(line) for line in received.splitlines()]
    numbers = [line["i"] for line in lines if "i" in line]
    assert numbers == list(range(len(numbers)))
    (notice,) = [line for line in lines if line.get("event") == "log_lines_lost"]
    assert notice["lost"] + len(numbers) == 150
    writer.close()


async def test_a_long_line(pipe: tuple[int, int]) -> None:
    """A line longer than one write arrives whole, its pieces next to each other."""
    reading, writing = pipe
    writer = LineWriter(writing)
    writer.write(b"a" * 10_000, at_once=False)
    writer.write(b"b", at_once=True)
    assert os.read(reading, 65_536) == b"a" * 10_000 + b"\nb\n"


async def test_nobody_reads(pipe: tuple[int, int]) -> None:
    """A closed pipe is no reason to stop answering: the log falls silent, and no timer is left behind."""
    reading, writing = pipe
    os.close(reading)
    writer = LineWriter(writing)
    writer.write(b"one", at_once=True)
    writer.write(b"two", at_once=False)
    writer.close()
    assert not writer._lines


@given(
    st.dictionaries(
        st.from_regex(r"\Ax_[a-z]{1,8}\Z"), st.text() | st.integers() | st.lists(st.text()), max_size=4
    )
)
@settings(max_examples=60)
def test_no_value_forges_a_line_of_text(fields: dict[str, Any]) -> None:
    """In format `text` a line stays one line, and each value can be read back, whatever text it holds."""
    line = encode_text({"at": "2026-01-01T00:00:00Z", "level": "INFO", "event": "x", **fields})
    assert len(line.decode().split("\n")) == 1 and not re.search(rb"[\x00-\x1f]", line)
    read = line.decode().removeprefix("2026-01-01T00:00:00Z INFO x")
    for name, value in fields.items():
        assert read.startswith(f" {name}=")
        found, end = json.JSONDecoder().raw_decode(read[len(name) + 2 :])
        assert found == value
        read = read[len(name) + 2 + end :]
    assert not read


async def test_a_request_as_text(request_ended: Callable[..., RequestEnded]) -> None:
    """In format `text` a request is a line that begins with time, level and event."""
    seen: list[bytes] = []
    EventLogger(lambda line, *, at_once: seen.append(line), form="text").log(request_ended())
    assert re.match(rb'\S+ INFO request id="r-1" caller="anonymous" ', seen[0])


async def test_a_mistake_in_the_settings_is_told_once(attempt_ended: Callable[..., AttemptEnded]) -> None:
    """Of a thousand requests with a wrong key one warning is written, and one more after a reload."""
    lines = CollectedLines()
    log = EventLogger(lines.write)
    for reason in ["http_401"] * 1000 + ["http_530", "first_token_timeout", "http_429"]:
        log.log(attempt_ended(reason=reason))
    log.log(SettingsReloaded(True, ()))
    log.log(attempt_ended(reason="http_401"))
    told = [line for line in lines.seen if line["event"] != "settings"]
    assert [(line["level"], line["event"], line["reason"]) for line in told] == [
        ("WARNING", "check_settings", "http_401")
    ] * 2
    assert "key_env" in told[0]["what"]
