"""The rule on rate limits: when a client may be blocked."""

from dub5.chaos.simulation.invariants.rate_limits import Blocks
from dub5.service.config.options import LimitsOptions


def test_a_block_begins_with_the_strike_that_is_one_too_many() -> None:
    """A refusal may name a block from the last strike on, and no longer than a block lasts."""
    blocks = Blocks(LimitsOptions(strikes=2, block_s=0.5, block_max_s=1.0), [10.0, 20.0])
    assert not blocks.may_be_on(10.0)
    assert not blocks.may_be_on(19.9)
    assert blocks.may_be_on(20.0)
    assert blocks.may_be_on(20.9)
    assert not blocks.may_be_on(21.1)
