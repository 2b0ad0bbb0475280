"""The database in virtual time keeps the promises of the real ones."""

import random

import pytest

from dub5.service.store.migrate import sqlite_schema
from dub5.simulators.virtual import VirtualDatabase, run
from tests.support.database_contract import CONTRACT, Promise


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(promise: Promise) -> None:
    """It keeps each promise of the contract."""
    run(promise(VirtualDatabase(sqlite_schema(), random.Random(0))))
