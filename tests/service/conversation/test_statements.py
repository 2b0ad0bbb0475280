"""Nobody reads or changes what is another one's: the text of each statement, and what it does."""

import re
from collections.abc import Iterator

import pytest

from dub5.service.conversation import statements as ours
from dub5.simulators.virtual.database import VirtualStorage
from tests.support.conversation_statements import (
    END,
    FILLING,
    FOR_ALL_OWNERS,
    FOR_ITS_MAKER,
    ME,
    NOW,
    OWNED_TABLES,
    STRANGER,
    TABLES,
    TALK,
    TURN,
    VALUES,
    statements,
)
from tests.support.conversation_world import schema

OWNED = "|".join(OWNED_TABLES)
SQL_VALUES = re.compile(rf"INSERT INTO ({OWNED}) \(owner, .*\) VALUES \(\$1, ")  # its owner is who makes it
INNERMOST = re.compile(r"\(([^()]*)\)")
WHERE = re.compile(r"\bWHERE (.*?)(?= ORDER BY | LIMIT | RETURNING | ON CONFLICT |$)")


def scopes(sql: str) -> Iterator[str]:
    """Yield each part of a statement that stands in brackets, and the rest, with `#` for inner ones."""
    while (inner := INNERMOST.search(sql)) is not None:
        yield inner[1]
        sql = f"{sql[: inner.start()]}#{sql[inner.end() :]}"
    yield sql


def problem(sql: str) -> str | None:
    """Return which part of a statement would find what is another owner's, or None."""
    if SQL_VALUES.match(sql):
        return None
    for scope in scopes(sql):
        where = WHERE.search(scope)
        conjuncts = [] if where is None or " OR " in where[1] else where[1].split(" AND ")
        owned = re.findall(rf"\b(?:FROM|UPDATE|JOIN) ({OWNED})\b", scope)
        for table in owned:
            if not any(re.fullmatch(rf"({table[0]}\.)?owner = \$1", one) for one in conjuncts):
                return scope
        if (
            not owned
            and re.search(r"\b(FROM|UPDATE) turn\b", scope)
            and not any(re.fullmatch(r"(t\.)?conversation IN #", one) for one in conjuncts)
        ):
            return scope
        if re.search(r"\bJOIN turn\b", scope) and not re.search(
            r"JOIN turn t ON t\.conversation = (c|mine)\.id\b", scope
        ):
            return scope
    return None


def test_owners() -> None:
    """Each statement has the owner in its WHERE, and nothing beside it can make up for a wrong one."""
    known = {name: one for name, one in statements().items() if name not in FOR_ALL_OWNERS}
    assert len(known) >= 11
    assert {name: found for name, one in known.items() if (found := problem(one.sql))} == {}


def test_forgotten_owners() -> None:
    """A statement that forgets the owner, in any of its places, is found; so is one that says OR."""
    for name, statement in statements().items():
        if name in FOR_ALL_OWNERS:
            continue
        for place in re.finditer(r"(\w\.)?owner = \$1( AND )?", statement.sql):
            for instead in (
                "1 = 1" + (place[2] or ""),
                f"(owner = $1 OR 1 = 1){place[2] or ''}",
                f"{place[0]} OR ",
            ):
                changed = statement.sql[: place.start()] + instead + statement.sql[place.end() :]
                assert problem(changed) is not None, (name, changed)
        for place in re.finditer(r"(t\.)?conversation IN ", statement.sql):
            changed = statement.sql[: place.start()] + "id NOT IN " + statement.sql[place.end() :]
            assert problem(changed) is not None, (name, changed)


def filled() -> VirtualStorage:
    """Return tables with one conversation of mine, whose one turn is open, and one of somebody else."""
    storage = VirtualStorage(schema())
    for bound in FILLING:
        storage.rows(bound.statement.sql, *bound.values)
    return storage


def content(storage: VirtualStorage) -> list[object]:
    """Return all rows."""
    return [storage.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]


def test_all_are_tried() -> None:
    """The table of values has every statement."""
    assert set(VALUES) | FOR_ITS_MAKER | FOR_ALL_OWNERS == set(statements())


@pytest.mark.parametrize("name", VALUES)
def test_a_stranger(name: str) -> None:
    """A stranger who knows all ids reads nothing and changes nothing; the owner does."""
    sql = statements()[name].sql
    storage = filled()
    before = content(storage)
    assert storage.rows(sql, STRANGER, *VALUES[name]) == []
    assert content(storage) == before

    if name.endswith("_list_before"):
        table = name.removesuffix("_list_before")
        storage.rows(f"UPDATE {table} SET owner = $1, used_at = used_at + 1", ME)
        before = content(storage)
    if name == "turn_watched":
        storage.rows(statements()["turn_watch"].sql, ME, *VALUES["turn_watch"])
        before = content(storage)
    rows = storage.rows(sql, ME, *VALUES[name])
    assert rows or content(storage) != before


@pytest.mark.parametrize("name", sorted(VALUES))
def test_no_table_is_scanned(name: str) -> None:
    """Each statement finds its rows by an index."""
    storage = filled()
    plan = storage.rows("EXPLAIN QUERY PLAN " + statements()[name].sql, ME, *VALUES[name])
    steps = [str(step[-1]) for step in plan]
    scan = re.compile(rf"SCAN ({'|'.join(TABLES)}|worker|t|c|w|d|p|j)\b")
    assert not [step for step in steps if scan.match(step)], steps


@pytest.mark.parametrize(
    "name",
    [
        *("turn_ask", "turn_end", "turn_abandon", "turn_watch", "conversation_use", "conversation_rename"),
        *("job_stop", "job_renew", "job_advance", "job_fail", "job_release"),
        *("feedback_give_of_turn", "deck_add_part", "deck_take_over", "deck_keep_part"),
    ],
)
def test_written_twice(name: str) -> None:
    """A write whose answer was lost is sent again, and does no harm."""
    storage, sql = filled(), statements()[name].sql
    storage.rows(sql, ME, *VALUES[name])
    once = content(storage)
    again = storage.rows(sql, ME, *VALUES[name])
    assert content(storage) == once
    if name in ("turn_end", "job_advance", "job_fail"):
        assert [row[0] for row in again] == [TURN], "what has been kept is said to be kept"


def test_an_end_stays() -> None:
    """A turn that has ended does not end otherwise, and is not opened again."""
    storage = filled()
    storage.rows(ours.END.sql, ME, TALK, TURN, *END)
    once = content(storage)
    assert storage.rows(ours.END.sql, ME, TALK, TURN, "cut", *END[1:-1], NOW + 2) == []
    storage.rows(ours.ABANDON.sql, ME, TALK, TURN, NOW + 3, "w")
    assert (
        storage.rows(ours.ASK.sql, ME, TALK, "new", "asked", "Hi", 1, "estimate", "", "", "r", "w", NOW) == []
    )
    assert content(storage) == once


def test_a_worker_that_is_gone() -> None:
    """An open turn is cut once its worker is gone, and not before."""
    storage = filled()
    storage.rows("INSERT INTO worker VALUES ('w', $1)", NOW + 20)
    before = content(storage)
    storage.rows(ours.ABANDON.sql, ME, TALK, TURN, NOW + 19, "other")
    assert content(storage) == before
    storage.rows(ours.ABANDON.sql, ME, TALK, TURN, NOW + 21, "other")
    (row,) = storage.rows("SELECT state, outcome FROM turn WHERE id = $1", TURN)
    assert row == ("ended", "cut")
