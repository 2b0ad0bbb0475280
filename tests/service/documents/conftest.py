"""Tests of documents see the processes that they start, and no others."""

import pytest

from tests.support.odd_readers import forget_children


@pytest.fixture(autouse=True)
def _own_children() -> None:
    forget_children()
