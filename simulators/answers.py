"""Self-proving answers: the prompt and the text show whether the text is whole, and which provider wrote it.

one answers 7c1e04aa in 24 words: 1:amber 2:river 3:stone ... 24:lamp end:5d2c91aa
|           |              |      |                                      |
provider    the prompt     length  words drawn from all three, numbered  and a checksum

Call `answer_text(provider, prompt, words)` to write an answer and `judge(text, prompt)` to check one.
"""

import hashlib
import re
from enum import Enum

WORDS_MAX = 999_999
WORDS = (
    "acorn amber anchor apple arrow autumn badge bamboo basket beacon birch bridge candle canyon cedar "
    "cherry cloud copper coral cotton desert dune ember falcon feather fern forest garden glacier granite "
    "harbor hazel honey island ivory jasmine juniper kettle lagoon lamp lantern lemon linen maple marble "
    "meadow mirror needle olive orchard otter paper pebble pepper river saffron silver stone thunder timber "
    "valley velvet willow winter"
)
VOCABULARY = WORDS.split()

AS_JSON, JSON_END = '{"answer":"', '"}'
PIECE = re.compile(r"\S+\s*")
OPENING = re.compile(r"([A-Za-z0-9._-]+) answers ([0-9a-f]{8}) in ([1-9][0-9]{0,5}) words: ")
_ATOMS = ["[A-Za-z0-9._-]+", *" answers ", *["[0-9a-f]"] * 8, *" in ", "[1-9]", "[0-9]{0,5}", *" words: "]
BEGUN = re.compile("".join(f"(?:{atom}" for atom in _ATOMS) + ")?" * len(_ATOMS))  # an opening cut anywhere


class Proof(Enum):
    """The result of checking a text against its prompt.

    Only `WHOLE` is the answer; an empty text is `CUT`.
    """

    WHOLE = "whole"
    CUT = "cut"  # the end of the text is missing
    SPLICED = "spliced"  # the text begins right, and goes on with something else
    FOREIGN = "foreign"  # the text answers another prompt, or is no such answer at all


def prompt_tag(prompt: str) -> str:
    """Return the eight hex digits that stand for the prompt, in answers and in ledgers."""
    return hashlib.sha256(_utf8(prompt)).hexdigest()[:8]


def answer_text(provider: str, prompt: str, words: int) -> str:
    """Return the only answer of `provider` to `prompt` of this length (1 to 999,999 words)."""
    words = max(1, min(words, WORDS_MAX))
    drawn = hashlib.shake_128(_utf8(f"{provider}\0{words}\0{prompt}")).digest(words + 4)
    body = " ".join(f"{i}:{VOCABULARY[byte % 64]}" for i, byte in enumerate(drawn[:words], start=1))
    return f"{provider} answers {prompt_tag(prompt)} in {words} words: {body} end:{drawn[words:].hex()}"


def pieces(text: str) -> list[str]:
    """Split a text into tokens: each is a word with the blank after it. Joined they are the text again."""
    return PIECE.findall(text)


def judge(text: str, prompt: str) -> Proof:
    """Check the text that a client received against its prompt; the text may be the `answer` of an object.

    An honest `finish_reason: length` is a CUT too.
    """
    if text.startswith(AS_JSON):
        inner = text.removeprefix(AS_JSON)
        found = judge(inner.removesuffix(JSON_END).removesuffix(JSON_END[0]), prompt)
        return Proof.CUT if found is Proof.WHOLE and not inner.endswith(JSON_END) else found
    if text and AS_JSON.startswith(text):
        return Proof.CUT
    opening = OPENING.match(text)
    if opening is None:
        return Proof.CUT if BEGUN.fullmatch(text) else Proof.FOREIGN
    provider, tag, words = opening.groups()
    if tag != prompt_tag(prompt):
        return Proof.FOREIGN
    expected = answer_text(provider, prompt, int(words))
    if text == expected:
        return Proof.WHOLE
    return Proof.CUT if expected.startswith(text) else Proof.SPLICED


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
