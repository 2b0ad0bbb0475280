"""Rules about years and periods: when something was, and whether it still is."""

from dub5.service.grounding.claims import StatementClaim, is_past
from dub5.service.grounding.support import YEARS, Support
from dub5.service.grounding.words import Word


def keeps_ends_of_periods(claim: StatementClaim, support: Support) -> bool:
    """Return whether "joined" goes with the first year of a period, and "graduated" with the last."""
    if not claim.years or claim.spans or not support.spans:
        return True
    language = support.language
    if "degrees" in support.kinds and len(claim.years) == 1 and not set(claim.stems) & language.starts:
        lasts = {last for _, last in support.spans}
        if any(claim.years[0] in span for span in support.spans) and claim.years[0] not in lasts:
            return False
    bounds = [one for one in claim.words if one.stem in language.starts | language.ends]
    literal = support.own | support.above
    return all(one.stem in literal or bounds_a_period(one, claim, support) for one in bounds)


def gives_own_entry_no_year_of_its_period(claim: StatementClaim, support: Support) -> bool:
    """Return whether a deed is not dated to one end of the period that its heading tells."""
    if support.passage.is_heading or len(claim.years) != 1:
        return True
    year = claim.years[0]
    if year in support.own or not any(year in span for span in support.spans):
        return True
    return not any(
        one.stem in support.own and one.stem not in support.above for one in claim.words if not one.is_number
    )


def keeps_time(claim: StatementClaim, support: Support) -> bool:
    """Return whether what is over is not told as if it went on."""
    if (
        support.spans
        and not support.is_current
        and "experience" in support.kinds
        and _is_told_as_present(claim)
    ):
        return False
    since = support.language.since
    if support.spans and not support.is_current and since & set(claim.small) and not since & support.small:
        return False
    past = {one.stem for one in support.all if is_past(one, support.language)}
    return (
        not any(
            one.stem in past and one.raw.lower().endswith("s") and not is_past(one, support.language)
            for one in claim.words
            if support.language.code == "en" and not one.is_name
        )
        or support.is_current
    )


def bounds_a_period(word: Word, claim: StatementClaim, support: Support) -> bool:
    """Return whether a word as "joined" or "until" goes with the first or the last year of a period."""
    language, years = support.language, set(claim.years)
    if not years or (not support.spans and not support.is_current):
        return False
    firsts = {first for first, _ in support.spans}
    lasts = {last for _, last in support.spans}
    if support.is_current and not support.spans:
        firsts |= set(YEARS.findall(f"{support._above_text} {support.text}"))
    if claim.spans and claim.spans <= support.spans:
        return word.stem in language.starts | language.ends | {"between"}
    if word.stem in language.starts:
        return years <= firsts
    return word.stem in language.ends and years <= lasts


def is_within(year: str, claim: StatementClaim, support: Support) -> bool:
    """Return whether a year lies in the period of an employment of which nothing else is said."""
    if not support.passage.is_heading or support.kinds.isdisjoint({"experience", "education"}):
        return False
    if (
        len(claim.years) != 1
        or claim.spans
        or set(claim.stems) & (support.language.starts | support.language.ends)
    ):
        return False
    return any(first < year < last for first, last in support.spans)


def _is_told_as_present(claim: StatementClaim) -> bool:
    """Return whether the sentence, and not only a clause beside it, says that something is so today."""
    language = claim.language
    return any(
        one.raw.lower() in language.present and one.after not in language.relatives for one in claim.all
    )
