"""Rules about numbers and order: a number counts what it counts there, and names keep their order."""

from itertools import pairwise, takewhile

from dub5.service.grounding.claims import StatementClaim
from dub5.service.grounding.support import Support
from dub5.service.grounding.words import Word

NEAR = 3  # words between a number and what it counts
SIGNS = frozenset({"percent", "euro", "dollar", "pound"})


def counts_the_same(claim: StatementClaim, support: Support) -> bool:
    """Return whether each number counts what it counts in the passage."""
    dated = {year for span in support.spans for year in span} if support.spans else set[str]()
    for at, word in enumerate(claim.words):
        if not word.is_number or word.part < 0:
            continue
        if word.stem not in support.positions:
            after = claim.words[at + 1 : at + 2]
            if any(one.part == word.part and one.stem in support.positions for one in after):
                return False  # a year of a heading counts nothing
            continue
        if word.is_year and (word.stem in dated or support.has_one_year) and not _is_counting(claim, word):
            continue  # it belongs to the whole entry
        if not any(_counts_there(claim, at, there, support) for there in support.positions[word.stem]):
            return False
    return True


def _is_counting(claim: StatementClaim, number: Word) -> bool:
    """Return whether a word that needs support follows the number directly: "2021 colleagues"."""
    at = next((at for at, one in enumerate(claim.all) if one is number), len(claim.all))
    after = claim.all[at + 1 : at + 2]
    if number.after in claim.language.stop | claim.language.prepositions:
        return False  # "in 2021 she ..."
    return any(one.part == number.part and one.stem not in claim.language.stop for one in after)


def _counts_there(claim: StatementClaim, at: int, there: int, support: Support) -> bool:
    """Return whether the neighbours of a number in the claim are its neighbours in the passage."""
    words, known = claim.words, support.positions
    part = words[at].part
    beside = lambda one: one.part == part and not one.is_number
    after = list(takewhile(beside, words[at + 1 : at + 3]))
    before = list(takewhile(beside, words[max(0, at - NEAR) : at][::-1]))
    if after and after[0].stem in SIGNS:
        if not _stands(after[0].stem, there + 1, there + 1, support, there) and not _stands(
            after[0].stem, there - 1, there - 1, support, there
        ):
            return False
        after = []
    if before and before[0].stem in SIGNS:
        before = before[1:]
    if not _measures_the_same(words[at], support.words[there], support):
        return False
    for one in after[:1]:
        if one.stem in known:
            return _follows(one.stem, there, support) or (
                support.words[there].after == support.words[there - 1].raw.lower()
                and support.words[there - 1].stem == one.stem
            )
    for one in before:
        if one.stem in known:
            return _stands(one.stem, there - NEAR, there - 1, support, there) or _stands(
                one.stem, there + 1, there + 2, support, there
            )
    return True


def _stands(stem: str, first: int, last: int, support: Support, number_at: int) -> bool:
    """Return whether a word stands there, in the same part as the number."""
    part = support.words[number_at].part
    return any(
        first <= at <= last and support.words[at].part == part for at in support.positions.get(stem, ())
    )


def _follows(stem: str, number_at: int, support: Support) -> bool:
    """Return whether a word stands right behind the number, or behind one more word: "5 senior engineers"."""
    if _stands(stem, number_at + 1, number_at + 1, support, number_at):
        return True
    if not _stands(stem, number_at + 2, number_at + 2, support, number_at):
        return False
    return support.words[number_at + 2].after == support.words[number_at + 1].raw.lower()


def _measures_the_same(said: Word, there: Word, support: Support) -> bool:
    """Return whether "by 5" is not told as "to 5"."""
    measures = support.language.measures
    return said.after == there.after or said.after not in measures or there.after not in measures


def keeps_names_in_order(claim: StatementClaim, support: Support) -> bool:
    """Return whether two names of the entry come in its order, unless they are in one list."""
    if support.language.code == "de":  # which writes every noun as a name
        return True
    names = [one.stem for one in claim.words[1:] if one.is_name and not one.is_number]
    names = [one for one in names if one in support.positions and one not in support.above | support.title]
    groups = _list_groups(support)
    places = [groups[support.positions[one][0]] for one in dict.fromkeys(names)]
    return all(a <= b for a, b in pairwise(places))


def _list_groups(support: Support) -> list[int]:
    """Return for each word of the passage its group: names with only commas or "and" between are one."""
    groups, group = [], 0
    for at, word in enumerate(support.words):
        before = support.words[at - 1] if at else None
        in_list = (
            before is not None and before.is_name and word.is_name and word.after in ("", before.raw.lower())
        )
        if before is not None and not in_list:
            group += 1
        groups.append(group)
    return groups
