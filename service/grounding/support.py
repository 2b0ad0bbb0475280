"""A passage as what it may support: its words, those of its headings, those that need no support there."""

import re
from functools import cached_property

from dub5.service.grounding.claims import SPAN, StatementClaim
from dub5.service.grounding.languages import Language
from dub5.service.grounding.model import DocumentPassage
from dub5.service.grounding.words import read_words, tidy

YEARS = re.compile(r"\b(?:19|20)\d\d\b")
_DEGREE_WORDS = frozenset(
    [
        "msc",
        "bsc",
        "phd",
        "mba",
        "ba",
        "ma",
        "master",
        "bachelor",
        "diploma",
        "degree",
        "doctorate",
        "diplom",
        "abitur",
        "magister",
        "promotion",
        "lehre",
        "licence",
        "bac",
        "cap",
        "bts",
        "dut",
        "diplôme",
        "doctorat",
        "grado",
        "licenciatura",
        "máster",
        "título",
        "doctorado",
    ]
)
_UNFINISHED = frozenset(
    [
        "expected",
        "unfinished",
        "incomplete",
        "discontinued",
        "taking",
        "abgebrochen",
        "voraussichtlich",
        "inachevé",
        "inacabado",
    ]
)
_DEGREES_MEAN = {"msc": "master", "bsc": "bachelor", "phd": "doctorat"}
_WAS = frozenset({"was", "been", "is", "war", "ist", "fue", "es", "est", "était"})
_LEARNT = frozenset(
    {"studied", "student", "degree", "studierte", "étudiante", "estudió", "university", "school"}
)
_SINCE = re.compile(r"\b(?:since|seit|depuis|desde)\b[^.;]{0,20}\b(?:19|20)\d\d\b", re.IGNORECASE)


class Support:
    """A passage as what it may support."""

    def __init__(self, passage: DocumentPassage, title: str, language: Language) -> None:
        self.passage = passage
        self.language = language
        text = passage.text
        self.words = [one for one in read_words(text, language) if one.stem not in language.stop]
        self.all = read_words(text, language)
        self.title = frozenset(one.stem for one in read_words(title, language))
        above = " | ".join(passage.headings)
        self._above_text = tidy(f"{above} | {passage.lead}")
        self.text = tidy(text)
        self.own = frozenset(one.stem for one in self.all)
        lead = [one for one in read_words(passage.lead, language) if one.is_name or one.is_number]
        over = [*read_words(above, language), *lead]
        self.above = frozenset(one.stem for one in over)
        self.above_small = frozenset(one.raw.lower() for one in over)
        self.small = frozenset(one.raw.lower() for one in self.all)
        self.negated = bool(self.small & language.negations)
        self.is_current = self._is_current()
        self.kinds = self._kinds()
        self.spans = set(SPAN.findall(self.text)) | set(SPAN.findall(self._above_text))

    def _kinds(self) -> frozenset[str]:
        """Return of what kind the passage is, by its headings and some words of its own."""
        lists, found = self.language.lists, set()
        label, colon, _ = self.passage.text.partition(":")
        for heading in (*self.passage.headings, *([label] if colon else ())):
            words = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)?", heading.lower()))
            found |= {kind for kind, known in lists.sections.items() if words & set(known.split())}
        raw = {one.raw.lower().strip(".") for one in self.all}
        if raw & _DEGREE_WORDS:
            found.add("education")
            if not self.is_current and not self.small & _UNFINISHED:
                found.add("degrees")
        is_job = self.small & _WAS and (SPAN.search(self.text) or _SINCE.search(self.text))
        if not found and is_job and not self.small & _LEARNT:
            found.add("experience")
        if "@" in self.own:
            found.add("contact")
        return frozenset(found)

    def _is_current(self) -> bool:
        known = self.language.current
        return bool(set(re.findall(r"[^\W\d_]+", f"{self._above_text} {self.text}".lower())) & set(known))

    @cached_property
    def frames(self) -> frozenset[str]:
        """The words that need no support here."""
        language = self.language
        found = language.generic | set(self.title)
        for kind in self.kinds:
            found |= language.frames.get(kind, frozenset())
        if self.is_current:
            found |= {language.stem(one) for one in language.current | language.since}
        found |= {extra for stem, extra in _DEGREES_MEAN.items() if stem in self.own | self.above}
        if not self.passage.headings and self.own <= self.title:
            found |= {language.stem(one) for one in ("name", "heisst", "appelle", "nombre", "llama")}
        return frozenset(found)

    @cached_property
    def positions(self) -> dict[str, list[int]]:
        """Where each word stands."""
        found: dict[str, list[int]] = {}
        for at, one in enumerate(self.words):
            found.setdefault(one.stem, []).append(at)
        return found

    @cached_property
    def has_one_year(self) -> bool:
        """Whether the entry names one year alone, which then is that of all it says."""
        return self.passage.is_heading or len({one.stem for one in self.words if one.is_year}) == 1

    @property
    def place(self) -> tuple[str, ...]:
        """The headings that tell one employer from another."""
        if self.passage.is_heading:
            return (*self.passage.headings, self.passage.text)
        return self.passage.headings

    def stays_at(self, place: tuple[str, ...], claim: StatementClaim) -> bool:
        """Return whether a later clause is of the same entry, or names its own."""
        if self.place == place or not self.place:
            return True
        last = {one.stem for one in read_words(self.place[-1], self.language)} - self.language.stop
        named = {one.stem for one in claim.words if one.is_name or one.is_year}
        return bool(named & last) or bool(named & self.own)
