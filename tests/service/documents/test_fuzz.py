"""Files that were good, and were changed by chance. `nox -s fuzz_documents` reads 10,000 of them."""

import os

import pytest

from dub5.service.documents.refusals import REFUSALS
from tests.experiments.fuzz_documents import READ, play
from tests.support.odd_readers import memory_kib, new_children

pytestmark = pytest.mark.real_sockets


@pytest.mark.parametrize("first, count", [(1, 150), pytest.param(1_000, 5_000, marks=pytest.mark.thorough)])
def test_mutated_files(first: int, count: int) -> None:
    """Each mutated file is read or refused in one sentence; no process ends, and this one does not grow."""
    before = memory_kib(os.getpid())
    found = dict(play(first, first + count))
    assert list(found) == list(range(first, first + count))
    assert {seed: result for seed, result in found.items() if result not in (READ, *REFUSALS)} == {}
    assert len(set(found.values())) >= 5, "the files differ"
    assert not new_children()
    assert memory_kib(os.getpid()) < 1.1 * before
