"""The kind of a file, from its bytes: its name and its content type are what somebody says it is.

Kinds that are not read have the name of their refusal (refusals.py).
"""

import io
import re
import zipfile
from enum import StrEnum

HEAD_BYTES = 1024
BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # of UTF-8 and UTF-16; that of UTF-32 begins as the second
_BLANK = b"\xef\xbb\xbf \t\r\n\x0b\x0c\0"
_HTML = re.compile(rb"(?is)\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_WORD_TEXT = re.compile(r"word/document\d*\.xml")
_ENCRYPTED, _WORD = "EncryptedPackage".encode("utf-16-le"), "WordDocument".encode("utf-16-le")


class FileKind(StrEnum):
    """What a file is."""

    PDF = "pdf"
    WORD = "docx"
    TEXT = "text"
    ENCRYPTED_WORD = "encrypted_docx"
    DAMAGED_WORD = "damaged_docx"
    OLD_WORD = "doc"
    OLD_OFFICE = "office"
    SPREADSHEET = "xlsx"
    PRESENTATION = "pptx"
    OPEN_DOCUMENT = "odt"
    BOOK = "epub"
    RICH_TEXT = "rtf"
    HTML = "html"
    XML = "xml"
    POSTSCRIPT = "postscript"
    IMAGE = "image"
    MEDIA = "media"
    ARCHIVE = "archive"
    PROGRAM = "program"
    BINARY = "binary"


# By the first bytes. What could also be the beginning of a text is looked at only where there are no letters.
FIRST_BYTES: tuple[tuple[bytes, FileKind], ...] = (
    (b"{\\rtf", FileKind.RICH_TEXT),
    (b"%!PS", FileKind.POSTSCRIPT),
    (b"\x89PNG\r\n\x1a\n", FileKind.IMAGE),
    (b"\xff\xd8\xff", FileKind.IMAGE),
    (b"II*\0", FileKind.IMAGE),
    (b"MM\0*", FileKind.IMAGE),
    (b"\x1f\x8b", FileKind.ARCHIVE),
    (b"\xfd7zXZ\0", FileKind.ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", FileKind.ARCHIVE),
    (b"(\xb5/\xfd", FileKind.ARCHIVE),
    (b"Rar!\x1a\x07", FileKind.ARCHIVE),
    (b"\x7fELF", FileKind.PROGRAM),
    (b"\xcf\xfa\xed\xfe", FileKind.PROGRAM),
    (b"\xca\xfe\xba\xbe", FileKind.PROGRAM),
    (b"\0asm", FileKind.PROGRAM),
)
FIRST_BYTES_OF_BINARY: tuple[tuple[bytes, FileKind], ...] = (
    (b"MZ", FileKind.PROGRAM),
    (b"GIF8", FileKind.IMAGE),
    (b"BM", FileKind.IMAGE),
    (b"8BPS", FileKind.IMAGE),
    (b"BZh", FileKind.ARCHIVE),
    (b"ID3", FileKind.MEDIA),
    (b"OggS", FileKind.MEDIA),
    (b"\x1aE\xdf\xa3", FileKind.MEDIA),
    (b"fLaC", FileKind.MEDIA),
)
IMAGE_BRANDS = (b"heic", b"heix", b"mif1", b"avif")  # of what MPEG-4 files begin with
ZIP_NAMES = {"xl/workbook.xml": FileKind.SPREADSHEET, "ppt/presentation.xml": FileKind.PRESENTATION}


def kind_of(data: bytes) -> FileKind:
    """Return what a file is."""
    if data[:HEAD_BYTES].lstrip(_BLANK).startswith(b"%PDF-"):
        return FileKind.PDF
    if data.startswith(b"PK\x03\x04"):
        return _kind_of_zip(data)
    if data.startswith(_OLE):
        return _kind_of_ole(data)
    for first, kind in FIRST_BYTES:
        if data.startswith(first):
            return kind
    if b"\0" in data and not data.startswith(BOMS):
        return _kind_of_binary(data)
    head = data[: 4 * HEAD_BYTES].removeprefix(BOMS[0])
    if _HTML.match(head):
        return FileKind.HTML
    return FileKind.XML if head.lstrip().startswith(b"<?xml") else FileKind.TEXT


def _kind_of_zip(data: bytes) -> FileKind:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            stored = {one.filename: one for one in archive.infolist()}.get("mimetype")
            said = archive.read("mimetype")[:100] if stored is not None and stored.file_size < 200 else b""
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError):
        return FileKind.DAMAGED_WORD if b"word/" in data[: 64 * HEAD_BYTES] else FileKind.ARCHIVE
    if any(map(_WORD_TEXT.fullmatch, names)):
        return FileKind.WORD
    for name, kind in ZIP_NAMES.items():
        if name in names:
            return kind
    if said.startswith(b"application/vnd.oasis.opendocument"):
        return FileKind.OPEN_DOCUMENT
    return FileKind.BOOK if said.startswith(b"application/epub") else FileKind.ARCHIVE


def _kind_of_ole(data: bytes) -> FileKind:
    """Return what a file of old Office is. A new one with a password lies in such a file, too."""
    if _ENCRYPTED in data:
        return FileKind.ENCRYPTED_WORD
    return FileKind.OLD_WORD if _WORD in data else FileKind.OLD_OFFICE


def _kind_of_binary(data: bytes) -> FileKind:
    for first, kind in FIRST_BYTES_OF_BINARY:
        if data.startswith(first):
            return kind
    if data[4:8] == b"ftyp":
        return FileKind.IMAGE if data[8:12] in IMAGE_BRANDS else FileKind.MEDIA
    if data.startswith(b"RIFF"):
        return FileKind.IMAGE if data[8:12] == b"WEBP" else FileKind.MEDIA
    return FileKind.ARCHIVE if data[257:262] == b"ustar" else FileKind.BINARY
