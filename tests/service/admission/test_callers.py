"""Who asks, and how much that matters when there is not room for all."""

import pytest

from dub5.service.admission.admission import Callers, bearer_key
from dub5.service.config.settings import Secret
from dub5.service.model import Priority

KEYS = (Secret("web"), Secret("batch"), Secret("tests"))
VARIABLES = ("KEY_WEB", "KEY_BATCH", "KEY_TESTS")


def of(key: str, **priorities: str) -> Priority:
    caller = Callers(KEYS, VARIABLES, priorities).find(key)
    assert caller is not None
    return caller.priority


def test_by_the_variable_of_the_key() -> None:
    """Each caller has the class of its key; a key that is not named has the class of "others", else
    normal."""
    assert of("web", KEY_WEB="high", others="low") is Priority.HIGH
    assert of("tests", KEY_WEB="high", others="low") is Priority.LOW
    assert of("tests", KEY_WEB="high") is Priority.NORMAL


def test_no_keys() -> None:
    """Without keys nobody needs one."""
    assert not Callers(()).have_keys
    assert Callers(KEYS).have_keys


def test_unknown() -> None:
    """A key that is not known has no class at all."""
    assert Callers(KEYS, VARIABLES, {"others": "high"}).find("guess") is None


@pytest.mark.parametrize(
    ("authorization", "key"),
    [("Bearer a", "a"), ("bearer  a ", "a"), ("Basic a", ""), ("Bearer", ""), ("", ""), ("a", "")],
)
def test_bearer_key(authorization: str, key: str) -> None:
    """A key comes as a bearer token alone."""
    assert bearer_key(authorization) == key
