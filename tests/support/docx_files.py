"""Word files, written by hand: `make_docx("# Heading", "A paragraph.", [["a cell", "another"]])`.

Odd ones: `docx_of(parts)` from the parts themselves; `PARTS` are those of an empty file.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

Block = str | Sequence[Sequence[str]]  # a paragraph, with "# " a heading; or the rows of a table
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = "application/vnd.openxmlformats-officedocument.wordprocessingml"
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
CONTENT_TYPES = (
    f'{XML}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/word/document.xml" ContentType="{TYPES}.document.main+xml"/>'
    f'<Override PartName="/word/styles.xml" ContentType="{TYPES}.styles+xml"/></Types>'
)
PARTS = {
    "[Content_Types].xml": CONTENT_TYPES,
    "_rels/.rels": f'{XML}<Relationships xmlns="{RELATIONSHIPS}">'
    f'<Relationship Id="rId1" Type="{RELATED}/officeDocument" Target="word/document.xml"/></Relationships>',
    "word/_rels/document.xml.rels": f'{XML}<Relationships xmlns="{RELATIONSHIPS}">'
    f'<Relationship Id="rId1" Type="{RELATED}/styles" Target="styles.xml"/></Relationships>',
    "word/styles.xml": f'{XML}<w:styles xmlns:w="{WORD}"><w:style w:type="paragraph" w:styleId="Heading1">'
    '<w:name w:val="heading 1"/></w:style></w:styles>',
}


def make_docx(*blocks: Block) -> bytes:
    """Return a Word file with these blocks."""
    return docx_of(PARTS | {"word/document.xml": document("".join(map(block, blocks)))})


def document(body: str, before: str = "") -> str:
    """Return the part of the text. `before`: between the XML declaration and the root."""
    return f'{XML}{before}<w:document xmlns:w="{WORD}"><w:body>{body}<w:sectPr/></w:body></w:document>'


def block(given: Block) -> str:
    """Return a paragraph, a heading or a table."""
    if not isinstance(given, str):
        rows = [f"<w:tr>{''.join(f'<w:tc>{block(cell)}</w:tc>' for cell in row)}</w:tr>" for row in given]
        return f"<w:tbl><w:tblPr/><w:tblGrid/>{''.join(rows)}</w:tbl>"
    style = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>' if given.startswith("# ") else ""
    return f"<w:p>{style}{run(given.removeprefix('# '))}</w:p>"


def run(text: str) -> str:
    """Return a piece of text of a paragraph."""
    return f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def docx_of(parts: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP of these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), part, compression)
    return buffer.getvalue()
