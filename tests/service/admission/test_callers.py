"""Who asks, and how much that matters when there is not room for all."""

import pytest

from dub5.service.admission.admission import Callers
from dub5.service.config.settings import Secret
from dub5.service.errors import Unauthorized
from dub5.service.model import ANONYMOUS, Priority

KEYS = (Secret("web"), Secret("batch"), Secret("tests"))
VARIABLES = ("KEY_WEB", "KEY_BATCH", "KEY_TESTS")


def of(key: str, **priorities: str) -> Priority:
    return Callers(KEYS, VARIABLES, priorities).identify(f"Bearer {key}").priority


def test_by_the_variable_of_the_key() -> None:
    """Each caller has the class of its key; a key that is not named has the class of "others", else
    normal."""
    assert of("web", KEY_WEB="high", others="low") is Priority.HIGH
    assert of("tests", KEY_WEB="high", others="low") is Priority.LOW
    assert of("tests", KEY_WEB="high") is Priority.NORMAL


def test_no_keys() -> None:
    """Without keys all callers are anonymous, and equal."""
    assert Callers(()).identify("") is ANONYMOUS


def test_unknown() -> None:
    """A key that is not known has no class at all."""
    with pytest.raises(Unauthorized):
        of("guess", others="high")
