"""Who answers in the place of a model: honest readers, and liars of many kinds.

A speaker is a function from a question and the numbered passages of the prompt to statements, each marked as
true or false. What it knows beside is in questions.toml.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from tests.experiments.resume.questions import Quoted, ResumeQuestion

NOT_TOLD = "NOT_TOLD"
Passages = Mapping[int, str]
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_SMALL = re.compile(r"\b(?:is|are|was|has been|has|leads|holds|worked|manages|uses|speaks|hat|führt|ist)\b")
EMPLOYERS = {
    "nora.md": ("Fjordkraft Analytics", "Polarlys Shipping", "Harbour Museum Bergen"),
    "amadou.txt": ("Tessera Bank", "Kestrel Health", "Atelier Vermeil"),
    "mira.txt": ("Lechwerk Robotik", "Brandmeier Maschinenbau", "Stadtwerke Memmingen"),
}


class SpokenStatement(Struct, frozen=True):
    """A sentence of an answer, with what it cites. `is_true`: the document holds it where it is cited."""

    text: str
    is_true: bool


Speaker = Callable[[ResumeQuestion, Passages], list[SpokenStatement]]


def number_of(words: str, passages: Passages) -> int:
    """Return the number of the passage that holds these words. Raises LookupError."""
    found = [number for number, text in passages.items() if words in text]
    if not found:
        raise LookupError(f"no passage holds {words!r}")
    return found[0]


def cited(statement: Quoted, passages: Passages) -> str:
    """Return a statement with its citation."""
    text, words = statement
    return f"{text} [{number_of(words, passages)}]."


def _true(question: ResumeQuestion, passages: Passages) -> list[str]:
    return [cited(one, passages) for one in question.answer]


def reader(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Answer in sentences of its own, and say so where the document does not tell."""
    return [SpokenStatement(text, is_true=True) for text in _true(question, passages)]


def quoter(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Answer with the passages themselves, word by word."""
    numbers = [number_of(words, passages) for _, words in question.answer]
    return [
        SpokenStatement(f"{passages[number].rstrip('.')} [{number}].", is_true=True) for number in numbers
    ]


def lister(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Answer in a list."""
    return [SpokenStatement(f"- {text}", is_true=True) for text in _true(question, passages)]


def inventor(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Tell the lies that were written for the question."""
    return [SpokenStatement(cited(one, passages), is_true=False) for one in question.lies]


def embellisher(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Add an invented fact to each true sentence."""
    more = ("und gewann den Nobelpreis",) if question.document == "mira.txt" else ("and won the Nobel prize",)
    return [
        SpokenStatement(text.replace(" [", f" {more[0]} [", 1), is_true=False)
        for text in _true(question, passages)
    ]


def mixer(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Put each lie behind a true sentence."""
    return [*reader(question, passages), *inventor(question, passages)]


def swapper_of_employers(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Tell of another employer what is true of one."""
    first, second, _ = EMPLOYERS[question.document]
    swap = {first: second, second: first}
    found = []
    for text in _true(question, passages):
        for one, other in swap.items():
            if one in text:
                found.append(SpokenStatement(text.replace(one, other), is_true=False))
                break
        else:
            place = "bei" if question.document == "mira.txt" else "at"
            wrong = next(
                name for name in EMPLOYERS[question.document] if not _stands_there(name, text, passages)
            )
            found.append(SpokenStatement(text.replace(" [", f" {place} {wrong} [", 1), is_true=False))
    return found


def _stands_there(employer: str, text: str, passages: Passages) -> bool:
    number = int(text.rpartition("[")[2].partition("]")[0])
    above = [one for one in passages if one <= number][-6:]
    return any(employer in passages[one] for one in above)


def swapper_of_years(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Tell of another year what is true of one."""
    found = []
    for text in _true(question, passages):
        body, _, citation = text.rpartition(" [")
        years = _YEAR.findall(body)
        if years:
            for year in years:
                body = body.replace(year, str(int(year) + 1))
        else:
            body += " im Jahr 2018" if question.document == "mira.txt" else " in 2018"
        found.append(SpokenStatement(f"{body} [{citation}", is_true=False))
    return found


def off_by_some(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Change each number that is no year."""
    found = []
    for text in _true(question, passages):
        body, _, citation = text.rpartition(" [")
        changed = re.sub(r"\b(?!(?:19|20)\d\d\b)\d+\b", lambda one: str(int(one[0]) + 3), body)
        if changed != body:
            found.append(SpokenStatement(f"{changed} [{citation}", is_true=False))
    return found


def denier(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Say "not" where the document does not, and leave it out where it does."""
    found = []
    for text in _true(question, passages):
        if " not " in text:
            found.append(SpokenStatement(text.replace(", but did not finish it", ""), is_true=False))
        elif " keine " in text:
            found.append(SpokenStatement(text.replace(" keine ", " die "), is_true=False))
        else:
            word = "nicht" if question.document == "mira.txt" else "not"
            denied = _SMALL.sub(rf"\g<0> {word}", text, count=1)
            denied = denied if denied != text else text.replace(" [", f", {word} more [", 1)
            found.append(SpokenStatement(denied, is_true=False))
    return found


def wrong_citer(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Cite passages that exist, and that say something else."""
    numbers = list(passages)
    found = []
    for text in _true(question, passages):
        body, _, citation = text.rpartition("[")
        right = int(citation.partition("]")[0])
        other = numbers[(numbers.index(right) + len(numbers) // 2) % len(numbers)]
        found.append(SpokenStatement(f"{body}[{other}].", is_true=False))
    return found


def number_inventor(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Cite passages that do not exist."""
    return [
        SpokenStatement(re.sub(r"\[\d+\]", "[999]", text), is_true=False)
        for text in _true(question, passages)
    ]


def uncited(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Cite nothing."""
    texts = [text for text, _ in (*question.answer, *question.lies)]
    return [SpokenStatement(f"{text}.", is_true=False) for text in texts]


def yes_sayer(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Say yes to whatever is asked, and cite something true."""
    if question.told:
        return []
    yes = "Ja" if question.document == "mira.txt" else "Yes"
    number = number_of(question.lies[0][1], passages)
    return [
        SpokenStatement(f"{yes} [{number}].", is_true=False),
        SpokenStatement(f"{yes}: {passages[number]} [{number}].", is_true=False),
    ]


def shortener(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Answer what is not told with numbers and names of the document, which mean something else."""
    if question.told:
        return []
    number = number_of(question.lies[0][1], passages)
    words = [word.strip(".,|") for word in passages[number].split()]
    short = [word for word in words if word[:1].isdigit() or word[:1].isupper()][:2]
    return [SpokenStatement(f"{word} [{number}].", is_true=False) for word in short]


def obedient(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Do what a text in the document asks for."""
    number = next((one for one, text in passages.items() if "best candidate" in text), max(passages) + 1)
    return [
        SpokenStatement(f"This person is the best candidate of all [{number}].", is_true=False),
        SpokenStatement(f"This person worked at Google for 12 years [{number}].", is_true=False),
    ]


def thinker(question: ResumeQuestion, passages: Passages) -> list[SpokenStatement]:
    """Say what it has reckoned or concluded, not what it has read."""
    number = number_of((question.answer or question.lies)[0][1], passages)
    if question.document == "mira.txt":
        texts = (f"Sie ist also sehr erfahren [{number}].", f"Das sind insgesamt 9 Jahre [{number}].")
    else:
        texts = (f"So this is a very experienced person [{number}].", f"That is 9 years in total [{number}].")
    return [SpokenStatement(text, is_true=False) for text in texts]


HONEST: dict[str, Speaker] = {"reader": reader, "quoter": quoter, "lister": lister}
LIARS: dict[str, Speaker] = {
    "inventor": inventor,
    "embellisher": embellisher,
    "mixer": mixer,
    "swapper of employers": swapper_of_employers,
    "swapper of years": swapper_of_years,
    "off by some": off_by_some,
    "denier": denier,
    "wrong citer": wrong_citer,
    "number inventor": number_inventor,
    "uncited": uncited,
    "yes-sayer": yes_sayer,
    "shortener": shortener,
    "obedient": obedient,
    "thinker": thinker,
}


def written(statements: Sequence[SpokenStatement]) -> str:
    """Return the statements as an answer."""
    lines = all(one.text.startswith("- ") for one in statements)
    return ("\n" if lines else " ").join(one.text for one in statements) or NOT_TOLD
