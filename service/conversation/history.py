"""What of a conversation goes into the prompt. A pure function: `fit(...)`.

The oldest turns go first. The last two always stay: where even they do not fit, their answers are shortened
in the middle. A question is never changed.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from dub5.service.conversation.model import TokenCount, estimated
from dub5.service.providers.features import ANSWER_TOKENS

ALWAYS_KEPT = 2
MARK = "[...]"
MESSAGE_TOKENS = 4  # of the chat format, around each message
SHORTER = 0.9


class PastExchange(Struct, frozen=True):
    """A question and its answer, as they are said to a model."""

    question: str
    answer: str
    question_count: TokenCount
    answer_count: TokenCount

    @property
    def question_bound(self) -> int:
        """The tokens that are set aside for the question, and for the format of both messages."""
        return self.question_count.bound(self.question) + 2 * MESSAGE_TOKENS

    @property
    def answer_bound(self) -> int:
        """The tokens that are set aside for the answer."""
        return self.answer_count.bound(self.answer)

    @property
    def tokens(self) -> int:
        """The tokens of both texts, as they were counted."""
        return self.question_count.tokens + self.answer_count.tokens


class Fitted(Struct, frozen=True):
    """What fits, the oldest first. `dropped_tokens` includes those of the shortened answers."""

    exchanges: tuple[PastExchange, ...]
    dropped_turns: int = 0
    dropped_tokens: int = 0


def room_for_answer(window_tokens: int, answer_tokens: int) -> int:
    """Return the tokens of the window that are left for the answer: at most half of it.

    The gateway keeps a quarter free, at most ANSWER_TOKENS, and passes over a target without that room.
    """
    return min(window_tokens // 2, max(answer_tokens, min(window_tokens // 4, ANSWER_TOKENS)))


def fit(
    window_tokens: int,
    answer_tokens: int,
    fixed_tokens: int,
    exchanges: Sequence[PastExchange],
    question_tokens: int,
) -> Fitted:
    """Return the exchanges that fit in the window beside the question and the room for the answer.

    `exchanges`: the oldest first. `fixed_tokens`: of the system prompt. `question_tokens`: with their margin.
    """
    room = window_tokens - room_for_answer(window_tokens, answer_tokens)
    room -= fixed_tokens + question_tokens + 2 * MESSAGE_TOKENS
    first, left = len(exchanges), room
    while first > 0:
        left -= exchanges[first - 1].question_bound + exchanges[first - 1].answer_bound
        if left < 0 and len(exchanges) - first >= ALWAYS_KEPT:
            break
        first -= 1
    kept = list(exchanges[first:])
    if len(kept) <= ALWAYS_KEPT:
        kept = _shortened(kept, room)
    dropped = exchanges[:first]
    dropped_tokens = sum(one.tokens for one in exchanges) - sum(one.tokens for one in kept)
    return Fitted(tuple(kept), len(dropped), max(0, dropped_tokens))


def _shortened(exchanges: Sequence[PastExchange], room: int) -> list[PastExchange]:
    """Return the exchanges with answers that fit in the room, as far as the questions leave any."""
    room -= sum(one.question_bound for one in exchanges)
    if sum(one.answer_bound for one in exchanges) <= room:
        return list(exchanges)
    fitted = dict[int, PastExchange]()
    by_size = sorted(range(len(exchanges)), key=lambda index: exchanges[index].answer_bound)
    for left, index in zip(range(len(by_size), 0, -1), by_size, strict=True):
        one = _with_answer_of(exchanges[index], max(0, room) // left)  # what a short answer leaves goes on
        room -= one.answer_bound
        fitted[index] = one
    return [fitted[index] for index in range(len(exchanges))]


def _with_answer_of(exchange: PastExchange, tokens: int) -> PastExchange:
    """Return the exchange with an answer of at most so many tokens; of MARK alone at least."""
    bound = exchange.answer_bound
    if bound <= tokens:
        return exchange
    chars = int(len(exchange.answer) * tokens / bound)
    while True:
        text = _middle_left_out(exchange.answer, chars)
        shorter = replace(exchange, answer=text, answer_count=estimated(text))
        if shorter.answer_bound <= tokens or chars == 0:
            return shorter
        chars = int(chars * SHORTER)


def _middle_left_out(text: str, chars: int) -> str:
    """Return this many characters of the text's head and tail, with a mark between them."""
    if not chars:
        return MARK
    head = -(-chars // 2)
    return f"{text[:head]}\n{MARK}\n{text[len(text) - (chars - head) :]}"
