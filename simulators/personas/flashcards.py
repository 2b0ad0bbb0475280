"""Flashcards, as a good model writes them: for a prompt that holds a text between two equal marks.

MATERIAL-5d2c91aa0b1c2d3e     each card quotes a sentence of the text, letter by letter
the text
MATERIAL-5d2c91aa0b1c2d3e
"""

import re

import msgspec

_MATERIAL = re.compile(r"^(MATERIAL-[0-9a-f]{16})\n(?:Title: [^\n]*\n\n)?(.*)\n\1$", re.DOTALL | re.MULTILINE)
_WANTED = re.compile(r"at most (\d{1,3}) flashcards")
_BLANK_LINES = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"[^\s#|*-](?:[^.!?]|[.!?](?!\s|\Z)){20,280}[.!?](?=\s|\Z)")
_DEFINED = re.compile(r"(?P<what>[^,;:]{2,60}?) (?P<verb>is|are) (?P<meaning>.+)", re.DOTALL)
_TELLING = re.compile(r"\b[^\W\d_][\w-]{5,}")


def flashcards(prompt: str) -> str | None:
    """Return lines of JSON with one card each; None for a prompt that asks for no cards."""
    if "MATERIAL-" not in prompt:
        return None
    material, wanted = _MATERIAL.search(prompt), _WANTED.search(prompt)
    if material is None or wanted is None:
        return None
    paragraphs = _BLANK_LINES.split(material[2])
    found = [sentence for paragraph in paragraphs for sentence in _SENTENCE.findall(paragraph)]
    if len(found) > int(wanted[1]):  # from all over the text
        found = [found[i * len(found) // int(wanted[1])] for i in range(int(wanted[1]))]
    return "\n".join(msgspec.json.encode(_card(sentence)).decode() for sentence in found) or "[]"


def _card(sentence: str) -> dict[str, str]:
    plain = " ".join(sentence.replace("*", "").split())
    defined = _DEFINED.fullmatch(plain.rstrip(".!?"))
    if defined is not None:
        what = defined["what"][0].lower() + defined["what"][1:] if " " in defined["what"] else defined["what"]
        front, meaning = f"What {defined['verb']} {what}?", defined["meaning"]
        return {"front": front, "back": f"{meaning[0].upper()}{meaning[1:]}.", "quote": sentence}
    telling = max(_TELLING.findall(plain), key=len, default=plain.split()[0])
    return {
        "front": "Fill the gap: " + plain.replace(telling, "____", 1),
        "back": telling,
        "quote": sentence,
    }
