"""The simulation itself: it holds, it repeats, and what it says can be played again."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from dub5 import cli
from dub5.chaos.simulation.batch import Total, run_seed
from dub5.chaos.simulation.invariants.coverage import REQUIRED
from dub5.chaos.simulation.run import run_world
from dub5.chaos.simulation.world import model as worlds
from dub5.chaos.simulation.world.generate import generate_world
from dub5.simulators.virtual import Trace

SEEDS = (14, 22)  # quick ones; `nox -s simulate` plays many more
played = cache(run_seed)


def digests(seed: int) -> str:
    """Of the events, and of each step of the loop."""
    steps, world = Trace(), replace(generate_world(seed), kept=((0, 80),), rest_s=5.0)
    return f"{run_world(world, on_step=steps).digest} {steps.digest()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_worlds_hold(seed: int) -> None:
    """Every promise is kept in worlds drawn at random."""
    assert not played(seed).violations


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed() -> None:
    """Every step of the loop and every event, in two processes that hash strings differently."""
    code = f"from {__name__} import digests; print(digests(12))"
    environ = {**os.environ, "PYTHONHASHSEED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True
    ) as other:
        said = digests(12)
        assert other.stdout is not None and other.stdout.read() == f"{said}\n"


def test_another_seed_is_another_run() -> None:
    """Or the digest would prove nothing."""
    one, other = (replace(generate_world(seed), kept=((0, 20),)) for seed in (5, 22))
    assert run_world(one).digest != run_world(other).digest


def test_a_world_that_was_kept_plays_as_it_did(tmp_path: Path) -> None:
    """A world is data: written to a file and read again it gives the same trace."""
    world = replace(generate_world(22), kept=((10, 60), (70, 70)))
    worlds.write(world, tmp_path / "world.json")
    again = worlds.read(tmp_path / "world.json")
    assert again == world
    assert run_world(again).digest == run_world(world).digest


def test_a_branch_that_was_never_taken_is_a_failure() -> None:
    """One world alone cannot have shown everything."""
    total = Total()
    assert total.never() == list(REQUIRED)
    total.add(played(22))
    assert 0 < len(total.never()) < len(REQUIRED)


def test_a_failure_is_told_with_its_world_made_smaller_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of a broken build: what broke, the last events, the command, and a smaller world that fails too."""
    mutant = "tests.simulation.mutants:retry_after_ignored"
    arguments = [
        "simulate",
        "--seed",
        "28",
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
    assert "world 28: " in said and "VIOLATED" in said
    assert "dub5 simulate --seed 28" in said
    kept = worlds.read(tmp_path / "world-28.json")
    assert len(kept.troubles) < len(generate_world(28).troubles)
    assert str(tmp_path / "world-28.json") in said.replace("\n", "")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """`dub5 simulate --help` shows what one would type."""
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    assert "dub5 simulate --seed 17" in capsys.readouterr().out


def test_many_worlds_give_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, outcomes and the worst times of all of them."""
    assert cli.main(["simulate", "--seeds", "2", "--from", "22", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 worlds" in said and "requests/s" in said and "every promise was kept" in said
