"""The processor time of a turn of a conversation, as a multiple of its parts: a request, and bare calls."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.conftest import BudgetGate
from benchmarks.conversations import CONVERSATIONS, ConversationBench
from benchmarks.paired import best_within
from tests.support.postgres import postgres_server

BATCH = 64
READINGS = 20
HISTORY = 100  # turns of each conversation


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ConversationBench]]:
    """The name of a database, and a service over it with long conversations."""
    name: str = request.param
    if name == "sqlite":
        with _filled(f"sqlite:///{tmp_path_factory.mktemp('turns') / Path('turns.db')}") as bench:
            yield name, bench
    else:
        with postgres_server() as server, _filled(server.new_database()) as bench:
            yield name, bench


def _filled(url: str) -> ConversationBench:
    return ConversationBench(url)


@pytest.mark.parametrize("together", [1, BATCH], ids=lambda count: f"{count}_at_a_time")
def test_a_turn(engine: tuple[str, ConversationBench], together: int, gate: BudgetGate) -> None:
    """A turn costs no more than its budgeted multiple of what it asks the gateway and a bare database."""
    name, bench = engine
    case = f"turn_{name}" if together == 1 else f"turns_{name}"
    turns, parts = bench.turns(BATCH, together=together), bench.parts(BATCH, together=together)
    gate.check(case, best_within(turns, parts, gate.budget(case)), BATCH)


def test_reading(engine: tuple[str, ConversationBench], gate: BudgetGate) -> None:
    """To read a history of 100 turns costs no more than its budgeted multiple of a bare database's."""
    name, bench = engine
    bench.turns(CONVERSATIONS * HISTORY, together=CONVERSATIONS)()
    case = f"reading_to_table_{name}"
    ratio = best_within(bench.readings(READINGS), bench.bare_readings(READINGS), gate.budget(case))
    gate.check(case, ratio, READINGS)
