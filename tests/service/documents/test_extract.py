"""The text of a file: what is kept of each kind, and what is refused, by the function itself."""

import pytest

from dub5.service.config.settings import DOCUMENT_BYTES_MAX
from dub5.service.documents.extract import extract
from dub5.service.documents.kinds import FileKind
from dub5.service.documents.model import PAGE_BREAK, DocumentKind
from dub5.service.documents.refusals import FILE_BYTES_MAX, REFUSALS, ReadRefused, ReadResult
from tests.support.docx_files import (
    PARTS,
    RELATED,
    RELATIONSHIPS,
    TYPES,
    WORD,
    XML,
    block,
    document,
    docx_of,
    make_docx,
    run,
)
from tests.support.odd_files import PAGE, READ, OddFile, harmless
from tests.support.pdf_files import make_pdf, pdf_of, shown, stream

ODD = list(harmless())
CHOICE = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def text_of_docx(body: str, **more: str) -> str:
    """Return what is read of a Word file with this body."""
    return extract(docx_of({**PARTS, "word/document.xml": document(body), **more})).text


@pytest.mark.parametrize("file", ODD, ids=[file.what for file in ODD])
def test_odd_files(file: OddFile) -> None:
    """An odd file is read, or refused for its reason in one sentence."""
    try:
        extract(file.data, file.name)
        found = READ
    except ReadRefused as refused:
        found = refused.name
    assert found in file.ends


@pytest.mark.parametrize("name", REFUSALS)
def test_sentences(name: str) -> None:
    """Each refusal is one sentence that ends in what to do; what is said of a file is said to a person."""
    refusal = REFUSALS[name]
    assert refusal.sentence[0].isupper() and refusal.sentence.endswith(".")
    assert ". " not in refusal.sentence and len(refusal.sentence) <= 140
    assert refusal.result is ReadResult.OVERLOADED or ": " in refusal.sentence


def test_kinds_have_refusals() -> None:
    """Each kind that is not read has a refusal of its name; the bound of settings is the reader's."""
    read = {FileKind.PDF, FileKind.WORD, FileKind.TEXT}
    assert {kind.value for kind in FileKind if kind not in read} <= set(REFUSALS)
    assert DOCUMENT_BYTES_MAX == FILE_BYTES_MAX


def test_text_is_cleaned() -> None:
    """Text has one kind of line end, no controls, no blanks at line ends, and letters of one form."""
    given = "\ufeffCafe\u0301\r\n  indented \t\rA\x00B\xa0C\u2028\n\n\n\nEnd\n".replace("\x00", "\x07")
    assert extract(given.encode()).text == "Caf\u00e9\n  indented\nAB C\n\nEnd"
    assert extract("Grüße – €5".encode("cp1252")).text == "Grüße – €5"
    assert extract("Grüße".encode("utf-16")).text == "Grüße"
    assert extract(b"ok \xe4\xb8\xad\xe6\x96\x87 \xe4\xb8").text == "ok \u4e2d\u6587 \ufffd"


@pytest.mark.parametrize(
    "name, kind", [("a.md", "md"), ("A.MARKDOWN", "md"), ("a.txt", "txt"), ("md", "txt"), ("", "txt")]
)
def test_markdown_by_its_name(name: str, kind: str) -> None:
    """The name tells Markdown from other text, and nothing else."""
    assert extract(b"# A heading", name).kind == kind
    assert extract(make_pdf(["Text."]), name).kind is DocumentKind.PDF


def test_form_feeds() -> None:
    """A text with form feeds has pages."""
    read = extract(b"One.\fTwo.\n\fThree.")
    assert (read.pages, read.text) == (3, f"One.{PAGE_BREAK}Two.{PAGE_BREAK}Three.")


def test_pdf() -> None:
    """Each page of a PDF is a page of the text, an empty one too; its lines stay."""
    read = extract(make_pdf(["The cell (a unit)\nis small.", "", "Schlu\u00df \u2013 \u201eEnde\u201c"]))
    assert (read.kind, read.pages) == ("pdf", 3)
    assert read.text.split(PAGE_BREAK) == [
        "The cell (a unit)\nis small.",
        "",
        "Schlu\u00df \u2013 \u201eEnde\u201c",
    ]


def test_docx() -> None:
    """Of a Word file headings, paragraphs, lists, tables and line breaks stay, in their order."""
    read = extract(
        make_docx("# Jane Roe", "Engineer & writer <jane>", [["2020", "Acme"], ["2022", "Beta"]], "End.")
    )
    assert (read.kind, read.pages) == ("docx", 1)
    assert read.text == "# Jane Roe\n\nEngineer & writer <jane>\n\n2020 | Acme\n2022 | Beta\n\nEnd."
    styles = PARTS["word/styles.xml"].replace("heading 1", "List Bullet")
    by_style = docx_of({**PARTS, "word/styles.xml": styles, "word/document.xml": document(block("# First"))})
    assert extract(by_style).text == "- First"
    entry = f"<w:p><w:pPr><w:numPr/></w:pPr>{run('First')}</w:p>"
    assert (
        text_of_docx(entry + f"<w:p>{run('a')}<w:r><w:tab/><w:br/></w:r>{run('b')}</w:p>")
        == "- First\n\na\nb"
    )


def test_a_resume_made_of_tables() -> None:
    """A table that only lays out a page becomes its paragraphs, one cell after another."""
    left, right = f"{block('Skills')}{block('Python')}", f"{block('# Work')}{block('Acme, 2020')}"
    table = f"<w:tbl><w:tr><w:tc>{left}</w:tc><w:tc>{right}</w:tc></w:tr></w:tbl>"
    assert text_of_docx(table) == "Skills\nPython\n# Work\nAcme, 2020"


def test_boxes() -> None:
    """The text of a box is read once, although Word writes it twice."""
    box = f"<w:txbxContent>{block('In a box')}</w:txbxContent>"
    twice = (
        f'<mc:AlternateContent xmlns:mc="{CHOICE}"><mc:Choice Requires="wps">{box}</mc:Choice>'
        f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback></mc:AlternateContent>"
    )
    assert text_of_docx(f"<w:p>{run('Before')}<w:r>{twice}</w:r></w:p>") == "Before\n\nIn a box"


def test_changes_and_controls() -> None:
    """What was deleted stays out; what was inserted, linked, or stands in a content control is read."""
    body = (
        f"<w:p><w:del>{run('gone')}</w:del><w:ins>{run('new ')}</w:ins>"
        f"<w:hyperlink>{run('link')}</w:hyperlink></w:p>"
        f"<w:sdt><w:sdtPr/><w:sdtContent>{block('Controlled')}</w:sdtContent></w:sdt>"
    )
    assert text_of_docx(body) == "new link\n\nControlled"


def test_headers_of_pages() -> None:
    """The header of the pages, where many resumes have the name, is read first, and once."""
    related = types = ""
    for number in (1, 2):
        related += f'<Relationship Id="r{number}" Type="{RELATED}/header" Target="h{number}.xml"/>'
        types += f'<Override PartName="/word/h{number}.xml" ContentType="{TYPES}.header+xml"/>'
    header = f'{XML}<w:hdr xmlns:w="{WORD}">{block("Jane Roe, +1 555 0100")}</w:hdr>'
    rels = f'{XML}<Relationships xmlns="{RELATIONSHIPS}">{related}</Relationships>'
    more = {
        "[Content_Types].xml": PARTS["[Content_Types].xml"].replace("</Types>", f"{types}</Types>"),
        "word/_rels/document.xml.rels": rels,
        "word/h1.xml": header,
        "word/h2.xml": header,
    }
    assert text_of_docx(block("Body."), **more) == "Jane Roe, +1 555 0100\n\nBody."


def test_words_that_go_on() -> None:
    """A word that a PDF divides at a line end is one word; a ligature is its letters."""
    cmap = b"begincmap 1 beginbfchar <41> <FB01> endbfchar endcmap"
    font = (
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding /ToUnicode 6 0 R >>"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        font,
        PAGE % 5,
        stream(shown(["Of the Anal exam-", "ination"])),
        stream(cmap),
    ]
    assert extract(pdf_of(objects)).text == "Of the final examination"
