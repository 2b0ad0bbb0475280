"""Ids of conversations and turns."""

import asyncio
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dub5.service.ids import AFTER_ALL, Ids, is_id


async def test_ids() -> None:
    """Ids grow with time, within a millisecond, and when the clock is set back; their form is known."""
    ids = Ids(Random(1))
    made = [ids.new() for _ in range(1_000)]
    asyncio.get_running_loop().jump_wall(-3_600)  # type: ignore[attr-defined]  # the virtual loop
    made += [ids.new() for _ in range(10)]
    asyncio.get_running_loop().jump_wall(7_200)  # type: ignore[attr-defined]  # the virtual loop
    made.append(ids.new())
    assert made == sorted(set(made))
    assert all(is_id(one) for one in made)
    assert made[-1] < AFTER_ALL


@given(st.text(max_size=30))
def test_other_texts(text: str) -> None:
    """No other text is taken for an id."""
    assert not is_id(text) or (len(text) == 26 and text.isascii() and text.upper() == text)


def test_forms() -> None:
    """Lower case, letters that the alphabet lacks, other lengths and a line end are refused."""
    good = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert is_id(good)
    for bad in (
        good.lower(),
        good[:-1],
        good + "0",
        good[:-1] + "U",
        "8" + good[1:],
        good + "\n",
        "",
        "\0" * 26,
    ):
        assert not is_id(bad)
