"""Rules about who did it: what the passage says of somebody else is not told of its subject."""

from dub5.service.grounding.claims import PLACES, SPAN, StatementClaim, is_past, is_verb
from dub5.service.grounding.support import YEARS, Support
from dub5.service.grounding.words import Word

_OBJECTS = frozenset({"who", "whom", "that", "qui", "que"})
_MEANS = frozenset({"with", "on", "using", "mit", "an", "avec", "sur", "con"})
_AS = frozenset({"for", "as", "für", "als", "pour", "comme", "como"})
_ADVERBS = frozenset(
    {"successfully", "personally", "independently", "directly", "also", "jointly", "erfolgreich"}
)


def keeps_its_subject(claim: StatementClaim, support: Support) -> bool:
    """Return whether what she did or was is what the passage says of her, and not of somebody it names."""
    if not _keeps_other_subject(claim, support):
        return False
    predicate = _predicate(claim)
    if predicate is None or predicate.stem in support.frames:
        return True
    if support.passage.is_heading or predicate.stem not in support.positions:
        # "led" is not what a "Lead Engineer" is called.
        heading = support.small if support.passage.is_heading else support.above_small
        may_be_verb = is_verb(predicate, claim.language) or predicate.raw.endswith("s")
        return (
            not may_be_verb
            or predicate.stem not in support.own | support.above
            or predicate.raw.lower() in heading
        )
    return any(_may_begin(one, support) for one in support.all if one.stem == predicate.stem)


def _keeps_other_subject(claim: StatementClaim, support: Support) -> bool:
    """Return whether somebody whom the passage names does only what comes after the name there."""
    names = list[Word]()
    for one in claim.all:
        if not one.is_name or one.stem not in support.positions or one.stem in support.above | support.title:
            break
        names.append(one)
    rest = claim.all[len(names) :]
    if not names or not support.all or any(one.raw.lower() in claim.language.auxiliaries for one in rest[:1]):
        return True
    first_there = next((one for one in support.all if one.stem == names[0].stem), None)
    if first_there is None or not first_there.is_name or support.words[0].stem == names[0].stem:
        return True
    verb = next((one for one in rest if one.stem in support.positions), None)
    return verb is None or support.positions[names[-1].stem][0] < support.positions[verb.stem][-1]


def keeps_subject_before_its_verb(claim: StatementClaim, support: Support) -> bool:
    """Return whether "14 people trained her" is not told of "Trained 14 people"."""
    language, subject = claim.language, list[Word]()
    if language.code != "en":
        return True
    first = support.all[0].stem if support.all else ""  # an entry begins with its verb
    is_of_an_employer = False  # whose name stands before the verb, as its subject
    personal = language.personal
    for one in claim.all:
        small = one.raw.lower()
        if small in personal or small in language.auxiliaries:
            return True
        if one.stem in support.positions and (is_verb(one, language) or one.stem == first):
            if is_of_an_employer:
                return False
            places = [support.positions[each.stem][0] for each in subject]
            return not places or min(places) < support.positions[one.stem][-1]
        if (
            one.stem in support.positions
            and one.stem not in support.above | support.title
            and not one.is_number
        ):
            subject.append(one)
        elif (
            one.is_name
            and one.stem not in support.positions
            and one.stem in support.above - support.title
            and claim.all[0].stem not in language.stop
        ):
            is_of_an_employer = not support.passage.is_heading
    return True


def keeps_place_of_work(claim: StatementClaim, support: Support) -> bool:
    """Return whether "worked in Poland" is not made of an entry about suppliers in Poland.

    Beside "worked", an entry below the heading of an employer supports only what she worked with, or on.
    """
    language = claim.language
    work = language.frames["experience"]
    verbs = [one for one in claim.words if one.stem in work and one.stem not in support.own]
    if (
        support.passage.is_heading
        or (YEARS.search(support.text) and ("|" in support.text or SPAN.search(support.text)))
        or not support.passage.headings
        or "experience" not in support.kinds
        or not verbs
    ):
        return True
    means, link = _MEANS, ""
    start = claim.all.index(verbs[0]) if verbs[0] in claim.all else 0
    for one in claim.all[start + 1 :]:
        small = one.raw.lower()
        if small in means:
            link = small
        elif small in PLACES | language.prepositions | _AS:
            link = ""
        elif is_verb(one, language) and one.stem in support.own:
            link = "with"  # a deed of its own follows: "worked at ..., and built ..."
        elif one.stem in support.own and one.stem not in support.above | language.stop and not link:
            return False
    return True


def _predicate(claim: StatementClaim) -> Word | None:
    """Return the first word that needs support after the subject and its verb."""
    language, seen = claim.language, False
    relatives, possessives = language.relatives, language.possessives
    before: Word | None = None
    for one in claim.all:
        small = one.raw.lower()
        if small in relatives:
            seen = False
        elif small in language.auxiliaries or (small in language.pronouns and small not in possessives):
            if language.code == "de" and not seen and before is not None and is_verb(before, language):
                return before  # "... betreute sie ..."
            seen = True
        elif seen and one.stem not in language.stop and small not in language.negations and not one.is_number:
            return one
        before = one
    return None


def _may_begin(word: Word, support: Support) -> bool:
    """Return whether a word of the passage is the beginning of what is said of its subject."""
    language, after = support.language, word.after
    if after in ("", *_ADVERBS) or after in language.conjunctions:
        return True
    if after in language.personal - _OBJECTS:
        return True
    articles = language.articles
    if after in language.auxiliaries or language.stem(after) in support.title:
        return True
    if after in articles or after in language.negations:
        at = support.all.index(word)
        before = support.all[at - 1].after if at else ""
        return before == "" or before in language.auxiliaries
    return False


def is_not_of_somebody_else(claim: StatementClaim, support: Support) -> bool:
    """Return whether it does not only hold words of a clause about somebody else: "..., who built it"."""
    relatives = support.language.relatives
    first = next((at for at, one in enumerate(support.all) if one.raw.lower() in relatives), None)
    if first is None:
        return True
    before = {one.stem for one in support.all[:first]}
    own = [one.stem for one in claim.words if one.stem in support.own and one.stem not in support.above]
    return not own or own[0] in before


def keeps_who_did_it(claim: StatementClaim, support: Support) -> bool:
    """Return whether what she did to others is not told as done to her: "was trained", "by 14 people"."""
    language = claim.language
    for one in claim.all:
        if one.after in language.agents and one.stem not in language.stop and not one.is_number:
            there = [each for each in support.all if each.stem == one.stem]
            if there and not any(each.after in language.agents for each in there):
                return False
    predicate = _predicate(claim)
    if predicate is None:
        return True
    if predicate.after not in language.passives:
        return not _is_done_to_her(predicate, support)
    if not is_past(predicate, language) and language.code == "en":
        return True
    places = [at for at, each in enumerate(support.all) if each.stem == predicate.stem]
    if not places or any(support.all[at].after in language.auxiliaries for at in places):
        return True
    subject = claim.all[: claim.all.index(predicate)]
    if any(one.stem in support.positions for one in subject):
        return True  # the thing that was done is its subject
    return predicate.stem in language.received


def _is_done_to_her(predicate: Word, support: Support) -> bool:
    """Return whether the passage has a verb only as done to its subject, which the claim says she did."""
    language = support.language
    there = [one for one in support.all if one.stem == predicate.stem]
    is_passive = bool(there) and all(one.after in language.passives for one in there)
    return is_passive and is_past(predicate, language) and predicate.after not in language.auxiliaries


def keeps_title_apart(claim: StatementClaim, support: Support) -> bool:
    """Return whether a title of the heading is not told of what the entry is about: "engineer of vessels"."""
    predicate = _predicate(claim)
    if support.passage.is_heading or predicate is None or predicate.stem in support.own | support.frames:
        return True
    own = [
        one
        for one in claim.words
        if one.stem in support.own and one.stem not in support.above | support.title
    ]
    return not own or any(is_verb(one, claim.language) or one.stem == support.all[0].stem for one in own)
