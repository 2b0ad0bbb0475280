"""Checks of [documents]: what they need, and what this machine lacks to read them safely."""

import importlib.util
import sys

from dub5.service.config.settings import Settings

PACKAGES = {"PDFs": "pypdfium2", "Word files": "docx"}


def document_problems(settings: Settings) -> list[str]:
    """Return one sentence for each contradiction."""
    if settings.documents is None or settings.conversation is not None:
        return []
    return ["documents: are kept in the database of conversations; add a [conversation] table."]


def document_warnings(settings: Settings) -> list[str]:
    """Return one sentence for each thing that is missing here."""
    if settings.documents is None:
        return []
    found = [
        f"documents: {what} will be refused: the package {package} is missing; install dub5[documents]."
        for what, package in PACKAGES.items()
        if importlib.util.find_spec(package) is None
    ]
    if sys.platform == "darwin":
        found.append(
            "documents: macOS does not bound the memory of a process; a file made to use it up is stopped by"
            " its time alone."
        )
    return found
