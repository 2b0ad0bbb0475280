"""Files that nobody should send: each with what becomes of it. Built in code: none is kept as a file.

`harmless()`: refused or read at once. `harmful()`: made to use up memory, time or the stack of a reader.
"""

import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dub5.service.documents.refusals import FILE_BYTES_MAX, PAGES_MAX, TEXT_BYTES_MAX
from tests.support.docx_files import (
    CONTENT_TYPES,
    PARTS,
    RELATED,
    RELATIONSHIPS,
    WORD,
    XML,
    block,
    document,
    docx_of,
    make_docx,
)
from tests.support.pdf_files import FONT, make_pdf, pdf_of, stream

READ = "read"
MIB = 2**20
LOCKED = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>] " % (
    b"41" * 32,
    b"42" * 32,
)


PAGE = (  # number 4, in the font of number 3
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
    b" /Resources << /Font << /F1 3 0 R >> >> >>"
)


class OddFile(NamedTuple):
    """A file, and the names of the refusals that it may end in, or READ."""

    what: str
    data: bytes
    ends: tuple[str, ...]
    name: str = ""


def odd(what: str, data: bytes, *ends: str, name: str = "") -> OddFile:
    """Return a file."""
    return OddFile(what, data, ends, name)


def harmless() -> Iterator[OddFile]:
    """Yield files of other kinds, of lying names, damaged ones, and odd ones that are read."""
    yield from _other_kinds()
    yield from _texts()
    yield from _odd_pdfs()
    yield from _odd_docx()


def harmful() -> Iterator[OddFile]:
    """Yield files that are made to do harm."""
    yield from _harmful_pdfs()
    yield from _harmful_docx()
    yield from _harmful_texts()


def _other_kinds() -> Iterator[OddFile]:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    yield odd("nothing", b"", "empty")
    yield odd("PNG", b"\x89PNG\r\n\x1a\n" + bytes(50), "image", name="photo.pdf")
    yield odd("JPEG", b"\xff\xd8\xff\xe0\x00\x10JFIF", "image")
    yield odd("GIF", b"GIF89a\x01\x00\x01\x00\x00", "image")
    yield odd("WebP", b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image")
    yield odd("HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00", "image")
    yield odd("MP4", b"\x00\x00\x00\x18ftypmp42\x00\x00", "media")
    yield odd("MP3", b"ID3\x04\x00\x00\x00", "media")
    yield odd("gzip", b"\x1f\x8b\x08" + bytes(10), "archive")
    yield odd("tar", b"notes.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(240), "archive")
    yield odd("7z", b"7z\xbc\xaf\x27\x1c\x00\x04", "archive")
    yield odd("ZIP", docx_of({"a.txt": "Hello."}), "archive", name="a.docx")
    yield odd("spreadsheet", docx_of({"xl/workbook.xml": "<a/>"}), "xlsx", name="a.docx")
    yield odd("presentation", docx_of({"ppt/presentation.xml": "<a/>"}), "pptx")
    yield odd("odt", docx_of({"mimetype": "application/vnd.oasis.opendocument.text"}), "odt")
    yield odd("epub", docx_of({"mimetype": "application/epub+zip"}), "epub")
    yield odd("old Word", ole + "WordDocument".encode("utf-16-le"), "doc", name="a.docx")
    yield odd("old Excel", ole + "Workbook".encode("utf-16-le"), "office")
    yield odd("Word with a password", ole + "EncryptedPackage".encode("utf-16-le"), "encrypted_docx")
    yield odd("rich text", b"{\\rtf1\\ansi Hello.}", "rtf", name="a.doc")
    yield odd("HTML", b"<!DOCTYPE html><html><body>Hello.</body></html>", "html", name="a.txt")
    yield odd("HTML after a comment", b"\n<!-- saved -->\n<html>Hello.</html>", "html")
    yield odd("XHTML", b'<?xml version="1.0"?>\n<html xmlns="x">Hello.</html>', "html")
    yield odd("XML", b'<?xml version="1.0"?><feed/>', "xml", name="a.md")
    yield odd("PostScript", b"%!PS-Adobe-3.0\n", "postscript")
    yield odd("Windows program", b"MZ\x90\x00" + bytes(60), "program", name="resume.pdf")
    yield odd("Linux program", b"\x7fELF\x02\x01\x01" + bytes(60), "program")
    yield odd("random bytes", random.Random(1).randbytes(5_000), "binary")
    yield odd("NULs", bytes(5_000), "binary")


def _texts() -> Iterator[OddFile]:
    text = "Zürich: „Zellen“ 細胞 ❤ \n\n\n\nEnde  \r\n"
    yield odd("blanks", b" \n\t \r\n", "blank")
    yield odd("UTF-8", text.encode(), READ)
    yield odd("UTF-8 with a mark", b"\xef\xbb\xbf" + text.encode(), READ)
    yield odd("UTF-16", text.encode("utf-16"), READ)
    yield odd("UTF-16, the other order", b"\xfe\xff" + text.encode("utf-16-be"), READ)
    yield odd("UTF-32", text.encode("utf-32"), READ)
    yield odd("half of UTF-16", text.encode("utf-16")[:-1], READ)
    yield odd("UTF-16 without a mark", "Hello.".encode("utf-16-le"), "binary")
    yield odd("half a surrogate pair", b"\xff\xfe\x00\xd8a\x00", "damaged_text")
    yield odd("Windows-1252", "Zürich: „Zellen“".encode("cp1252"), READ)
    yield odd("UTF-8 that is cut within a character", text.encode()[:-20], READ)
    yield odd("controls", b"\x01\x02\x03\x04 a b c", "binary")
    yield odd("Markdown that begins with HTML", b"<p align=center>\n\n# Title\n", READ, name="README.md")
    yield odd("text about PDF", b"A file begins with %PDF-1.7.", READ, name="a.pdf")
    yield odd("form feeds", b"\f".join([b"Page."] * (PAGES_MAX + 1)), READ)
    yield odd("text that is called a PDF", b"Only text.", READ, name="a.pdf")


def _odd_pdfs() -> Iterator[OddFile]:
    plain = make_pdf(["The cell is the unit of life."] * 3)
    yield odd("PDF with a password", pdf_of(_one_page(b"(Hello) Tj"), LOCKED), "encrypted_pdf")
    yield odd(
        "scan",
        pdf_of(_one_page(b"", b"q 500 0 0 500 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID x EI Q")),
        "no_text",
    )
    yield odd("one page too many", make_pdf(["Text."] * (PAGES_MAX + 1)), "too_many_pages")
    yield odd("PDF after rubbish", b"\r\n\r\n" + plain, READ)
    yield odd("PDF before a ZIP", plain + make_docx("Hidden."), READ, name="a.docx")
    yield odd("PDF in a ZIP", docx_of({"a.pdf": plain}, zipfile.ZIP_STORED), "archive", name="a.pdf")
    yield odd("PDF of nothing", b"%PDF-1.7\n", "damaged_pdf")
    yield odd(
        "no pages",
        pdf_of([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"]),
        "damaged_pdf",
    )
    yield odd("letters that nobody knows", pdf_of(_unknown_letters()), "unknown_letters", "no_text")
    yield odd("scripts and links", pdf_of([*_one_page(b"(Hello) Tj"), *_scripts()]), READ)
    yield odd(
        "a file within", pdf_of([*_one_page(b"(Hello) Tj"), stream(b"MZ\x90", b"/Type /EmbeddedFile ")]), READ
    )
    for tenth in range(1, 10):
        cut = plain[: len(plain) * tenth // 10]
        yield odd(f"{tenth}0 % of a PDF", cut, READ, "damaged_pdf", "no_text")


def _odd_docx() -> Iterator[OddFile]:
    plain = make_docx("# Title", "The cell is the unit of life.", [["a", "b"]] * 3)
    yield odd("no text", make_docx(), "blank")
    yield odd("no text part", docx_of({**PARTS, "word/other.xml": "<a/>"}), "archive")
    yield odd("no types", docx_of({"word/document.xml": document(block("Hello."))}), "damaged_docx")
    yield odd("no XML", docx_of({**PARTS, "word/document.xml": "Hello."}), "damaged_docx")
    yield odd(
        "half of its XML",
        docx_of({**PARTS, "word/document.xml": document(block("Hello."))[:200]}),
        "damaged_docx",
    )
    yield odd(
        "macros", _typed("application/vnd.ms-word.document.macroEnabled.main+xml"), "docm", name="a.docx"
    )
    yield odd("a template", _typed(f"{WORD_TYPES}.template.main+xml"), "docm")
    yield odd(
        "macros that nobody runs", docx_of({**_text("Hello."), "word/vbaProject.bin": b"\0" * 99}), READ
    )
    yield odd("strict", docx_of({**_text("Hello."), "_rels/.rels": STRICT}), "strict_docx")
    yield odd(
        "parts elsewhere", docx_of({**_text("Hello."), "word/_rels/document.xml.rels": ELSEWHERE}), READ
    )
    yield odd(
        "parts that are not there",
        docx_of({**_text("Hello."), "word/_rels/document.xml.rels": MISSING}),
        READ,
    )
    yield odd(
        "names that lead out", docx_of({**_text("Hello."), "../../etc/passwd": "x", "/etc/passwd": "y"}), READ
    )
    yield odd("an entry with a password", _with_flag(plain), "encrypted_docx")
    yield odd("a Word file within", docx_of({**_text("Hello."), "word/embeddings/a.docx": plain}), READ)
    yield odd("other compression", docx_of(_text("Hello."), zipfile.ZIP_BZIP2), "damaged_docx")
    for tenth in range(1, 10):
        cut = plain[: len(plain) * tenth // 10]
        yield odd(f"{tenth}0 % of a Word file", cut, "damaged_docx", "archive")


WORD_TYPES = "application/vnd.openxmlformats-officedocument.wordprocessingml"
STRICT = PARTS["_rels/.rels"].replace(RELATED, "http://purl.oclc.org/ooxml/officeDocument/relationships")
ELSEWHERE = (
    f'{XML}<Relationships xmlns="{RELATIONSHIPS}">'
    f'<Relationship Id="rId1" Type="{RELATED}/header" Target="http://127.0.0.1:9/" TargetMode="External"/>'
    f'<Relationship Id="rId2" Type="{RELATED}/styles" Target="file:///etc/passwd" TargetMode="External"/>'
    f'<Relationship Id="rId3" Type="{RELATED}/attachedTemplate" Target="//a/b" TargetMode="External"/>'
    "</Relationships>"
)
MISSING = (
    f'{XML}<Relationships xmlns="{RELATIONSHIPS}">'
    f'<Relationship Id="rId1" Type="{RELATED}/header" Target="../../../../etc/passwd"/></Relationships>'
)


def _one_page(text: bytes, drawn: bytes = b"") -> list[bytes]:
    """Return the objects of a PDF of one page. `text`: operators within BT and ET."""
    content = b"BT /F1 11 Tf 50 700 Td %s ET %s" % (text, drawn)
    return [
        b"<< /Type /Catalog /Pages 2 0 R /OpenAction 5 0 R >>",
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        FONT,
        PAGE % 6,
        b"<< /S /JavaScript /JS (app.alert\\(1\\);) >>",
        stream(content),
    ]


def _scripts() -> list[bytes]:
    return [b"<< /S /Launch /F (/bin/sh) >>", b"<< /S /URI /URI (http://127.0.0.1:9/) >>"]


def _unknown_letters() -> list[bytes]:
    """Return a page in a font that says for no letter which one it is."""
    objects = _one_page(b"<%s> Tj" % b"".join(b"%04x" % number for number in range(0xE000, 0xE030)))
    objects[2] = (
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Nameless /Encoding /Identity-H /DescendantFonts [<<"
        b" /Type /Font /Subtype /CIDFontType2 /BaseFont /Nameless /CIDSystemInfo <<"
        b" /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>] >>"
    )
    return objects


def _text(*blocks: str) -> dict[str, str | bytes]:
    return {**PARTS, "word/document.xml": document("".join(map(block, blocks)))}


def _typed(content_type: str) -> bytes:
    types = CONTENT_TYPES.replace(f"{WORD_TYPES}.document.main+xml", content_type)
    return docx_of({**_text("Hello."), "[Content_Types].xml": types})


def _with_flag(data: bytes) -> bytes:
    """Return the ZIP with each entry marked as encrypted."""
    return re.sub(rb"(?s)(PK\x01\x02....)\0", lambda found: found[1] + b"\1", data)


def _harmful_pdfs() -> Iterator[OddFile]:
    zeros = zlib.compress(deflated(b"\0", 600), 9)
    spaces = deflated(b" ", 600)
    ended = ("crashed", "out_of_memory", "timed_out", "damaged_pdf", "no_text", "too_long", "too_many_pages")
    yield odd("content of 600 MiB", pdf_of([*_one_page(b"")[:5], _filtered(spaces)]), *ended, READ)
    yield odd(
        "packed twice",
        pdf_of([*_one_page(b"")[:5], _filtered(zeros, b"[/FlateDecode /FlateDecode]")]),
        *ended,
    )
    yield odd("5,000 pages", make_pdf(["Text."] * 5_000), "too_many_pages")
    yield odd("pages that hold themselves", pdf_of(_looped(b"2 0 R")), *ended)
    yield odd("pages that hold the catalog", pdf_of(_looped(b"1 0 R 2 0 R 2 0 R")), *ended)
    yield odd(
        "2 billion pages",
        pdf_of([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 2147483647 >>"]),
        *ended,
    )
    yield odd("a table that follows itself", _prev_loop(), *ended, READ)
    yield odd("a table of 2 billion", make_pdf(["Text."]).replace(b"0 6\n", b"0 2147483647\n"), *ended, READ)
    yield odd("lists in lists", pdf_of([*_one_page(b"(Hello) Tj"), b"[" * MIB + b"]" * MIB]), *ended, READ)
    yield odd("lists in lists of the catalog", pdf_of([b"<< /Type /Catalog /Pages " + b"[" * MIB]), *ended)
    yield odd("lists in lists of a page", pdf_of([*_one_page(b"")[:5], stream(b"[" * MIB * 3)]), *ended)
    yield odd("a form that shows itself", pdf_of(_form_loop()), *ended, READ)
    yield odd("pages below 5,000 pages", pdf_of(_deep_pages(5_000)), *ended, READ)
    yield odd("a huge page", make_pdf(["Text."]).replace(b"1200 842", b"9e30 9e30"), *ended, READ)
    yield odd(
        "a length of 2 billion",
        make_pdf(["Text."]).replace(b"/Length", b"/Length 2147483647 /Length1"),
        *ended,
        READ,
    )
    yield odd("much text", make_pdf([("The cell. " * 100 + "\n") * 60] * 40), "too_long")
    yield odd(
        "millions of letters on a page", pdf_of(_one_page(b"(" + b"ab " * 1_500_000 + b") Tj")), *ended, READ
    )


def deflated(byte: bytes, mib: int) -> bytes:
    """Return a stream that unpacks to so many MiB of a byte, without packing them all."""
    packer = zlib.compressobj(9)
    first, again = [packer.compress(byte * MIB) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return first + again * (mib - 1) + packer.flush()


def _filtered(data: bytes, filters: bytes = b"/FlateDecode") -> bytes:
    return b"<< /Length %d /Filter %s >>\nstream\n%s\nendstream" % (len(data), filters, data)


def _looped(kids: bytes) -> list[bytes]:
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count 3 /Parent 2 0 R >>" % kids,
    ]


def _prev_loop() -> bytes:
    data = make_pdf(["Text."])
    start = data.rindex(b"xref\n", 0, data.rindex(b"startxref"))
    return data.replace(b"/Root", b"/Prev %d /Root" % start)


def _form_loop() -> list[bytes]:
    objects = _one_page(b"(Hello) Tj", b"/X Do")
    objects[3] = objects[3].replace(b"/Font", b"/XObject << /X 7 0 R >> /Font")
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 7 0 R >> >> "
    return [*objects, stream(b"/X Do /X Do", form)]


def _deep_pages(depth: int) -> list[bytes]:
    inner = [
        b"<< /Type /Pages /Parent %d 0 R /Kids [%d 0 R] /Count 1 >>" % (max(number - 1, 1), number + 1)
        for number in range(2, depth)
    ]
    return [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        *inner,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>",
    ]


def _harmful_docx() -> Iterator[OddFile]:
    big = document(block("a" * 20 * MIB))
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    declared = f'<!DOCTYPE w [<!ENTITY l0 "ha">{laughs}]>'
    secret = '<!DOCTYPE w [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    yield odd("a text of 20 MiB", docx_of({**PARTS, "word/document.xml": big}), "unpacks_too_large")
    yield odd("a part of 100 MiB", _zeros("word/media/image1.png", 100 * MIB), READ)
    yield odd("200 parts of 1 MiB", _many(200, MIB), READ)
    yield odd("3,000 parts", _many(3_000, 0), "unpacks_too_large")
    yield odd("sizes that lie", _lying("word/media/image1.png"), READ)
    yield odd("the text lies about its size", _lying("word/document.xml"), "damaged_docx")
    yield odd("parts that overlap", _overlapping(500), READ)
    yield odd(
        "entities",
        docx_of({**PARTS, "word/document.xml": document("<w:p>&l11;</w:p>", declared)}),
        "declares_entities",
    )
    yield odd(
        "entities in UTF-16",
        docx_of(
            {
                **PARTS,
                "word/document.xml": document("&l11;", declared).replace("UTF-8", "UTF-16").encode("utf-16"),
            }
        ),
        "declares_entities",
    )
    yield odd(
        "entities of the types",
        docx_of(
            {**_text("Hello."), "[Content_Types].xml": CONTENT_TYPES.replace("<Types", f"{declared}<Types")}
        ),
        "declares_entities",
    )
    yield odd(
        "a file of this machine",
        docx_of({**PARTS, "word/document.xml": document("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>", secret)}),
        "declares_entities",
    )
    yield odd(
        "tables in tables",
        docx_of({**PARTS, "word/document.xml": document("<w:tbl><w:tr><w:tc>" * 50_000)}),
        "damaged_docx",
    )
    yield odd(
        "tables in 200 tables",
        docx_of(
            {
                **PARTS,
                "word/document.xml": document(
                    "<w:tbl><w:tr><w:tc>" * 80 + block("In.") + "</w:tc></w:tr></w:tbl>" * 80
                ),
            }
        ),
        READ,
        "damaged_docx",
    )
    yield odd(
        "300,000 paragraphs",
        docx_of({**PARTS, "word/document.xml": document("<w:p/>" * 300_000)}),
        "blank",
        "out_of_memory",
        "timed_out",
    )
    yield odd(
        "200,000 attributes",
        docx_of(
            {
                **PARTS,
                "word/document.xml": document("<w:p " + " ".join(f'a{n}="1"' for n in range(200_000)) + "/>"),
            }
        ),
        "blank",
        "out_of_memory",
        "timed_out",
        "damaged_docx",
    )
    yield odd("much text", make_docx(*["The cell is the unit of life. " * 100] * 500), "too_long")
    yield odd(
        "parts that refer to each other", docx_of({**_text("Hello."), **_circle()}), READ, "damaged_docx"
    )


def _zeros(name: str, size: int) -> bytes:
    """Return a Word file with a part of zeros."""
    parts = _text("Hello.")
    parts.pop(name, None)
    buffer = io.BytesIO(docx_of(parts))
    with (
        zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as part,
    ):
        for _ in range(size // MIB):
            part.write(bytes(MIB))
    return buffer.getvalue()


def _many(count: int, size: int) -> bytes:
    buffer = io.BytesIO(docx_of(_text("Hello.")))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(count):
            archive.writestr(f"word/media/{number}.png", bytes(size))
    return buffer.getvalue()


def _lying(name: str) -> bytes:
    """Return a Word file with a part that says that it is small."""
    data = _zeros(name, 100 * MIB)
    return data.replace(struct.pack("<L", 100 * MIB), struct.pack("<L", 100))


def _overlapping(count: int) -> bytes:
    """Return a Word file whose many parts are all the same bytes."""
    data = bytearray(_zeros("word/media/image1.png", 20 * MIB))
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<LL", data[end + 12 : end + 20])
    last = data.rindex(b"PK\x01\x02", start, end)
    entry = bytes(data[last:end])
    entries = b"".join(entry.replace(b"image1", b"%06d" % number) for number in range(count))
    total = struct.unpack("<H", data[end + 10 : end + 12])[0] + count
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", total, total)
    tail[12:16] = struct.pack("<L", size + len(entries))
    return bytes(data[:end]) + entries + bytes(tail)


def _circle() -> dict[str, str]:
    def related(target: str) -> str:
        return (
            f'{XML}<Relationships xmlns="{RELATIONSHIPS}"><Relationship Id="rId1" Type="{RELATED}/header"'
            f' Target="{target}"/></Relationships>'
        )

    header = f'{XML}<w:hdr xmlns:w="{WORD}">{block("Head.")}</w:hdr>'
    return {
        "word/_rels/document.xml.rels": related("header1.xml"),
        "word/header1.xml": header,
        "word/_rels/header1.xml.rels": related("header2.xml"),
        "word/header2.xml": header,
        "word/_rels/header2.xml.rels": related("header1.xml"),
    }


def _harmful_texts() -> Iterator[OddFile]:
    most = FILE_BYTES_MAX
    yield odd("a text of 10 MiB", b"The cell. " * (most // 10), "too_long")
    yield odd("one byte too many", b"a" * (most + 1), "too_large")
    yield odd("as much text as may be", b"The cell is small.\n" * (TEXT_BYTES_MAX // 19), READ)
    yield odd("10 MiB of line ends", b"\n" * most, "blank", "too_long")
    yield odd("marks on one letter", ("a" + "\u0301" * 400_000).encode(), READ)
    yield odd(
        "marks of many kinds", ("".join(map(chr, range(0x300, 0x36F))) * 4_000).encode(), READ, "too_long"
    )
    yield odd("letters of which each becomes 18", ("\ufdfa" * 300_000).encode(), READ)
    yield odd("10 MiB of chance", random.Random(2).randbytes(most), "binary")
    yield odd("10 MiB of blanks", b" " * most, "blank", "too_long")
    yield odd("hyphens", b"a-" * 500_000, READ)


def names(files: Sequence[OddFile]) -> list[str]:
    """Return what each file is."""
    return [file.what for file in files]
