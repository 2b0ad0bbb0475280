"""What an answer of the gateway says: its text, its end, its tokens. Read here, not on its hot path."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from dub5.service.conversation.model import CountedBy, TokenCount, estimated
from dub5.service.conversation.open_turn import OpenTurn
from dub5.service.providers.finish import choice_number
from dub5.service.providers.openai import sse_payload
from dub5.service.providers.usage import texts_of, token_count

FORMAT_TOKENS = 64  # of the chat format around a text, at most


class _Said(Struct):
    """A delta of a stream, or a whole message. Fields have any type, as where the gateway looks at them."""

    content: object = None
    refusal: object = None

    def text(self) -> str:
        """Return the text, or that of its parts; without NUL, which no database keeps."""
        text = self.content
        if self.refusal or not isinstance(text, str):
            text = "".join([*texts_of(text), *texts_of(self.refusal)])
        return text.replace("\0", "")


_MaybeSaid = _Said | list[object] | str | float | bool | None


class _Choice(Struct):
    delta: _MaybeSaid = None
    message: _MaybeSaid = None
    finish_reason: object = None
    index: object = 0

    def text(self) -> str:
        for said in (self.delta, self.message):
            if isinstance(said, _Said) and (text := said.text()):
                return text
        return ""


class _Part(Struct):
    choices: list[_Choice] | dict[str, object] | str | float | bool | None = None
    usage: object = None


_DECODE = msgspec.json.Decoder(_Part)


class TurnAnswer:
    """The answer of a turn as it comes."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.texts: list[str] = []
        self._usage: dict[str, Any] = {}
        self._index: int | None = None  # of the choice that is read: the first one

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(self.texts)

    def add_events(self, events: Iterable[bytes]) -> str:
        """Add events of a stream; return their text."""
        texts = [self.add(sse_payload(event)) for event in events if event]
        return "".join(texts)

    def add(self, payload: bytes) -> str:
        """Add a chunk, or a whole chat.completion; return its text. What cannot be read holds none."""
        try:
            part = _DECODE.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""
        text = ""
        for choice in part.choices if isinstance(part.choices, list) else ():
            index = choice_number(choice.index) or 0 if choice.index else 0
            if self._index is None:
                self._index = index
            if index == self._index:
                text += choice.text()
                if isinstance(choice.finish_reason, str):
                    self.finish = choice.finish_reason
        if text:
            self.texts.append(text)
        if isinstance(part.usage, dict):
            self._usage = part.usage
        return text

    @property
    def prompt_tokens(self) -> int | None:
        """The provider's count of the whole prompt, None if it did not say."""
        return self._count_of("prompt_tokens") or None

    def count(self) -> TokenCount:
        """Return the tokens of the text: the provider's count without its reasoning, or an estimate."""
        details = self._usage.get("completion_tokens_details")
        hidden = token_count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
        return _counted(self.text, self._count_of("completion_tokens") - hidden) or estimated(self.text)

    def question_count(self, turn: OpenTurn, target: str) -> TokenCount | None:
        """Return the tokens of the question, where all else of the prompt is known; None elsewhere."""
        prompt, known = self.prompt_tokens, turn.known_tokens
        if prompt is None or known is None or turn.known_target not in (None, target):
            return None
        return _counted(turn.question.text, prompt - known)

    def _count_of(self, name: str) -> int:
        return 0 if self._usage.get("estimated") else token_count(self._usage.get(name))


def _counted(text: str, tokens: int) -> TokenCount | None:
    """Return a provider's count of a text; None if no such text has it: a token holds a byte at least.

    Other tokens are in it, then: reasoning that is not told apart, or a system prompt of the provider.
    """
    if not 0 < tokens <= len(text.encode()) + FORMAT_TOKENS:
        return None
    return TokenCount(tokens, CountedBy.PROVIDER)
