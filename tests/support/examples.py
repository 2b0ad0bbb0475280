"""How many examples a property gets, by the profile of this run."""

from typing import Any

from hypothesis import settings

USUAL = 100  # what a property has that asks for no number


def examples(count: int, **more: Any) -> settings:
    """Return settings for `count` examples in relation to the usual 100: 40 %, or 400 % with `--thorough`."""
    return settings(max_examples=max(1, count * settings.default.max_examples // USUAL), **more)
