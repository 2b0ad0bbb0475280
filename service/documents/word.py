"""The text of a Word file, by python-docx. Imported only where one is read: `load_part("document docx")`.

headings  as Markdown has them, by the styles "heading 1" to "heading 9" and "Title"
lists     a hyphen before each entry
tables    a line for each row, cells between bars; cells of several paragraphs one after another
boxes     after the paragraph that holds them; page headers before all
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import docx
from docx.opc.exceptions import PackageNotFoundError
from docx.opc.oxml import parse_xml
from docx.opc.packuri import PACKAGE_URI, PackURI
from docx.oxml.ns import qn
from lxml import etree

from dub5.service.documents.refusals import TEXT_BYTES_MAX, ReadRefused

ENTRIES_MAX = 2_000
XML_BYTES_MAX = 16 * 1024 * 1024
PARTS_MAX = 50  # with text, that one part refers to
MAIN, WITH_TEXT = ("/officeDocument",), ("/styles", "/header")
ENCRYPTED_FLAG = 0x1
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DECLARATION = re.compile(rb"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_MACROS_OR_TEMPLATE = re.compile(rb"macroEnabled|template\.main\+xml")
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_P, _TBL, _TR, _TC = qn("w:p"), qn("w:tbl"), qn("w:tr"), qn("w:tc")
_T, _TAB, _BOX, _STYLE = qn("w:t"), qn("w:tab"), qn("w:txbxContent"), qn("w:pStyle")
_PROPERTIES, _VALUE, _NUMBERED = qn("w:pPr"), qn("w:val"), qn("w:numPr")
LIST = -1  # in place of the level of a heading
_BREAKS = (qn("w:br"), qn("w:cr"))
_HYPHEN = qn("w:noBreakHyphen")
_LEFT_OUT = frozenset({qn("w:del"), qn("w:moveFrom"), f"{_MC}Fallback", _PROPERTIES, qn("w:rPr")})
_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
# What python-docx and lxml raise for a file that is not as they expect.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, etree.LxmlError, PackageNotFoundError),
    *(KeyError, ValueError, IndexError, AttributeError, TypeError, AssertionError, RecursionError),
    *(EOFError, OSError, NotImplementedError, RuntimeError, OverflowError),
)


class WordReader:
    """Reads Word files."""

    def __call__(self, data: bytes) -> list[str]:
        """Return the text, as one page. Raises ReadRefused."""
        try:
            return ["\n\n".join(_texts(_text_parts(data)))]
        except DAMAGE as error:
            raise ReadRefused("damaged_docx", type(error).__name__) from None


def _text_parts(data: bytes) -> io.BytesIO:
    """Return the file with the parts alone that hold text: no picture, no macro, nothing that lies elsewhere.

    Raises ReadRefused, and DAMAGE.
    """
    reduced = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(reduced, "w") as kept:
        if len(archive.infolist()) > ENTRIES_MAX:
            raise ReadRefused("unpacks_too_large")
        types = _part(archive, "[Content_Types].xml")
        if _MACROS_OR_TEMPLATE.search(types):
            raise ReadRefused("docm")
        kept.writestr("[Content_Types].xml", types)
        (main,) = _relate(archive, kept, PACKAGE_URI, MAIN)[:1]
        kept.writestr(main.membername, _part(archive, main.membername))
        for part in _relate(archive, kept, main, WITH_TEXT):
            if part.membername not in kept.namelist():
                kept.writestr(part.membername, _part(archive, part.membername))
    reduced.seek(0)
    return reduced


def _relate(
    archive: zipfile.ZipFile, kept: zipfile.ZipFile, source: PackURI, kinds: tuple[str, ...]
) -> list[PackURI]:
    """Keep the relationships of a part that are of these kinds; return the parts that are there.

    Raises ReadRefused, and DAMAGE.
    """
    member, found, names = source.rels_uri.membername, list[PackURI](), set(archive.namelist())
    if member not in names and source != PACKAGE_URI:
        return found
    related = parse_xml(_part(archive, member))  # type: ignore[arg-type]  # bytes, or it fails
    for one in list(related):
        kind, mode = one.get("Type", ""), one.get("TargetMode", "Internal")
        if kind.startswith("http://purl.oclc.org/ooxml/"):
            raise ReadRefused("strict_docx")
        part = None
        if kind.endswith(kinds) and mode == "Internal":
            part = PackURI.from_rel_ref(source.baseURI, one.get("Target", ""))
        if part is not None and part.membername in names:
            found.append(part)
        else:
            related.remove(one)
    kept.writestr(member, etree.tostring(related, encoding="utf-8", xml_declaration=True))
    return found[:PARTS_MAX]


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a part of XML. Raises ReadRefused for what no Word file holds, and what zipfile raises."""
    entry = archive.getinfo(name)
    if entry.flag_bits & ENCRYPTED_FLAG:
        raise ReadRefused("encrypted_docx")
    if entry.compress_type not in COMPRESSIONS:
        raise ReadRefused("damaged_docx")
    if entry.file_size > XML_BYTES_MAX:
        raise ReadRefused("unpacks_too_large")
    with archive.open(entry) as part:
        data = part.read(XML_BYTES_MAX + 1)
    if len(data) > XML_BYTES_MAX:
        raise ReadRefused("unpacks_too_large")
    if _DECLARATION.search(data.replace(b"\0", b"")):  # in UTF-16 as well
        raise ReadRefused("declares_entities")
    return data


def _texts(data: io.BytesIO) -> Iterator[str]:
    """Yield the headers of its pages, and each block of the body. Raises ReadRefused, and DAMAGE."""
    file = docx.Document(data)
    styles = _levels(file.part)
    chars, known = 0, set[str]()
    for header in _related(file.part, "/header"):
        text = "\n".join(_blocks(header.element, styles))
        if text and text not in known:
            known.add(text)
            yield text
    for block in _blocks(file.element.body, styles):
        chars += len(block)
        if chars > 2 * TEXT_BYTES_MAX:
            raise ReadRefused("too_long")
        yield block


def _related(part: Any, kind: str) -> list[Any]:
    """Return the parts of XML that are related to a part in this way."""
    found = [one.target_part for one in part.rels.values() if one.reltype.endswith(kind)]
    return [one for one in found if hasattr(one, "element")]


def _levels(part: Any) -> dict[str, int]:
    """Return the level of each style of headings, or LIST, by its id."""
    levels = {}
    for styles in _related(part, "/styles"):
        for style in styles.element.iter(qn("w:style")):
            name = style.find(qn("w:name"))
            said = "" if name is None else name.get(_VALUE, "")
            if (heading := _HEADING.fullmatch(said)) is not None:
                levels[style.get(qn("w:styleId"), "")] = min(int(heading[1]), 6)
            elif said.lower() == "title":
                levels[style.get(qn("w:styleId"), "")] = 1
            elif said.lower().startswith("list ") or style.find(f"{_PROPERTIES}/{_NUMBERED}") is not None:
                levels[style.get(qn("w:styleId"), "")] = LIST
    return levels


def _blocks(parent: Any, styles: dict[str, int]) -> Iterator[str]:
    """Yield the texts of the paragraphs and tables in an element."""
    for child in parent.iterchildren():
        if child.tag == _P:
            yield from _paragraph(child, styles)
        elif child.tag == _TBL:
            if table := "\n".join(row for row in _rows(child, styles) if row):
                yield table
        elif isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            yield from _blocks(child, styles)  # a content control, or a change that was made


def _rows(parent: Any, styles: dict[str, int]) -> Iterator[str]:
    for child in parent.iterchildren():
        if child.tag == _TR:
            yield _row(child, styles)
        elif isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            yield from _rows(child, styles)


def _row(row: Any, styles: dict[str, int]) -> str:
    """Return the text of a row. A cell of several lines is a part of a layout: it stands for itself."""
    cells = ["\n".join(_blocks(cell, styles)).strip() for cell in _cells(row)]
    cells = [cell for cell in cells if cell]
    return ("\n" if any("\n" in cell for cell in cells) else " | ").join(cells)


def _cells(row: Any) -> Iterator[Any]:
    for child in row.iterchildren():
        if child.tag == _TC:
            yield child
        elif isinstance(child.tag, str) and child.tag not in _LEFT_OUT:
            yield from _cells(child)


def _paragraph(paragraph: Any, styles: dict[str, int]) -> Iterator[str]:
    """Yield the text of a paragraph, and that of each box in it."""
    boxes = list[Any]()
    text = "".join(_pieces(paragraph, boxes)).strip()
    if text:
        yield _marked(paragraph, text, styles)
    for box in boxes:
        yield from _blocks(box, styles)


def _marked(paragraph: Any, text: str, styles: dict[str, int]) -> str:
    """Return the text of a heading or of an entry of a list, marked as one."""
    properties = paragraph.find(_PROPERTIES)
    if properties is None:
        return text
    style = properties.find(_STYLE)
    level = 0 if style is None else styles.get(style.get(_VALUE, ""), 0)
    if level > 0:
        return f"{'#' * level} {' '.join(text.split())}"
    return f"- {text}" if level == LIST or properties.find(_NUMBERED) is not None else text


def _pieces(parent: Any, boxes: list[Any]) -> Iterator[str]:
    """Yield the pieces of text in an element; add the text boxes in it to `boxes`."""
    for child in parent.iterchildren():
        tag = child.tag
        if tag == _T:
            yield child.text or ""
        elif tag == _TAB:
            yield "\t"
        elif tag in _BREAKS:
            yield "\n"
        elif tag == _HYPHEN:
            yield "-"
        elif tag == _BOX:
            boxes.append(child)
        elif isinstance(tag, str) and (tag not in _LEFT_OUT):
            yield from _pieces(child, boxes)
