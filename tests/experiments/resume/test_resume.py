"""The resume chatbot against readers and liars: what is told, and what is not."""

import pytest

from dub5.service.grounding import check
from dub5.service.grounding.number_rules import keeps_names_in_order  # tests/service/grounding/test_check.py
from dub5.service.grounding.rules import RULES, CheckRule
from tests.experiments.resume.page import PAGE, page
from tests.experiments.resume.play import play, review
from tests.experiments.resume.questions import HELD_OUT, REVIEWED
from tests.experiments.resume.speakers import HONEST, LIARS


@pytest.mark.parametrize("name", LIARS)
def test_liars(name: str) -> None:
    """No false statement of a liar is told, whatever the question is."""
    for one in play(name):
        assert one.shown(true=False) == 0, (one.question.question, one.told)


@pytest.mark.parametrize("name", HONEST)
def test_honest_readers(name: str) -> None:
    """What an honest reader says is told, with each fact; what is not in the resume is said not to be."""
    for one in play(name):
        question = one.question
        assert one.shown(true=True) == one.made(true=True), (question.question, one.told)
        assert one.grounded is question.told
        if question.told:
            assert all(fact in one.told for fact in question.facts), one.told
        else:
            assert one.told.startswith(("The document does not say.", "Das Dokument sagt dazu nichts."))


def test_reviews() -> None:
    """No lie of the reviews that the check was corrected with is told again, and most true statements are."""
    made, told = review(REVIEWED)
    assert told[False] == 0
    assert told[True] >= 0.85 * made[True]


def test_held_out() -> None:
    """Nine of ten lies that the check was not made with are withheld, and most true statements told."""
    made, told = review(HELD_OUT)
    assert told[False] <= 0.1 * made[False]
    assert told[True] >= 0.85 * made[True]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "rule", [one for one in RULES if one is not keeps_names_in_order], ids=lambda rule: rule.__name__
)
def test_each_rule_is_needed(rule: CheckRule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rule of the check, a lie of the reviews is told."""
    monkeypatch.setattr(check, "RULES", tuple(one for one in RULES if one is not rule))
    _, told = review(REVIEWED)
    assert told[False] > 0


def test_the_page() -> None:
    """docs/prove/resume.md is what the experiment finds."""
    assert PAGE.read_text(encoding="utf-8") == page()
