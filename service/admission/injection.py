"""Flags of a prompt injection: a smoke detector, and no lock. Call `scan(text)`.

instruction_override   "ignore all previous instructions", in several languages
prompt_leak            asks for the system prompt, or for a secret that stands in it
role_escape            a model "without restrictions"
forged_boundary        marks that a chat format uses between messages
hidden_instruction     text in a document that speaks to the model instead of the reader
hidden_characters      characters that nobody sees, where no script needs them

docs/use/sanitising.md says how many of the labelled lines in tests/ it finds.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

from dub5.service.optional_parts import load_part
from dub5.service.providers.slices import Steps, finish

BLOCK_CHARS = 2 * 1024  # looked at in one step
OVERLAP_CHARS = 500  # longer than any match
HIDDEN = "hidden_characters"
FLAGS = (
    "instruction_override",
    "prompt_leak",
    "role_escape",
    "forged_boundary",
    "hidden_instruction",
    HIDDEN,
)

# The flags of England, Scotland and Wales are written with tag characters.
_FLAG_EMOJI = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,8}+\U000e007f")
_HIDDEN = (
    re.compile("[\U000e0000-\U000e007f]"),  # tag characters
    re.compile("[\u202d\u202e]"),  # letters are shown in another order than they are read
    re.compile("[\u180e\u200b-\u200d\u2060-\u2064\ufeff]{3}"),
    re.compile("[A-Za-z][\u200b-\u200d\u2060-\u2064\ufeff]{1,2}+[A-Za-z]"),
)
_REMOVED = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_SPELT_OUT = re.compile(r"(?<=\b\w) (?=\w\b)")  # "i g n o r e"
_BLANKS = re.compile(r"[^\S\n]{1,200}+")
_LINES = re.compile(r" ?\n[ \n]{0,200}+")


def scan(text: str) -> tuple[str, ...]:
    """Return the flags of a text, at once."""
    return finish(scan_in_steps(text))


def scan_in_steps(text: str) -> Steps[tuple[str, ...]]:
    """Return the flags of a text, which may be large, in steps."""
    found: dict[str, None] = {}
    for start in range(0, max(len(text), 1), BLOCK_CHARS):
        found |= dict.fromkeys(_scan_block(text[start : start + BLOCK_CHARS + OVERLAP_CHARS]))
        yield
    return tuple(sorted(found))


def fold(text: str) -> str:
    """Return the text as the patterns read it: what is seen of it, in small letters of one form."""
    if not text.isascii():
        text = _REMOVED.sub("", text).replace("\u2019", "'")
        wide = unicodedata.normalize("NFKC", text)
        text = wide if len(wide) <= 1.5 * len(text) else text  # one character can become eighteen
    return _LINES.sub("\n", _BLANKS.sub(" ", _SPELT_OUT.sub("", text))).casefold()


def _scan_block(text: str) -> list[str]:
    found = []
    if not text.isascii():
        shown = _FLAG_EMOJI.sub("", text)
        if any(pattern.search(shown) for pattern in _HIDDEN):
            found.append(HIDDEN)
    folded = fold(text)
    return found + [flag for flag, patterns in _patterns().items() if any(p.search(folded) for p in patterns)]


@cache
def _patterns() -> Mapping[str, Sequence[re.Pattern[str]]]:
    """Return the patterns by flag. They take 20 ms to compile, which a service without a scan never needs."""
    patterns: Mapping[str, Sequence[re.Pattern[str]]] = load_part("injection patterns").joined
    return patterns
