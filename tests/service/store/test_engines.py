"""SQLite and PostgreSQL keep the same promises."""

import importlib
from pathlib import Path

import pytest

from dub5 import service
from dub5.service.store import migrate
from dub5.service.store.base import Statement
from tests.support.database_contract import CONTRACT, Promise
from tests.support.databases import opened, scans

pytestmark = pytest.mark.real_sockets


def statements() -> list[Statement]:
    """Return every statement of the service: the constants of its modules `statements`."""
    root = Path(str(service.__file__)).parent
    modules = [
        importlib.import_module(".".join(("dub5.service", *path.relative_to(root).with_suffix("").parts)))
        for path in sorted(root.glob("*/statements.py"))
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Statement)]


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_contract(url: str, promise: Promise) -> None:
    """Each engine keeps each promise of the contract."""
    async with opened(url) as database:
        await promise(database)


async def test_no_statement_scans(url: str) -> None:
    """No statement of the service reads all turns or all conversations; one that does is found."""
    await migrate.up(url)
    for sql in ("SELECT id FROM turn WHERE question = $1", "DELETE FROM conversation WHERE title = $1"):
        assert await scans(url, Statement("slow", sql))
    assert await scans(url, Statement("slow", "SELECT t.id FROM turn AS t ORDER BY t.asked_at"))
    assert not await scans(url, Statement("quick", "SELECT id FROM turn WHERE conversation = $1 AND id < $2"))
    found = {statement.name: await scans(url, statement) for statement in statements()}
    assert {name: steps for name, steps in found.items() if steps} == {}
