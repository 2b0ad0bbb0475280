"""The simulation: worlds hold, repeat exactly, and can be saved and run again."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from dub5 import cli
from dub5.chaos.simulation import invariants, summary
from dub5.chaos.simulation.batch import Total, run_seed
from dub5.chaos.simulation.invariants.coverage import REQUIRED
from dub5.chaos.simulation.invariants.rules import SENTENCES
from dub5.chaos.simulation.run import run_world
from dub5.chaos.simulation.world import model as worlds
from dub5.chaos.simulation.world.generate import generate_world
from tests.simulation.digests import digests

SEEDS = (14, 22)  # quick ones; `nox -s simulate` plays many more
played = cache(run_seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_worlds_hold(seed: int) -> None:
    """Every invariant holds in generated worlds."""
    assert not played(seed).violations


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    """A seed gives the same events and loop steps in processes that hash strings differently."""
    code = f"from {digests.__module__} import digests; print(digests(12))"
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True
    ) as other:
        said = digests(12)
        assert other.stdout is not None and other.stdout.read() == f"{said}\n"


def test_another_seed_is_another_run() -> None:
    """Different seeds give different digests."""
    one, other = (replace(generate_world(seed), kept=((0, 20),)) for seed in (5, 22))
    assert run_world(one).digest != run_world(other).digest


def test_a_world_that_was_kept_plays_as_it_did(tmp_path: Path) -> None:
    """A world that is written to a file and read again gives the same trace."""
    world = replace(generate_world(22), kept=((10, 60), (70, 70)))
    worlds.write(world, tmp_path / "world.json")
    again = worlds.read(tmp_path / "world.json")
    assert again == world
    assert run_world(again).digest == run_world(world).digest


def test_a_world_with_people_plays_as_it_did(tmp_path: Path) -> None:
    """A world with people, database faults and a crash can be saved, and gives the same trace each time."""
    world = next(world for seed in range(400) if (world := generate_world(seed)).crash and world.database)
    world = replace(world, kept=((0, 20),), rest_s=5.0)
    worlds.write(world, tmp_path / "world.json")
    again = worlds.read(tmp_path / "world.json")
    assert again == world
    assert run_world(again).digest == run_world(world).digest


def test_a_branch_that_was_never_taken_is_a_failure() -> None:
    """Required branches that were never reached are reported; one world cannot reach all."""
    total = Total()
    assert total.never() == list(REQUIRED)
    total.add(played(22))
    assert 0 < len(total.never()) < len(REQUIRED)


def test_every_rule_is_listed() -> None:
    """The table in invariants/__init__.py lists every rule, with the files that check it."""
    folder = Path(invariants.__file__).parent
    checked_in: dict[str, set[str]] = {}
    for file in folder.glob("*.py"):
        for rule in re.findall(r"violated\(\s*\"(\w+)\"", file.read_text()):
            checked_in.setdefault(rule, set()).add(file.stem)
    table = re.findall(r"^    (\w+) +((?:\w+, )*\w+)  ", invariants.__doc__ or "", re.MULTILINE)
    assert {rule: set(files.split(", ")) for rule, files in table if rule != "rule"} == checked_in


def test_a_failure_is_told_with_its_world_made_smaller_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failing world is reported with the broken rule, its events and the command, and a smaller world that
    fails too is saved."""
    mutant = "tests.simulation.mutants:retry_after_ignored"
    arguments = [
        "simulate",
        "--seed",
        "13",
        "--mutant",
        mutant,
        "--shrink",
        "0.7",
        "--reports",
        str(tmp_path),
    ]
    assert cli.main(arguments) == 1
    said = capsys.readouterr().out
    assert "retry_after_respected" in said or "final_refusal_respected" in said
    assert "world 13: " in said and "VIOLATED" in said and "fault windows, " in said
    assert "dub5 simulate --seed 13" in said
    kept = worlds.read(tmp_path / "world-13.json")
    assert len(kept.troubles) < len(generate_world(13).troubles)
    assert str(tmp_path / "world-13.json") in said.replace("\n", "")


def test_one_world_has_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one world says that every invariant held, as a run of many does."""
    assert cli.main(["simulate", "--seed", "14"]) == 0
    assert "every invariant held" in capsys.readouterr().out


def test_a_world_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing world file is named, with exit code 2."""
    assert cli.main(["simulate", "--world", "nope.json"]) == 2
    assert capsys.readouterr().err == "nope.json does not exist\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """`dub5 simulate --help` shows example commands."""
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    assert "dub5 simulate --seed 17" in capsys.readouterr().out


def test_many_worlds_give_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    """A run of several worlds prints counts, outcomes and the largest measurements."""
    assert cli.main(["simulate", "--seeds", "2", "--from", "22", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 worlds" in said and "requests/s" in said and "every invariant held" in said
    taken = re.search(
        r"but 2 worlds took (\d+) of (\d+) required branches; nothing is proven about: (.+)", said
    )
    assert taken is not None and int(taken[1]) < int(taken[2]) == len(REQUIRED)
    assert "`dub5 simulate` (200 worlds) must take them all" in said


def test_a_failure_begins_with_the_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure begins with the sentence of the rule that broke, then three examples of it."""
    world = generate_world(22)
    broken = tuple(f"drain_in_time at {i} s: late" for i in range(5)) + (
        "honest_end at 9 s: [half] an answer",
    )
    summary.failure(
        replace(played(22), violations=broken), world, "dub5 simulate --seed 22", Console(width=120)
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"BROKEN: {SENTENCES['drain_in_time']}"
    assert [line.strip() for line in lines[2:6]] == [*broken[:3], "and 2 more"]
    assert lines[6:8] == [f"BROKEN: {SENTENCES['honest_end']}", "  honest_end at 9 s: [half] an answer"]


def test_each_rule_has_a_sentence() -> None:
    """Each invariant has a sentence that a failure can begin with, and no other name has one."""
    table = re.findall(r"^    (\w+) +(?:\w+, )*\w+  ", invariants.__doc__ or "", re.MULTILINE)
    assert set(SENTENCES) == set(table) - {"rule"}
