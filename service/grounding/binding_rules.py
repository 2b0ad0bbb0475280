"""Rules about what belongs together: words of two clauses of a passage do not make a new one."""

import re
from itertools import pairwise, takewhile

from dub5.service.grounding.claims import StatementClaim, is_verb
from dub5.service.grounding.support import Support
from dub5.service.grounding.words import Word, read_words

_THEM = frozenset({"it", "them", "es", "sie", "ihn", "les", "los", "las", "lo"})
_BRACKETS = re.compile(r"\(([^()]{1,200})\)")
_COMPOUND = re.compile(
    r"\b(\d+)\s+(?:hours?|years?|months?|weeks?|days?|stunden?|jahren?|monaten?|heures?|ans?|mois|horas?|años?)"
    r"\s+(?:and|und|et|y)\s+(\d+)\b",
    re.IGNORECASE,
)


def keeps_to_a_clause(claim: StatementClaim, support: Support) -> bool:
    """Return whether each clause of the passage that words are taken of gives its verb, too.

    "Missed the target in 2018 and met it in 2019" does not say that she met it in 2018.
    """
    clauses = _clauses(support)
    if len(clauses) < 2:
        return True
    language, said = support.language, set(claim.stems)
    free = (
        (support.above - {one.stem for one in support.all if one.is_number}) | support.title | language.stop
    )
    own = [{one.stem for one in clause} for clause in clauses]
    told = [
        at
        for at, clause in enumerate(clauses)
        if any(is_verb(one, language) and one.stem in said for one in clause)
    ]
    known = set[str]().union(*(own[at] for at in told))
    for at in told:
        if any(one.raw.lower() in _THEM for one in clauses[at]):  # "found records, and merged them"
            known |= {one.stem for before in clauses[:at] for one in before if not one.is_year}
    if not told:
        touched = [stems for stems in own if said & stems - free]
        return len(touched) < 2 or any(said & set[str]().union(*own) - free <= stems for stems in touched)
    return all(stem in known | free for stem in said & set[str]().union(*own))


def _clauses(support: Support) -> list[list[Word]]:
    """Return the clauses of a passage: each part of it with a verb begins one."""
    clauses: list[list[Word]] = []
    part = -1
    for at, one in enumerate(support.all):
        if one.part != part:
            part = one.part
            words = list(takewhile(lambda each: each.part == part, support.all[at:]))  # noqa: B023
            if not clauses or (_has_verb(clauses[-1], support) and _has_verb(words, support)):
                clauses.append([])
        clauses[-1].append(one)
    return clauses


def _has_verb(words: list[Word], support: Support) -> bool:
    return any(is_verb(one, support.language) for one in words)


def keeps_pairs(claim: StatementClaim, support: Support) -> bool:
    """Return whether two words that stand side by side do so in one part of the passage, if it has both.

    "Swiss work permit, Indian citizen" does not say that she is a Swiss citizen.
    """
    parts: dict[str, set[int]] = {}
    for one in support.all:
        parts.setdefault(one.stem, set()).add(one.part)
    language = support.language
    free = language.stop | language.prepositions | support.above | support.frames
    subjects = language.personal | language.auxiliaries
    for before, one in pairwise(claim.all):
        if one.after != before.raw.lower() or one.part != before.part or one.is_number or before.is_number:
            continue
        if before.after in subjects:
            continue  # its verb
        if {before.stem, one.stem} & free or any(is_verb(each, claim.language) for each in (before, one)):
            continue
        if before.stem in parts and one.stem in parts and not parts[before.stem] & parts[one.stem]:
            return False
    return True


def keeps_what_is_only_tried(claim: StatementClaim, support: Support) -> bool:
    """Return whether "managed to keep" is not told as "managed"."""
    said = set(claim.stems)
    for at, one in enumerate(support.all[:-2]):
        if one.stem in support.language.catenatives and one.stem in said:
            link, verb = support.all[at + 1], support.all[at + 2]
            if link.raw.lower() in ("to", "zu", "à", "a") and verb.stem not in said:
                return False
    return True


def keeps_compound_numbers(claim: StatementClaim, support: Support) -> bool:
    """Return whether "3 hours and 58 minutes" is not told as 58 minutes."""
    said = set(claim.stems)
    return all(first in said for first, second in _COMPOUND.findall(support.text) if second in said)


def keeps_relations(claim: StatementClaim, support: Support) -> bool:
    """Return whether "with Roche" is not told as "for Roche"."""
    relations = support.language.relations
    there: dict[str, set[str]] = {}
    for at, one in enumerate(support.all):
        there.setdefault(one.stem, set()).add(_relation(at, support.all, support.language.conjunctions))
    for one in claim.all:
        if one.after in relations and one.stem not in support.language.stop and not one.is_number:
            known = there.get(one.stem, set())
            if known and known <= relations and one.after not in known:
                return False
    return True


def _relation(at: int, words: list[Word], conjunctions: frozenset[str]) -> str:
    """Return the small word before a word; in a list, that before its first word."""
    while at > 1 and not words[at].after and words[at].is_name:
        at -= 2 if words[at - 1].raw.lower() in conjunctions else 1
    return words[at].after


def keeps_brackets_together(claim: StatementClaim, support: Support) -> bool:
    """Return whether what stands in brackets is told with its first word: "(exchange term in Lisbon)"."""
    said = set(claim.stems)
    for found in _BRACKETS.findall(support.text):
        words = [one.stem for one in read_words(found, support.language)]
        words = [stem for stem in words if stem not in support.language.stop]
        if len(words) > 2 and words[0] not in said and said & set(words[1:]) - support.above:
            return False
    return True
