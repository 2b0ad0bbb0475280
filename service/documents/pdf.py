"""The pages of a PDF, by PDFium. Imported only where a PDF is read: `load_part("document pdf")`."""

import re
import unicodedata
from collections import Counter

import pypdfium2
from pypdfium2 import PdfiumError, raw

from dub5.service.documents.refusals import PAGES_MAX, TEXT_BYTES_MAX, ReadRefused

UNKNOWN_SHARE_MAX = 0.3
PAGE_CHARS_MAX = 2 * TEXT_BYTES_MAX
_HYPHENATED = re.compile(
    "(?<=\\w)[\x02\ufffe\xad]\\s*\n?"
)  # how PDFium tells a word that goes on in the next line
_LIGATURES = {
    0xFB00 + number: text for number, text in enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"))
}
UNKNOWN = frozenset({"Cc", "Cn", "Co"})  # categories of what stands for a letter that nobody knows


class PdfReader:
    """Reads PDFs."""

    def __call__(self, data: bytes) -> list[str]:
        """Return the text of each page. Raises ReadRefused."""
        try:
            file = pypdfium2.PdfDocument(data)
        except PdfiumError as error:
            is_locked = error.err_code == raw.FPDF_ERR_PASSWORD
            raise ReadRefused("encrypted_pdf" if is_locked else "damaged_pdf") from None
        count = len(file)
        if count > PAGES_MAX:
            raise ReadRefused("too_many_pages")
        if count == 0:
            raise ReadRefused("damaged_pdf")
        return _pages(file, count)


def _pages(file: pypdfium2.PdfDocument, count: int) -> list[str]:
    """Return the text of each page. A damaged one is empty, unless all are. Raises ReadRefused."""
    pages, chars, damaged = list[str](), 0, 0
    for index in range(count):
        try:
            page = file[index]
            text = page.get_textpage()
            if text.count_chars() > PAGE_CHARS_MAX:
                raise ReadRefused("too_long")
            pages.append(_tidy(text.get_text_range()))
            text.close()
            page.close()
        except PdfiumError:
            damaged += 1
            pages.append("")
        chars += len(pages[-1])
        if chars > PAGE_CHARS_MAX:
            raise ReadRefused("too_long")
    if damaged == count:
        raise ReadRefused("damaged_pdf")
    if _are_unknown("".join(pages)):
        raise ReadRefused("unknown_letters")
    return pages


def _tidy(text: str) -> str:
    return _HYPHENATED.sub("", text.replace("\r\n", "\n")).translate(_LIGATURES)


def _are_unknown(text: str) -> bool:
    """Return whether too many of the characters stand for letters that nobody knows."""
    counted = Counter(text)
    unknown = shown = 0
    for char, count in counted.items():
        if char.isspace():
            continue
        shown += count
        if char == "\ufffd" or unicodedata.category(char) in UNKNOWN:
            unknown += count
    return unknown > UNKNOWN_SHARE_MAX * shown
