"""The service's own sentences of a grounded answer, in the language of the question."""

from collections.abc import Sequence
from enum import StrEnum

TOPICS_MAX = 3
TOPIC_CHARS_MAX = 60


class Note(StrEnum):
    """What the service says of an answer itself."""

    NOT_TOLD = "not_told"  # the document does not tell
    NOT_ALL_TOLD = "not_all_told"  # it tells a part of what was asked
    UNSUPPORTED = "unsupported"  # nothing of the answer was found in the document
    WITHHELD_ONE = "withheld_one"
    WITHHELD = "withheld"
    CUT = "cut"  # the answer was too long to be checked to its end
    TOPICS = "topics"


TEXTS = {
    "en": {
        Note.NOT_TOLD: "The document does not say.",
        Note.NOT_ALL_TOLD: "The document does not say more about this.",
        Note.UNSUPPORTED: "The document does not say, as far as could be checked: nothing of the answer"
        " was found in"
        " it.",
        Note.WITHHELD_ONE: "One statement was left out, because it was not found in the document.",
        Note.WITHHELD: "{n} statements were left out, because they were not found in the document.",
        Note.CUT: "The answer was too long, and its end was left out.",
        Note.TOPICS: "It tells about: {topics}.",
    },
    "de": {
        Note.NOT_TOLD: "Das Dokument sagt dazu nichts.",
        Note.NOT_ALL_TOLD: "Mehr sagt das Dokument dazu nicht.",
        Note.UNSUPPORTED: "Das Dokument sagt dazu nichts, soweit es geprüft werden konnte: Nichts von der"
        " Antwort war"
        " darin zu finden.",
        Note.WITHHELD_ONE: "Eine Aussage wurde weggelassen, weil sie im Dokument nicht zu finden war.",
        Note.WITHHELD: "{n} Aussagen wurden weggelassen, weil sie im Dokument nicht zu finden waren.",
        Note.CUT: "Die Antwort war zu lang, ihr Ende wurde weggelassen.",
        Note.TOPICS: "Es handelt von: {topics}.",
    },
    "fr": {
        Note.NOT_TOLD: "Le document ne le dit pas.",
        Note.NOT_ALL_TOLD: "Le document n'en dit pas plus.",
        Note.UNSUPPORTED: "Le document ne le dit pas, pour autant que cela ait pu être vérifié : rien de"
        " la réponse ne"
        " s'y trouve.",
        Note.WITHHELD_ONE: "Une affirmation a été omise, car elle ne se trouve pas dans le document.",
        Note.WITHHELD: "{n} affirmations ont été omises, car elles ne se trouvent pas dans le document.",
        Note.CUT: "La réponse était trop longue, sa fin a été omise.",
        Note.TOPICS: "Il parle de : {topics}.",
    },
    "es": {
        Note.NOT_TOLD: "El documento no lo dice.",
        Note.NOT_ALL_TOLD: "El documento no dice más sobre esto.",
        Note.UNSUPPORTED: "El documento no lo dice, hasta donde se pudo comprobar: nada de la respuesta"
        " se encuentra en"
        " él.",
        Note.WITHHELD_ONE: "Se omitió una afirmación, porque no se encuentra en el documento.",
        Note.WITHHELD: "Se omitieron {n} afirmaciones, porque no se encuentran en el documento.",
        Note.CUT: "La respuesta era demasiado larga y se omitió su final.",
        Note.TOPICS: "Trata de: {topics}.",
    },
}


def own_text(
    language: str, *, told: bool, withheld: int, not_told: bool, cut: bool, topics: Sequence[str]
) -> str:
    """Return what the service says behind an answer, "" for nothing.

    `told`: some of it was told. `not_told`: the model said that the document does not tell. `cut`: the answer
    was ended before its own end.
    """
    texts, notes = TEXTS.get(language) or TEXTS["en"], list[str]()
    if told:
        if withheld:
            name = Note.WITHHELD_ONE if withheld == 1 else Note.WITHHELD
            notes.append(texts[name].replace("{n}", str(withheld)))
        elif not_told:
            notes.append(texts[Note.NOT_ALL_TOLD])
    elif withheld or not_told or not cut:
        notes.append(texts[Note.NOT_TOLD if not_told and not withheld else Note.UNSUPPORTED])
        if topics:
            named = ", ".join(topic[:TOPIC_CHARS_MAX] for topic in topics[:TOPICS_MAX])
            notes.append(texts[Note.TOPICS].replace("{topics}", named))
    if cut:
        notes.append(texts[Note.CUT])
    return " ".join(notes)
