"""PDF files, written by hand: `make_pdf(["text of page 1", ...])`, and odd ones from `pdf_of(objects)`."""

import zlib
from collections.abc import Sequence

LEADING = 14
MARGIN = 50
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


def make_pdf(pages: Sequence[str], *, compress: bool = True) -> bytes:
    """Return a PDF with these texts, a line of a page for each line. Letters outside cp1252 become `?`."""
    count = len(pages)
    kids = b" ".join(b"%d 0 R" % (4 + 2 * index) for index in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count),
        FONT,
    ]
    for index, text in enumerate(pages):
        lines = text.split("\n")
        height = max(842, 2 * MARGIN + LEADING * len(lines))
        box = b"/MediaBox [0 0 1200 %d]" % height
        use = b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R" % (5 + 2 * index)
        objects.append(b"<< /Type /Page /Parent 2 0 R %s %s >>" % (box, use))
        objects.append(stream(shown(lines, height - MARGIN), compress=compress))
    return pdf_of(objects)


def shown(lines: Sequence[str], top: int = 792) -> bytes:
    """Return the content of a page that shows these lines."""
    rows = b"\n".join(b"(%s) Tj T*" % _escaped(line) for line in lines)
    return b"BT /F1 11 Tf %d TL %d %d Td\n%s\nET" % (LEADING, MARGIN, top, rows)


def stream(content: bytes, more: bytes = b"", *, compress: bool = True) -> bytes:
    """Return a stream object. `more`: further entries of its dictionary."""
    if compress:
        content, more = zlib.compress(content), b"/Filter /FlateDecode " + more
    return b"<< /Length %d %s>>\nstream\n%s\nendstream" % (len(content), more, content)


def pdf_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a PDF of these objects, numbered from 1; the first one is the catalog."""
    parts, offsets, at = [b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"], [], 15
    for number, body in enumerate(objects, 1):
        offsets.append(at)
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
        at += len(parts[-1])
    rows = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    parts.append(b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, rows))
    parts.append(b"trailer\n<< /Size %d /Root 1 0 R %s>>\n" % (len(objects) + 1, trailer))
    parts.append(b"startxref\n%d\n%%%%EOF\n" % at)
    return b"".join(parts)


def _escaped(line: str) -> bytes:
    data = line.encode("cp1252", "replace")
    return data.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
