from random import Random

from dub5.loadtests.prompts import SHARES, question, question_of
from dub5.service.admission.injection import scan
from dub5.service.admission.sanitize import clean
from dub5.service.config.settings import ConversationSettings


def test_questions() -> None:
    """No two questions are equal; each reaches its provider as it was typed, is short enough and harmless."""
    rng = Random("1")
    asked = [question_of(kind, rng) for kind in SHARES for _ in range(50)]
    assert len(set(asked)) == len(asked)
    for text in asked:
        assert clean(text) == text
        assert len(text) <= ConversationSettings().question_chars_max
    assert not [text for text in asked[::10] if scan(text)]
    assert max(map(len, asked)) > 1_000 and min(map(len, asked)) < 60


def test_shares() -> None:
    """All kinds of questions are asked, and equal seeds ask equal questions."""
    drawn = [question(Random(str(i))) for i in range(300)]
    assert drawn == [question(Random(str(i))) for i in range(300)]
    assert any("def total" in text for text in drawn) and any("日本語" in text for text in drawn)
