"""The texts of a substitute: none is missing in any language, and an operator's own file is read strictly."""

import re
from pathlib import Path

import pytest

from dub5.service.config import templates
from dub5.service.config.templates import GENERAL, NAMES, OFFLINE
from dub5.service.fallback.fallback import accepted_languages, own_templates, wait_phrase

KNOWN = ("en", "de", "es", "fr")


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        ("de", ["de"]),
        ("fr;q=0.5, es;q=0.9, it", ["it", "es", "fr"]),
        ("fr-CH, de;q=0.5", ["fr", "de"]),
        ("de;q=0, *", ["*"]),
        ("de;q=x,,;;q=1", [""]),
        ("", [""]),
    ],
)
def test_accepted_languages(header: str, languages: list[str]) -> None:
    """The most wanted language comes first; what is not wanted or makes no sense is left out, or matches
    nothing."""
    assert accepted_languages(header) == languages


class TestTexts:
    def test_whole(self) -> None:
        """Every language has every text, and each says that it is automatic."""
        assert set(own_templates()) == set(KNOWN)
        for language, texts in own_templates().items():
            assert set(texts) == set(NAMES)
            for name in (GENERAL, OFFLINE):
                assert re.search("autom[aá]t", texts[name]), (language, name)

    def test_says_when(self) -> None:
        """The fallback text says when to ask again."""
        assert all("{wait}" in texts[GENERAL] for texts in own_templates().values())

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
        """The fallback text gives the time as exactly as it can be known."""
        assert wait_phrase(own_templates(), "en", wait_s) == said


class TestOwnFile:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[en]\ngenerl = 'Hi'", "did you mean 'general'?"),
            ("[en]\ngeneral = 1", "en.general: must be text."),
            ("[en]\ngeneral = ' '", "en.general: must be text."),
            ("[en]\ngeneral = 'Hi {name}'", "'{name}'"),
            ("[en]\nseconds = '{wait}'", "'{wait}'"),
            ("general = 'Hi'", "a table for each language"),
            ("[English]\ngeneral = 'Hi'", "a table for each language"),
            (f"[en]\ngeneral = '{'x' * 4_001}'", "longer than 4,000"),
            ("[en", "not valid TOML"),
            ("x" * (templates.BYTES_MAX + 1), "larger than"),
        ],
    )
    def test_problems(self, tmp_path: Path, text: str, problem: str) -> None:
        """Each problem of a file is reported in words."""
        file = tmp_path / "texts.toml"
        file.write_text(text)
        found, problems = templates.read(file)
        assert found == {} and len(problems) == 1 and problem in problems[0]

    def test_no_file(self, tmp_path: Path) -> None:
        """A missing file is reported in words."""
        _, problems = templates.read(tmp_path / "none.toml")
        assert "cannot be read" in problems[0]

    def test_older_files(self, tmp_path: Path) -> None:
        """Texts for kinds of questions that older files hold are no problem; they are named, and never
        used."""
        file = tmp_path / "texts.toml"
        file.write_text("[en]\ngreeting = 'Hi'\ncrisis = 'Call'\ngeneral = 'Not now. {wait}'\n")
        assert templates.read(file) == ({"en": {"general": "Not now. {wait}"}}, [])
        assert templates.unused(file) == ["en.greeting", "en.crisis"]
