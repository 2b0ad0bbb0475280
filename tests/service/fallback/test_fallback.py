"""What a question is about, which words fit it, and that no text is missing in any language."""

import re
from pathlib import Path

import pytest

from dub5.service.config import templates
from dub5.service.config.templates import NAMES, OFFLINE, PHRASES, Kind
from dub5.service.fallback.fallback import ours, waiting
from dub5.service.fallback.question import READ_CHARS, kind_of, language_of, plain

KNOWN = ("en", "de", "es", "fr")
QUESTIONS = {
    Kind.CRISIS: [
        "I want to kill myself",
        "i don’t want to live anymore",
        "Sometimes I think everybody would be better off without me.",
        "I took an overdose",
        "My husband hits me",
        "Ich will mich umbringen",
        "ICH MÖCHTE STERBEN",
        "Ich denke an Suizid",
        "Er schlägt mich",
        "quiero morirme",
        "Estoy pensando en el suicidio",
        "J'ai envie de mourir",
        "je veux me suicider",
        "Translate into German: I want to end my life",
        "how can I hurt myself",
    ],
    Kind.MEDICAL: [
        "What are the side effects of ibuprofen?",
        "Ich habe seit drei Tagen Fieber",
        "Tengo fiebre y dolor de cabeza",
        "Je suis enceinte, puis-je prendre ce médicament ?",
    ],
    Kind.LEGAL: [
        "Can my landlord evict me?",
        "Mein Chef hat mir gekündigt, brauche ich einen Anwalt?",
        "¿Necesito un abogado para el divorcio?",
        "Dois-je porter plainte ?",
    ],
    Kind.TRANSLATION: [
        "Translate this into French: good night",
        "Übersetze bitte: Guten Morgen",
        "¿Cómo se dice gato en inglés?",
        "Traduis ce texte en anglais",
    ],
    Kind.SUMMARY: [
        "Summarize the following text: ...",
        "Fasse den Text zusammen",
        "Resume este texto",
        "tl;dr please",
    ],
    Kind.CODE: [
        "Write a Python function that adds two numbers",
        "```\nfor x in y\n```",
        "Why does my unit test fail?",
        "Programmiere mir einen Taschenrechner",
        "SELECT name FROM users",
    ],
    Kind.GREETING: ["Hi", "hello!", "Hey there", "Guten Morgen!", "¡Hola!", "Bonjour", "Hallo, wie geht's?"],
    Kind.THANKS: ["Thanks!", "ok, thank you very much", "Vielen Dank.", "muchas gracias", "Merci beaucoup !"],
    Kind.ABOUT: ["Who are you?", "are you down", "Was kannst du?", "¿Quién eres?", "Qui es-tu ?", "help"],
    Kind.GENERAL: [
        "What is the capital of France?",
        "How do I kill a process that does not end?",
        "My phone battery died, which one should I buy?",
        "Hi, which mountain is the highest?",
        "Thanks for nothing: tell me about the moon landing",
        "Wie beende ich einen Roman?",
        "Why do whales jump?",
        "",
    ],
}


@pytest.mark.parametrize(
    ("kind", "question"), [(kind, question) for kind, asked in QUESTIONS.items() for question in asked]
)
def test_kinds(kind: Kind, question: str) -> None:
    """Each is taken for what it is; what fits nothing is taken for nothing."""
    assert kind_of(question) is kind


@pytest.mark.parametrize("where", [0, 107_000])
def test_crisis_in_a_long_text(where: int) -> None:
    """At either end of a text of any length it is not missed."""
    filler = "The sea was calm. " * 6_000
    text = f"{filler[:where]} I want to end my life. {filler[where:]}"
    assert len(text) > 10 * READ_CHARS
    assert kind_of(text) is Kind.CRISIS


@pytest.mark.parametrize(
    "evil", ["a " * 100_000, "i want " * 50_000, "```" * 50_000, "select what is " * 20_000, "é" * 200_000]
)
def test_only_so_much_is_read(evil: str) -> None:
    """A text of any length costs no more than one of a few pages."""
    assert len(plain(evil)) <= 2 * READ_CHARS
    kind_of(evil)


@pytest.mark.parametrize(
    ("question", "accepts", "language"),
    [
        ("What is the capital of France?", "de", "en"),
        ("Was ist die Hauptstadt von Frankreich?", "en", "de"),
        ("¿Cuál es la capital de Francia?", "en", "es"),
        ("Quelle est la capitale de la France ?", "en", "fr"),
        ("Danke", "", "de"),
        ("1 + 1", "fr;q=0.5, es;q=0.9, it", "es"),
        ("1 + 1", "de;q=0, *", "en"),
        ("1 + 1", "de;q=x,,;;q=1", "en"),
        ("東京の天気は?", "", "en"),
    ],
)
def test_languages(question: str, accepts: str, language: str) -> None:
    """The question's own where that is plain; else what the client accepts best; else English."""
    assert language_of(question, accepts, KNOWN) == language


class TestTexts:
    def test_whole(self) -> None:
        """Every language has every text, and each says that it is automatic."""
        assert set(ours()) == set(KNOWN)
        for language, texts in ours().items():
            assert set(texts) == set(NAMES)
            for name in (*Kind, OFFLINE):
                assert re.search("autom[aá]t", texts[name]), (language, name)

    def test_crisis_names_help(self) -> None:
        """Somebody to call, in each language, with nothing to fill in."""
        for texts in ours().values():
            assert "112" in texts["crisis"] and "findahelpline.com" in texts["crisis"]
            assert "{" not in texts["crisis"]

    def test_all_but_those_say_when(self) -> None:
        """The others say when to ask again."""
        without = {"thanks", "crisis", OFFLINE, *PHRASES}
        assert all("{wait}" in texts[name] for texts in ours().values() for name in set(NAMES) - without)

    @pytest.mark.parametrize(
        ("wait_s", "said"),
        [
            (None, "in a little while"),
            (0.2, "in about 2 seconds"),
            (42.4, "in about 42 seconds"),
            (120.0, "in about 2 minutes"),
            (3_600.0, "in a little while"),
        ],
    )
    def test_when(self, wait_s: float | None, said: str) -> None:
        """As exactly as can be promised."""
        assert waiting(ours(), "en", wait_s) == said


class TestOwnFile:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[en]\ngreting = 'Hi'", "did you mean 'greeting'?"),
            ("[en]\ngreeting = 1", "en.greeting: must be a text."),
            ("[en]\ngreeting = ' '", "en.greeting: must be a text."),
            ("[en]\ngreeting = 'Hi {name}'", "'{name}'"),
            ("[en]\nseconds = '{wait}'", "'{wait}'"),
            ("greeting = 'Hi'", "a table for each language"),
            ("[English]\ngreeting = 'Hi'", "a table for each language"),
            (f"[en]\ngreeting = '{'x' * 4_001}'", "longer than 4,000"),
            ("[en", "not valid TOML"),
            ("x" * (templates.BYTES_MAX + 1), "larger than"),
        ],
    )
    def test_problems(self, tmp_path: Path, text: str, problem: str) -> None:
        """Each thing that cannot be used is said, in words."""
        file = tmp_path / "texts.toml"
        file.write_text(text)
        found, problems = templates.read(file)
        assert found == {} and len(problems) == 1 and problem in problems[0]

    def test_no_file(self, tmp_path: Path) -> None:
        """Nor is a file that is not there."""
        _, problems = templates.read(tmp_path / "none.toml")
        assert "cannot be read" in problems[0]
