"""Why a file is not read: a closed list, each with one sentence for the person who uploaded it."""

from enum import StrEnum
from typing import NamedTuple

FILE_BYTES_MAX = 10 * 1024 * 1024
TEXT_BYTES_MAX = 1024 * 1024  # as UTF-8
PAGES_MAX = 500

_SAVE = "save it as .pdf or .docx, or paste the text as .txt"
_ANEW = "save it anew, or paste the text as .txt"


class ReadResult(StrEnum):
    """What became of reading a file: "read", or why not."""

    READ = "read"
    EMPTY = "empty"
    TOO_LARGE = "too_large"  # the file
    TOO_LONG = "too_long"  # its text, or its pages
    ENCRYPTED = "encrypted"
    NO_TEXT = "no_text"  # pictures of pages
    UNKNOWN_LETTERS = "unknown_letters"  # its fonts do not say which letters they draw
    OTHER_KIND = "other_kind"
    DAMAGED = "damaged"
    UNSAFE = "unsafe"  # made to use up memory or time
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"  # the reading process
    MISSING_PACKAGE = "missing_package"
    OVERLOADED = "overloaded"  # too many files wait
    CANCELLED = "cancelled"  # the client has left


class ReadRefusal(NamedTuple):
    """A reason for which a file is not read. `sentence`: for the person, with what to do."""

    result: ReadResult
    sentence: str


def _other(what: str, instead: str = _SAVE) -> ReadRefusal:
    return ReadRefusal(ReadResult.OTHER_KIND, f"This is {what}, which is not read here: {instead}.")


REFUSALS = {
    "empty": ReadRefusal(ReadResult.EMPTY, "This file is empty: choose one that holds text."),
    "blank": ReadRefusal(ReadResult.EMPTY, "This file holds blanks alone: choose one that holds text."),
    "too_large": ReadRefusal(
        ReadResult.TOO_LARGE,
        f"This file is larger than {FILE_BYTES_MAX // 2**20} MiB: leave out its pictures, or upload it in"
        " parts.",
    ),
    "too_long": ReadRefusal(
        ReadResult.TOO_LONG,
        f"This file holds more than {TEXT_BYTES_MAX // 2**20} MiB of text: upload the parts that matter.",
    ),
    "too_many_pages": ReadRefusal(
        ReadResult.TOO_LONG, f"This PDF has more than {PAGES_MAX} pages: upload the pages that matter."
    ),
    "encrypted_pdf": ReadRefusal(
        ReadResult.ENCRYPTED, "This PDF is protected by a password: upload a version without it."
    ),
    "encrypted_docx": ReadRefusal(
        ReadResult.ENCRYPTED, "This Word file is protected by a password: upload a version without it."
    ),
    "no_text": ReadRefusal(
        ReadResult.NO_TEXT,
        "This PDF holds pictures of pages, not text: upload a version with text, or paste the text as .txt.",
    ),
    "unknown_letters": ReadRefusal(
        ReadResult.UNKNOWN_LETTERS,
        "The fonts of this PDF hide which letters they draw: export it anew, or paste the text as .txt.",
    ),
    "doc": _other("a Word file of the old format (.doc)", "save it as .docx or .pdf"),
    "office": _other("an Office file of an old format"),
    "strict_docx": _other("a Word file in strict Open XML", "save it as a usual Word document (.docx)"),
    "docm": _other("a Word file with macros, or a template", "save it as a Word document (.docx)"),
    "xlsx": _other("a spreadsheet (.xlsx)"),
    "pptx": _other("a presentation (.pptx)"),
    "odt": _other("an OpenDocument file (.odt)"),
    "epub": _other("an e-book (.epub)"),
    "rtf": _other("a rich text file (.rtf)"),
    "html": _other("a web page (HTML)"),
    "xml": _other("an XML file"),
    "postscript": _other("a PostScript file"),
    "image": _other("a picture", "upload a PDF or Word file with text, or paste the text as .txt"),
    "media": _other("a sound or a film", "upload a PDF or Word file with text, or paste the text as .txt"),
    "archive": _other("an archive (such as .zip)", "unpack it, and upload a .pdf, .docx, .md or .txt of it"),
    "program": _other("a program", "upload a .pdf, .docx, .md or .txt"),
    "binary": ReadRefusal(
        ReadResult.OTHER_KIND,
        "This file holds no text that can be read: upload a .pdf or .docx, or a .txt or .md saved as UTF-8.",
    ),
    "damaged_pdf": ReadRefusal(ReadResult.DAMAGED, f"This PDF is damaged or not whole: {_ANEW}."),
    "damaged_docx": ReadRefusal(ReadResult.DAMAGED, f"This Word file is damaged or not whole: {_ANEW}."),
    "damaged_text": ReadRefusal(
        ReadResult.DAMAGED, "This text is not whole: save it anew as UTF-8, and upload that."
    ),
    "unpacks_too_large": ReadRefusal(
        ReadResult.UNSAFE, f"What this Word file holds is far too large when unpacked: {_ANEW}."
    ),
    "declares_entities": ReadRefusal(
        ReadResult.UNSAFE, f"This Word file declares a document type, which Word never does: {_ANEW}."
    ),
    "timed_out": ReadRefusal(
        ReadResult.TIMED_OUT, f"Reading this file takes too long: upload a part of it, {_ANEW}."
    ),
    "out_of_memory": ReadRefusal(
        ReadResult.OUT_OF_MEMORY, f"Reading this file takes too much memory: upload a part of it, {_ANEW}."
    ),
    "crashed": ReadRefusal(ReadResult.CRASHED, f"This file is damaged, and cannot be read: {_ANEW}."),
    "overloaded": ReadRefusal(ReadResult.OVERLOADED, "Many files are being read at this moment."),
    "no_pdf": ReadRefusal(
        ReadResult.MISSING_PACKAGE, "PDFs are not read on this server now: paste the text as .txt."
    ),
    "no_docx": ReadRefusal(
        ReadResult.MISSING_PACKAGE, "Word files are not read on this server now: paste the text as .txt."
    ),
    "no_reader": ReadRefusal(
        ReadResult.CRASHED,
        "Files are not read on this server now: tell its operator, who finds why in its log.",
    ),
}


class ReadRefused(Exception):
    """Raised for a file that is not read. `name`: of a refusal; `why`: more of it, for the operator alone."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(REFUSALS[name].sentence)
        self.name = name
        self.result, self.sentence = REFUSALS[name]
        self.why = why
