"""Decks as files: CSV for spreadsheets, and text that Anki imports.

csv   RFC 4180, in UTF-8 with a byte order mark, without which Excel takes it for another encoding. A cell
      that a spreadsheet would take for a formula begins with an apostrophe.
anki  fields between tabs, all in quotes, after header lines that say so
"""

import csv
import io
import re
from collections.abc import Iterable
from urllib.parse import quote

from dub5.service.study.model import DeckCard

BOM = "\ufeff"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("Front", "Back", "Quote", "Source")
NAME_CHARS_MAX = 80
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|%;\u202a-\u202e\u2066-\u2069\ud800-\udfff]+')


def as_csv(cards: Iterable[DeckCard]) -> bytes:
    """Return the cards as a CSV file with a row of names."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for card in cards:
        writer.writerow([_cell(one) for one in (card.front, card.back, card.quote, card.source)])
    return (BOM + file.getvalue()).encode()


def as_anki(cards: Iterable[DeckCard], title: str) -> bytes:
    """Return the cards as a text file for the import of Anki."""
    file = io.StringIO()
    deck = " ".join(title.split()) or "Flashcards"
    columns = "\t".join(COLUMNS)
    file.write(f"#separator:tab\n#html:false\n#deck:{deck}\n#columns:{columns}\n")
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    for card in cards:
        writer.writerow([card.front, card.back, card.quote, card.source])
    return file.getvalue().encode()


def attachment(title: str, ending: str) -> str:
    """Return the header content-disposition of a file that is named after any title (RFC 6266)."""
    name = " ".join(_UNSAFE.sub(" ", title).split())[:NAME_CHARS_MAX].strip(". ") or "flashcards"
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{quote(name, safe='')}.{ending}"


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
