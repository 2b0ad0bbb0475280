"""The processes of a run, and what replaces a missing Toxiproxy."""

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from dub5.chaos.engines import find_toxiproxy as tools
from dub5.chaos.engines.http_endpoint import HttpEndpoint, http_session
from dub5.chaos.engines.processes import NotStarted
from dub5.chaos.engines.real_world import SIMULATORS, SIMULATORS_INSTEAD, RealEnvironment
from dub5.chaos.engines.simulator_admin import AdminRefused, SimulatorAdmin
from dub5.chaos.engines.stack import Urls, stack
from dub5.chaos.scenario.model import ScenarioFault, Topology

TOPOLOGY = Topology(timeouts={"total_s": 10.0})


def ignore(line: str) -> None:
    """Ignore the lines that are printed during the start."""


@pytest.mark.real_sockets
async def test_a_stack() -> None:
    """Simulators and service start, answer, fail over on a fault, keep a ledger, and are gone after the
    block."""
    seen: list[Path] = []

    async def proxy_hook(urls: Urls, folder: Path, exits: object) -> Urls:
        seen.append(folder)
        return urls

    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
    async with stack(TOPOLOGY, ignore, proxy_hook=proxy_hook) as running, http_session() as session:
        config = seen[0] / "service.toml"
        assert stat.S_ISREG(config.stat().st_mode), "who reads the settings again must not wait for ever"
        assert "total_s = 10.0" in config.read_text()
        endpoint, admin = (
            HttpEndpoint(session, running.url),
            SimulatorAdmin(session, running.admin, running.token),
        )
        await admin.set_fault("one", {"kind": "status", "status": 530})
        async with endpoint.chat(body, {}) as reply:
            assert 200 == reply.status
            assert reply.headers["x-dub5-target"].startswith("two/")
        assert [("one", ("status",)), ("two", ())] == [
            (line.provider, line.faults) for line in await admin.ledger()
        ]
        status = await endpoint.status()
        assert status is not None
        assert 1 == status["happened"]["failed_over"]
        with pytest.raises(AdminRefused, match="no provider"):
            await admin.clear_fault("nobody", "status")
        assert not running.dead()
    assert ["simulators", "service"] == [one.name for one in running.dead()]
    assert not config.exists()


@pytest.mark.real_sockets
async def test_a_stack_that_cannot_start() -> None:
    """The first process that cannot start is reported with its output, and the others are stopped."""
    with pytest.raises(NotStarted, match=r"simulators ended before it was ready(?s:.*)nonsense"):
        async with stack(Topology({"one": "nonsense"}), ignore):
            pass
    with pytest.raises(NotStarted, match=r"service ended before it was ready(?s:.*)first_token_s"):
        async with stack(Topology(timeouts={"first_token_s": -1.0}), ignore):
            pass


class RecordingAdmin:
    """An admin API that records its calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    async def set_fault(self, provider: str, fault: Mapping[str, object]) -> None:
        self.calls.append((provider, dict(fault)))

    async def clear_fault(self, provider: str, kind: str) -> None:
        self.calls.append((provider, kind))


@pytest.mark.parametrize(
    ("kind", "options", "by", "calls"),
    [
        (
            "reset_peer",
            {"timeout": 0},
            SIMULATORS_INSTEAD,
            [("two", {"kind": "reset", "before": "head"}), ("two", "reset")],
        ),
        (
            "latency",
            {"latency": 300},
            SIMULATORS_INSTEAD,
            [("two", {"kind": "stall", "before": "head", "s": 0.3}), ("two", "stall")],
        ),
        ("slicer", {"average_size": 10}, "", []),
        ("empty", {}, SIMULATORS, [("two", {"kind": "empty"}), ("two", "empty")]),
    ],
)
async def test_without_toxiproxy(kind: str, options: Mapping[str, int], by: str, calls: list[object]) -> None:
    """Without Toxiproxy, simulators play the nearest fault to a TCP fault, or none if it would show
    nothing."""
    admin = RecordingAdmin()
    world = RealEnvironment(None, admin, {}, [])  # type: ignore[arg-type]
    fault = ScenarioFault(0, 1, "two", kind, options, "")
    assert by == await world.apply(fault)
    await world.lift(fault)
    assert calls == admin.calls


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("status", {"status": 500}, {"kind": "status", "status": 500}),
        ("reset_peer", {"timeout": 0}, {"kind": "reset", "before": "head"}),
    ],
)
async def test_a_fault_that_follows_another(
    kind: str, options: Mapping[str, int], told: Mapping[str, object]
) -> None:
    """A fault that begins in the moment in which one of its kind ends is not lifted with it."""
    admin = RecordingAdmin()
    world = RealEnvironment(None, admin, {}, [])  # type: ignore[arg-type]
    first, second = (ScenarioFault(at_s, 1, "two", kind, options, "") for at_s in (0, 1))
    await world.apply(first)
    await world.apply(second)
    await world.lift(first)
    assert admin.calls == [("two", told)] * 2
    await world.lift(second)
    assert admin.calls[-1] == ("two", told["kind"])


class TestTools:
    def test_on_path_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server on PATH is preferred to one in the project's tools folder."""
        ours, theirs = (
            executable(tmp_path / "ours" / tools.NAME),
            executable(tmp_path / "theirs" / tools.NAME),
        )
        monkeypatch.setenv("PATH", str(theirs.parent))
        assert theirs == tools.find(ours.parent)
        monkeypatch.setenv("PATH", "")
        assert ours == tools.find(ours.parent)

    def test_no_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a server and without Go, the reason names both."""
        monkeypatch.setenv("PATH", "")
        found = tools.find_or_build(tmp_path)
        assert found.path is None
        assert "no Go" in found.why

    def test_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A built server is kept under its proper name, executable, and nothing else is left in the
        folder."""
        executable(tmp_path / "bin" / "go", 'echo "$@" > "$GOBIN/server"; chmod +x "$GOBIN/server"')
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        found = tools.find_or_build(tmp_path / "tools")
        assert found.path == tools.find(tmp_path / "tools") == tmp_path / "tools" / tools.NAME
        assert f"install {tools.PACKAGE}\n" == found.path.read_text()
        assert [found.path] == list((tmp_path / "tools").iterdir())

    def test_not_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the build fails, the last line that Go printed is the reason."""
        executable(tmp_path / "bin" / "go", 'echo "go: something"; echo "go: no network" >&2; exit 1')
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
        assert (
            "toxiproxy-server could not be built: go: no network"
            == tools.find_or_build(tmp_path / "tools").why
        )


def executable(path: Path, script: str = "true") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
