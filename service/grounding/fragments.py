"""Fragments: what says nothing, or something else, without the question that it answers."""

from dub5.service.grounding.claims import StatementClaim, is_anaphor, is_verb
from dub5.service.grounding.support import Support


def needs_question(claim: StatementClaim, support: Support, *, is_first: bool) -> bool:
    """Return whether it says nothing, or something else, without the question."""
    if _quotes(claim, support):
        return False
    if claim.has_yes or any(is_anaphor(one, claim.language) for one in claim.all):
        return True
    if not any(
        one.stem in support.own or one.stem in support.above for one in claim.words if not one.is_number
    ):
        return True
    return is_first and not _is_sentence(claim, support)


def _quotes(claim: StatementClaim, support: Support) -> bool:
    """Return whether it is the passage itself, word by word: what was asked changes nothing of that."""
    said = [one.stem for one in claim.all if one.stem not in claim.language.stop]
    return len(said) > 1 and not claim.has_yes and said == [one.stem for one in support.words]


def _is_sentence(claim: StatementClaim, support: Support) -> bool:
    language = claim.language
    verbs = (language.pronouns | language.auxiliaries).__contains__
    if any(verbs(one.raw.lower()) for one in claim.all):
        return True
    frames = frozenset().union(*language.frames.values())
    if any(one.stem in frames and not one.is_name for one in claim.words):
        return True
    if len(claim.words) > 2 and any(is_verb(one, language) for one in claim.words):
        return True
    return bool(claim.words) and claim.words[0].stem in support.title
