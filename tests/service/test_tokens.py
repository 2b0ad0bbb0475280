"""Tokens are estimated by the kinds of characters: near the true count in any script, quick for any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.service.tokens import PIECE_CHARS, ascii_chars, estimate_tokens

# Counted by o200k_base.
COUNTED = {
    "The service keeps answering while its providers fail: a request goes to the next one before anybody"
    " notices, and the reader sees one answer.": 27,
    "Der Dienst antwortet weiter, auch wenn seine Anbieter ausfallen: Eine Anfrage geht an den nächsten,"
    " bevor es jemand bemerkt.": 26,
    "プロバイダーが失敗しても、このサービスは答え続けます。"
    "質問は誰にも気づかれないうちに次のプロバイダーへ送られます。": 42,
    "即使供应商出现故障，服务仍会继续回答。"
    "请求会在任何人注意到之前转到下一个供应商，读者只会看到一个完整的答案。": 39,
    "تستمر الخدمة في الإجابة حتى عندما يتعطل المزودون، "
    "وينتقل الطلب إلى المزود التالي قبل أن يلاحظ أحد ذلك.": 31,
    "def decide(now_s: float, calls: list[Call]) -> Decision:\n    failed = [call for call in calls if not"
    " call.ok and now_s - call.at_s < WINDOW_S]\n    return Decision.OPEN if len(failed) >= FAILURES_MAX else"
    " Decision.CLOSED\n": 58,
    '{"id": "req_01", "model": "chat", "usage": {"prompt_tokens": 812, "completion_tokens": 64}, "choices":'
    ' [{"index": 0, "finish_reason": "stop"}]}': 48,
    "2026-11-29 20:51:28 1840 0.0375 99.98 17200 64.5\n2026-11-29 20:52:28 1911 0.0381 99.97 17430 63.9\n"
    "2026-11-29 20:53:28 1795 0.0369 99.99 16995 64.1\n": 96,
}


@pytest.mark.parametrize("text", COUNTED)
def test_is_near(text: str) -> None:
    """In prose of any script, code, JSON and tables the error is below 30 %: four characters a token miss by
    three times in Japanese and in tables of numbers."""
    assert estimate_tokens([text]) == pytest.approx(COUNTED[text], rel=0.3)


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_text(texts: list[str]) -> None:
    """It is counted as one text, whatever it holds and however it is cut; nothing has no tokens."""
    tokens, whole = estimate_tokens(texts), "".join(texts)
    assert tokens == estimate_tokens([whole])
    assert (tokens > 0) == bool(whole)
    assert ascii_chars(whole) == len(whole) or not whole.isascii()


@given(st.sampled_from(tuple(COUNTED)), st.integers(1, 8))
def test_a_long_text_is_judged_by_its_ends(text: str, parts: int) -> None:
    """Twice the text has twice the tokens, beyond what is looked at, too."""
    times = 4 * PIECE_CHARS // len(text)
    whole = estimate_tokens([text * times] * parts)
    assert whole == pytest.approx(estimate_tokens([text]) * times * parts, rel=0.05)


def test_both_ends_are_looked_at() -> None:
    """An English beginning does not hide that the rest is Japanese."""
    english, japanese = "plain words " * 2000, "答え続けます" * 20_000
    assert estimate_tokens([english, japanese]) > 1.3 * estimate_tokens([english * 6])
