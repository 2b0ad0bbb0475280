"""The text of a file: a pure function of its bytes. Entry: `extract(data, name)`.

    PDF      by its first bytes                              pdf.py, by pypdfium2
    Word     a ZIP that holds word/document.xml               word.py, by python-docx
    text     UTF-8, UTF-16 or UTF-32 by a byte order mark, else Windows-1252; Markdown by its name

It takes as much memory and time as the file makes it take: reading.py runs it in a process under limits.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from dub5.service.documents.kinds import FileKind, kind_of
from dub5.service.documents.model import PAGE_BREAK, DocumentKind
from dub5.service.documents.plain_text import clean_page, decode
from dub5.service.documents.refusals import FILE_BYTES_MAX, PAGES_MAX, TEXT_BYTES_MAX, ReadRefused
from dub5.service.documents.report import ReadText
from dub5.service.optional_parts import load_part

Reader = Callable[[bytes], list[str]]  # returns the pages; raises ReadRefused
READERS = {FileKind.PDF: ("document pdf", "no_pdf"), FileKind.WORD: ("document docx", "no_docx")}
KINDS = {FileKind.PDF: DocumentKind.PDF, FileKind.WORD: DocumentKind.WORD}
MARKDOWN = re.compile(r"\.(md|markdown|mdown|mkd)\Z", re.IGNORECASE)


def extract(data: bytes, name: str = "") -> ReadText:
    """Return the text of a file. `name` only tells Markdown from other text. Raises ReadRefused."""
    return reader_of(data, name)()


def reader_of(data: bytes, name: str) -> Callable[[], ReadText]:
    """Return what reads the file: all that is needed for it is imported now. Raises ReadRefused."""
    if not data:
        raise ReadRefused("empty")
    if len(data) > FILE_BYTES_MAX:
        raise ReadRefused("too_large")
    found = kind_of(data)
    if found in READERS:
        part, lack = READERS[found]
        try:
            reader: Reader = load_part(part)()
        except ImportError as error:
            raise ReadRefused(lack, f"install dub5[documents] ({error.name} is missing)") from None
        return lambda: _whole(KINDS[found], reader(data))
    if found is not FileKind.TEXT:
        raise ReadRefused(found.value)
    return lambda: _whole(_text_kind(name), decode(data).split(PAGE_BREAK))


def _text_kind(name: str) -> DocumentKind:
    return DocumentKind.MARKDOWN if MARKDOWN.search(name) else DocumentKind.TEXT


def _whole(kind: DocumentKind, pages: list[str]) -> ReadText:
    """Return the pages, cleaned, as one text. Raises ReadRefused."""
    if len(pages) > PAGES_MAX:
        if kind is DocumentKind.PDF:
            raise ReadRefused("too_many_pages")
        pages = ["\n".join(pages)]  # form feeds that are no ends of pages
    if sum(map(len, pages)) > 2 * TEXT_BYTES_MAX:  # with blanks that cleaning takes away
        raise ReadRefused("too_long")
    cleaned = [clean_page(page) for page in pages]
    text = PAGE_BREAK.join(cleaned)
    if len(text) > TEXT_BYTES_MAX or len(text.encode()) > TEXT_BYTES_MAX:
        raise ReadRefused("too_long")
    if not text.strip():
        _refuse_blank(kind)
    return ReadText(kind, len(pages), text)


def _refuse_blank(kind: DocumentKind) -> NoReturn:
    raise ReadRefused("no_text" if kind is DocumentKind.PDF else "blank")
