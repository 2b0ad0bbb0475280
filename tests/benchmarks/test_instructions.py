"""What the instruction counter makes of a profile, when it calls a case dearer, and how a base moves."""

import csv
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.instructions import (
    BASE,
    COLUMNS,
    HISTORY,
    Counts,
    NotCounted,
    exported,
    problems,
    read_counts,
    table,
)
from benchmarks.instructions_driver import KERNEL_CALLS, REQUESTS, Counter, RunCase, SteadyLoop
from benchmarks.instructions_kernels import KERNELS
from benchmarks.instructions_requests import REQUEST_CASES

OLD = Counts({"json": 600.0, "sse": 50.0}, {"order": "ImportError: no order"})
UNKNOWN = "0" * 40


def part(total: int) -> str:
    return f"version: 1\npart: 1\nevents: Ir\nfn=(1) main\n12 999\ntotals: {total}\n"


def with_costs(**changed: float) -> Counts:
    return Counts({**OLD.instructions, **changed}, {})


class TestProfile:
    def test_batches_are_read(self) -> None:
        """Only the parts of the cases count, each divided by its calls, and not what is between them."""
        parts = [part(total) for total in (9_000_000, 100 * REQUESTS, 8_000_000, 7 * KERNEL_CALLS)]
        counts = read_counts({"json": "", "order": "TypeError: f()", "sse": ""}, parts)
        assert counts == Counts({"json": 100.0, "sse": 7.0}, {"order": "TypeError: f()"})

    @pytest.mark.parametrize("parts", [[], [part(1)] * 2, [part(1)] * 3, ["no totals"] * 4])
    def test_a_profile_that_was_not_cut(self, parts: list[str]) -> None:
        """A profile without two parts for each case is an error, never a number."""
        with pytest.raises(NotCounted, match="for 2 cases"):
            read_counts({"json": "", "sse": ""}, parts)

    def test_nothing_was_counted(self) -> None:
        """A checkout in which no case runs is an error: it would pass as one where all are new."""
        with pytest.raises(NotCounted):
            read_counts({"json": "ImportError: x"}, [])


class TestVerdict:
    @pytest.mark.parametrize(
        ("json_now", "fails"), [(600.0, False), (611.9, False), (612.1, True), (618.0, True), (500.0, False)]
    )
    def test_tolerance(self, json_now: float, fails: bool) -> None:
        """A case that costs over 2 % more is named; one that is cheaper, or within it, is not."""
        found = problems(OLD, with_costs(json=json_now))
        assert [sentence.split()[0] for sentence in found] == (["json"] if fails else [])

    def test_a_step_alone(self) -> None:
        """A step that costs more fails, though no request shows it."""
        assert problems(OLD, with_costs(sse=52.0)) == ["sse costs 4.00 % more; 2 % is tolerated"]

    def test_a_new_case(self) -> None:
        """What the old commit does not have is no fault, and the table says why there is no number for it."""
        new = with_costs(order=70.0)
        assert problems(OLD, new) == []
        assert "new" in table(OLD, new)
        assert "ImportError: no order" in table(OLD, new)

    def test_a_case_that_is_gone(self) -> None:
        """A case that runs no more fails: it would hide its cost."""
        gone = Counts({"json": 600.0}, {"sse": "TypeError: feed()"})
        assert problems(OLD, gone) == ["sse cannot be counted any more: TypeError: feed()"]


def command(monkeypatch: pytest.MonkeyPatch, before: Counts, after: Counts, *arguments: str) -> int:
    """Run the command with these counts, and without valgrind and git."""

    def files(commit: str) -> AbstractContextManager[Path]:
        return nullcontext(Path("of", commit))

    monkeypatch.setattr(instructions, "count_both", lambda *checkouts: (before, after))
    monkeypatch.setattr(instructions, "exported", files)
    monkeypatch.setattr(sys, "argv", ["instructions", *arguments])
    return instructions.main()


class TestCommand:
    def test_noise(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """What costs more once is counted again, and the lower counts are compared."""
        counts = [(OLD, with_costs(json=618.0)), (OLD, with_costs(sse=60.0))]
        monkeypatch.setattr(instructions, "count_both", lambda *checkouts: counts.pop(0))
        assert instructions.compare(tmp_path) == 0
        counts += [(with_costs(json=650.0), with_costs(json=664.0)), (OLD, with_costs(json=618.0))]
        assert instructions.compare(tmp_path) == 1, "an older commit that was counted too high hides nothing"

    def test_exit_codes(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """0 for the same cost, 1 for more, with what to do."""
        for arguments in ((), ("--checkout", "before")):
            assert command(monkeypatch, OLD, with_costs(), *arguments) == 0
            assert command(monkeypatch, OLD, with_costs(json=618.0), *arguments) == 1
            said = capsys.readouterr().out
            assert "json costs 3.00 % more" in said
            assert "--move-base" in said

    def test_without_valgrind(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """Exit code 2, and what to install."""
        monkeypatch.setattr(shutil, "which", lambda program: None)
        monkeypatch.setattr(sys, "argv", ["instructions", "--checkout", str(tmp_path)])
        assert instructions.main() == 2
        assert "apt install valgrind" in capsys.readouterr().err

    def test_a_clone_without_the_base(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A commit that is not in the clone, or a folder without a repository, is told with what to do."""
        with pytest.raises(NotCounted, match=r"git fetch --unshallow"), exported(UNKNOWN):
            pass
        monkeypatch.setattr(shutil, "which", lambda program: None)
        with pytest.raises(NotCounted, match=r"git is not on PATH[^$]*--checkout DIR"), exported(UNKNOWN):
            pass

    def test_no_base(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Without the file there is nothing to compare with, and that is no pass."""
        monkeypatch.setattr(instructions, "BASE", tmp_path / "BASE")
        assert command(monkeypatch, OLD, OLD) == 2

    def test_the_base_moves(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Commit and counts of before and after are written together; an older line stays."""
        monkeypatch.setattr(instructions, "ROOT", tmp_path)
        monkeypatch.setattr(instructions, "BASE", tmp_path / "BASE")
        monkeypatch.setattr(instructions, "HISTORY", tmp_path / "history.csv")
        monkeypatch.setattr(instructions, "git", lambda *arguments: b"abc\n")
        for json_now in (600.4, 700.0):
            assert command(monkeypatch, OLD, with_costs(json=json_now, order=70.0), "--move-base") == 0
        rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
        assert (tmp_path / "BASE").read_text() == "abc\n"
        found = [(row["case"], row["before"], row["after"]) for row in rows]
        assert found[:3] == [("json", "600", "600"), ("sse", "50", "50"), ("order", "", "70")]
        assert found[3] == ("json", "600", "700")

    def test_a_base_that_lacks_a_case(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """What cannot be counted cannot be a base."""
        monkeypatch.setattr(instructions, "BASE", tmp_path / "BASE")
        monkeypatch.setattr(instructions, "git", lambda *arguments: b"abc\n")
        assert command(monkeypatch, OLD, Counts({"json": 1.0}, {"sse": "gone"}), "--move-base") == 2
        assert not (tmp_path / "BASE").exists()


def test_the_history_ends_with_the_base() -> None:
    """The base has not moved without its counts: benchmarks/BASE is the commit of the last lines."""
    rows = list(csv.DictReader(HISTORY.read_text().splitlines()))
    last = [row for row in rows if row["commit"] == rows[-1]["commit"]]
    assert tuple(rows[0]) == COLUMNS
    assert BASE.read_text().strip() == rows[-1]["commit"]
    assert {"json", "json cached", "stream", "stream cached", "failover", "json guarded"} <= {
        row["case"] for row in last
    }
    assert all(int(row["after"]) > 0 for row in rows)


class TestDriver:
    def test_every_case_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each request gets the kind of answer that its case is named for, and each kernel can be called."""
        monkeypatch.setattr("benchmarks.instructions_driver.REQUESTS", 2)
        monkeypatch.setattr("benchmarks.instructions_driver.KERNEL_CALLS", 2)
        monkeypatch.setattr("benchmarks.instructions_driver.QUIET_S", 0.0)
        loop = SteadyLoop()
        counter = Counter(loop)
        try:
            loop.run_until_complete(counter.count_all(lambda: None))
        finally:
            loop.close()
        names = [*(case.name for cases in REQUEST_CASES.values() for case in cases), *KERNELS]
        assert counter.reasons == dict.fromkeys(names, "")
        assert len(counter.reasons) == len(names), "each has a name of its own"

    def test_what_old_code_lacks(self) -> None:
        """A case whose names are not there is left out with the reason, and the next one is counted."""
        loop = SteadyLoop()
        counter = Counter(loop)

        def lacking() -> RunCase:
            raise ImportError("cannot import name 'order'")

        async def run(count: int) -> None:
            assert count == 3

        try:
            loop.run_until_complete(counter.count("order", lacking, 3))
            loop.run_until_complete(counter.count("sse", lambda: run, 3))
        finally:
            loop.close()
        assert counter.reasons == {"order": "ImportError: cannot import name 'order'", "sse": ""}

    def test_time_stands_still(self) -> None:
        """No timer is due, and no second is over, while calls are counted."""
        loop = SteadyLoop()
        with loop.standing_still():
            assert loop.time() == loop.time()
        assert loop.time() < loop.time()
        loop.close()
