"""How an answer ends: the finish reasons that mean a whole answer, and the ends of a stream's choices.

finish_meaning   a provider's reason -> OpenAI's word for it; any other reason is a failure
choice_number    a choice's index, however it is written
ChoiceEnds       which choices of a stream have ended, and whether that is certain
"""

from typing import Final

from dub5.service.providers.base import ProviderFault
from dub5.service.providers.error_body import CODE_PATTERN

STOP, LENGTH, TOOL_CALLS, FILTERED = "stop", "length", "tool_calls", "content_filter"
MEANINGS: Final = {
    **dict.fromkeys((STOP, "eos", "eos_token", "stop_sequence", "end_turn", "pause_turn"), STOP),
    **dict.fromkeys((LENGTH, "max_tokens", "model_length", "model_context_window_exceeded"), LENGTH),
    **dict.fromkeys((TOOL_CALLS, "tool_use"), TOOL_CALLS),
    "function_call": "function_call",
    **dict.fromkeys((FILTERED, "refusal", "sensitive", "safety", "recitation", "blocklist"), FILTERED),
    **dict.fromkeys(("prohibited_content", "spii", "image_safety"), FILTERED),
}
INDEX_DIGITS_MAX = 9
NO_REASONS = frozenset({"null", "none"})  # texts that some servers write for a reason that is not there yet


def finish_meaning(reason: object, fault: str) -> str | None:
    """Return a finish reason in OpenAI's words; None for an empty one. Raises ProviderFault(`fault`)."""
    if isinstance(reason, str) and (meaning := MEANINGS.get(reason)):
        return meaning
    if not reason:
        return None  # some servers write "" or false into every chunk
    if not isinstance(reason, str):
        raise ProviderFault(fault)
    meaning = MEANINGS.get(name := reason.lower())
    if meaning is None and name not in NO_REASONS:
        raise ProviderFault(fault, code=reason if CODE_PATTERN.fullmatch(reason) else "")
    return meaning


def choice_number(index: object) -> int | None:
    """Return the number of a choice; None if nobody can read it."""
    if isinstance(index, str) and index.isdecimal() and len(index) <= INDEX_DIGITS_MAX:
        return int(index)
    if isinstance(index, int) or (isinstance(index, float) and index.is_integer()):
        return int(index)
    return None


class ChoiceEnds:
    """The ends of a stream's choices, of which the client asked for `expected`.

    Some providers write a finish reason into every chunk. So a reason beside content is doubted: it counts at
    the proper end of the stream. Content after a reason contradicts it: from then on only `[DONE]` counts.
    """

    __slots__ = ("contradicted", "doubted", "ended", "expected", "open")

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.open: set[int] = set()
        self.ended: set[int] = set()
        self.doubted = False
        self.contradicted = False

    def note(self, index: int | None, *, content: bool, finish: bool) -> None:
        """Record what one chunk says of one choice. None: of one that nobody can tell."""
        if index is None:
            self.contradicted = self.contradicted or content
            return
        if content and index in self.ended:
            self.contradicted = True
            self.ended.discard(index)
        if finish:
            self.doubted = self.doubted or content
            self.open.discard(index)
            self.ended.add(index)
        elif index not in self.ended:
            self.open.add(index)

    def certain(self) -> bool:
        """Return whether the answer is whole, whatever follows."""
        sure = not self.doubted and not self.contradicted and len(self.ended) >= self.expected
        return sure and not self.open

    def whole(self, *, done: bool) -> bool:
        """Return whether the answer is whole at the proper end of its stream: `[DONE]`, or the last byte."""
        return bool(self.ended) and not self.open and (done or not self.contradicted)
