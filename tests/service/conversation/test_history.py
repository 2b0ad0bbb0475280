"""What fits in a window: properties of the pruning, and cases that are worked out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from dub5.service.conversation.history import (
    ALWAYS_KEPT,
    MARK,
    MESSAGE_TOKENS,
    Fitted,
    PastExchange,
    fit,
    room_for_answer,
)
from dub5.service.conversation.model import CountedBy, TokenCount, estimated
from dub5.service.tokens import estimate_tokens

TEXTS = st.text(max_size=60).map(lambda text: text or "?") | st.integers(1, 4_000).map(lambda n: "word " * n)
COUNTS = st.none() | st.integers(1, 6_000)


def exchange(
    question: str, answer: str, question_tokens: int | None, answer_tokens: int | None
) -> PastExchange:
    """Return an exchange; a count is an estimate where no provider counted."""
    counts = [
        estimated(text) if tokens is None else TokenCount(tokens, CountedBy.PROVIDER)
        for text, tokens in ((question, question_tokens), (answer, answer_tokens))
    ]
    return PastExchange(question, answer, *counts)


EXCHANGES = st.lists(st.builds(exchange, TEXTS, TEXTS, COUNTS, COUNTS), max_size=12)
WINDOWS = st.integers(256, 20_000)
ANSWERS = st.integers(1, 4_000)
ASKED = st.integers(1, 2_000)


def used(fitted: Fitted) -> int:
    """Return the tokens that the exchanges are given."""
    return sum(one.question_bound + one.answer_bound for one in fitted.exchanges)


def questions_alone(exchanges: list[PastExchange]) -> int:
    """Return the tokens of the last questions with answers of a mark each."""
    return sum(one.question_bound + estimated(MARK).bound(MARK) for one in exchanges[-ALWAYS_KEPT:])


@given(WINDOWS, ANSWERS, st.integers(0, 1_000), EXCHANGES, ASKED)
def test_never_over_the_window(
    window: int, answer: int, fixed: int, exchanges: list[PastExchange], asked: int
) -> None:
    """The prompt and its answer fit in the window, unless the last two questions alone do not."""
    fitted = fit(window, answer, fixed, exchanges, asked)
    beside = fixed + asked + 2 * MESSAGE_TOKENS
    room = window - room_for_answer(window, answer) - beside
    assert used(fitted) <= max(room, questions_alone(exchanges))


@given(WINDOWS, ANSWERS, EXCHANGES, ASKED)
def test_two_stay(window: int, answer: int, exchanges: list[PastExchange], asked: int) -> None:
    """The last two exchanges stay, in order, with their questions as they were; others are whole."""
    fitted = fit(window, answer, 0, exchanges, asked)
    kept = list(fitted.exchanges)
    assert len(kept) >= min(len(exchanges), ALWAYS_KEPT)
    assert len(kept) + fitted.dropped_turns == len(exchanges)
    last = exchanges[fitted.dropped_turns :]
    assert [one.question for one in kept] == [one.question for one in last]
    if len(kept) > ALWAYS_KEPT:
        assert kept == last
    for one, before in zip(kept, last, strict=True):
        assert one.answer == before.answer or MARK in one.answer


@given(WINDOWS, st.integers(0, 10_000), ANSWERS, EXCHANGES, ASKED)
def test_more_window_keeps_more(
    window: int, more: int, answer: int, exchanges: list[PastExchange], asked: int
) -> None:
    """A larger window never keeps fewer exchanges."""
    small, large = (fit(size, answer, 0, exchanges, asked) for size in (window, window + more))
    assert len(large.exchanges) >= len(small.exchanges)


@given(EXCHANGES, ASKED)
def test_what_fits_is_left_alone(exchanges: list[PastExchange], asked: int) -> None:
    """Nothing is dropped or shortened where all of it fits."""
    assert fit(10**6, 1_000, 0, exchanges, asked) == Fitted(tuple(exchanges))


@given(WINDOWS, ANSWERS)
def test_room_for_the_answer(window: int, answer: int) -> None:
    """The answer has its room, but never more than half of the window."""
    room = room_for_answer(window, answer)
    assert room <= window // 2
    assert room >= min(answer, window // 2)


def test_a_shortened_answer() -> None:
    """An answer that is too long keeps its head and its tail; the other one stays whole."""
    short, long = (
        exchange("one", "short", None, None),
        exchange("two", "head " + "x" * 40_000 + " tail", None, None),
    )
    fitted = fit(1_000, 100, 0, [short, long], 10)
    first, second = fitted.exchanges
    assert first == short
    assert second.answer.startswith("head xx") and second.answer.endswith("xx tail")
    assert f"\n{MARK}\n" in second.answer
    assert fitted.dropped_turns == 0
    assert fitted.dropped_tokens == long.answer_count.tokens - second.answer_count.tokens
    assert second.answer_count.tokens == estimate_tokens([second.answer]) > 200


def test_the_margin_of_an_estimate() -> None:
    """What was estimated counts a tenth more; what the provider counted does not."""
    counted = exchange("q", "a " * 100, 10, 1_000)
    guessed = PastExchange("q", "a", TokenCount(10), TokenCount(1_000))
    assert counted.answer_bound == 1_000
    assert guessed.answer_bound in (1_100, 1_101)
