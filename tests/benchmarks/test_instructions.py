"""What the instruction counter makes of a profile, and when it calls a case more expensive."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.instructions import PYTHON, Counts, NotCounted, per_request, problems, ratios, table
from benchmarks.instructions_driver import BARE, CASES, REQUESTS

OLD = Counts("Python 3.13.0", {"json": 600.0, "json_cached": 500.0, "bare json": 300.0})


def part(total: int) -> str:
    return f"version: 1\npart: 1\nevents: Ir\nfn=(1) main\n12 999\ntotals: {total}\n"


def parts(*per_case: int) -> list[str]:
    """A profile as callgrind cuts it: the time before each batch is a part, too, and far dearer."""
    return [part(total) for each in per_case for total in (9_000_000, each * REQUESTS)]


def with_costs(**changed: float) -> Counts:
    return replace(OLD, instructions={**OLD.instructions, **changed})


def test_batches_are_read() -> None:
    """Only the parts of the batches count, each divided by its requests; a chunk is (long - short) / 50."""
    counts = per_request(parts(100, 90, 7000, 95, 2000, 50, 1100, 600, 30))
    assert counts["json"] == 100
    assert counts["json_cached"] == 90
    assert counts["chunk"] == 100
    assert counts["telemetry"] == 30
    assert counts["bare json"] == 50
    assert counts["bare chunk"] == 10


@pytest.mark.parametrize("cut", [parts(*[1] * (len(CASES) - 1)), [], ["no totals"] * 2 * len(CASES)])
def test_a_profile_that_was_not_cut(cut: list[str]) -> None:
    """A profile without a part for each batch is an error, never a number."""
    with pytest.raises(NotCounted, match="batches"):
        per_request(cut)


@pytest.mark.parametrize(
    ("json_now", "fails"), [(600.0, False), (605.9, False), (606.1, True), (500.0, False)]
)
def test_tolerance(json_now: float, fails: bool) -> None:
    """A case that costs more than the tolerance is named; one that is cheaper or within it is not."""
    found = problems(OLD, with_costs(json=json_now), 1.0)
    assert [sentence.split()[0] for sentence in found] == (["json"] if fails else [])


def test_the_yardstick_is_not_judged() -> None:
    """A bare route that costs more is shown, and is no fault of the service."""
    dearer = with_costs(**{"bare json": 400.0})
    assert ratios(OLD, dearer)["bare json"] == pytest.approx(4 / 3)
    assert problems(OLD, dearer, 1.0) == []


def test_a_case_that_is_gone() -> None:
    """A case that is no longer counted fails: it would hide its cost."""
    only_json = replace(OLD, instructions={"json": 600.0, "bare json": 300.0})
    assert problems(OLD, only_json, 1.0) == ["json_cached is no longer counted"]
    assert problems(only_json, OLD, 1.0) == [], "a new case has nothing to be compared with"


def test_other_versions() -> None:
    """Between two versions of Python the multiples of the bare route are compared, and the table says so."""
    twice = Counts("Python 3.11.0", {name: 2 * count for name, count in OLD.instructions.items()})
    assert ratios(OLD, twice) == {"json": 1.0, "json_cached": 1.0, "bare json": 1.0}
    assert "before: Python 3.13.0" in table(twice, OLD)
    assert "before: Python" not in table(OLD, OLD)
    dearer = replace(twice, instructions={**twice.instructions, "json": 1300.0})
    assert len(problems(OLD, dearer, 1.0)) == 1


def test_telemetry_is_a_multiple_of_bare_json() -> None:
    """The part that has no bare route of its own is compared with the JSON one, between versions too."""
    counts = Counts("Python 3.13.0", {"telemetry": 150.0, "bare json": 300.0})
    assert counts.multiple("telemetry") == 0.5
    assert "telemetry" in table(counts, replace(counts, made_with="Python 3.11.0"))


def command(monkeypatch: pytest.MonkeyPatch, now: Counts, *arguments: str) -> int:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(instructions, "counted", lambda root: now)
    monkeypatch.setattr(sys, "argv", ["instructions", *arguments])
    return instructions.main()


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--compare reads what --out wrote: 0 for the same cost, 1 for more, 2 for a file of another kind."""
    file = tmp_path / "counts.json"
    assert command(monkeypatch, OLD, "--out", str(file)) == 0
    assert json.loads(file.read_text()) == {PYTHON: asdict(OLD)}
    assert command(monkeypatch, OLD, "--compare", str(file)) == 0
    assert command(monkeypatch, with_costs(json=700.0), "--compare", str(file)) == 1
    assert command(monkeypatch, with_costs(json=700.0), "--compare", str(file), "--tolerance", "20") == 0
    file.write_text("[1]")
    assert command(monkeypatch, OLD, "--compare", str(file)) == 2


def test_each_python_has_its_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts of another version of Python stay in the file, and are no measure for this one."""
    file = tmp_path / "counts.json"
    file.write_text(json.dumps({"2.7": asdict(OLD)}))
    dearer = with_costs(json=700.0)
    assert command(monkeypatch, dearer, "--compare", str(file)) == 0
    assert "NOT COMPARED" in capsys.readouterr().out
    assert command(monkeypatch, dearer, "--out", str(file)) == 0
    assert set(json.loads(file.read_text())) == {"2.7", PYTHON}


def test_without_valgrind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what to install."""
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(sys, "argv", ["instructions"])
    assert instructions.main() == 2
    assert "apt install valgrind" in capsys.readouterr().err


def test_more_is_tolerated_with_other_versions() -> None:
    """The same code counted with another Python differs by some percent; more than that is a problem."""
    old = Counts("Python 3.11", {"json": 200.0, f"{BARE}json": 100.0})
    for cost, count in ((211.0, 0), (213.0, 1)):
        new = Counts("Python 3.13", {"json": cost, f"{BARE}json": 100.0})
        assert len(problems(old, new, 1.0)) == count
