"""Documents over real sockets, in a process of its own: a bomb ends the process that reads it, no other."""

import json
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.child_processes import serving
from tests.support.docx_files import make_docx
from tests.support.odd_files import deflated
from tests.support.odd_readers import children, memory_kib
from tests.support.one_route import one_route
from tests.support.pdf_files import make_pdf, pdf_of

pytestmark = pytest.mark.real_sockets

KEY = "a-key-for-a-simulator"
SETTINGS = (
    one_route("http://127.0.0.1:9/v1")
    + """
[server]
caller_keys_env = ["DUB5_TEST_KEY"]
[conversation]
[documents]
[database]
url = "sqlite:///{file}"
keep_s = 10
patience_s = 10
"""
)
BOMB = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream"
PAGES = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>"


def bomb() -> bytes:
    """Return a PDF that unpacks to 600 MiB."""
    data = deflated(b" ", 600)
    return pdf_of([b"<< /Type /Catalog /Pages 2 0 R >>", PAGES, PAGE, BOMB % (len(data), data)])


def send(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send a request and return status and JSON."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/octet-stream"}
    connection.request(method, f"/v1/documents{path}", body, headers)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply.status, json.loads(data) if data else None


def upload(address: str, data: bytes, name: str = "") -> tuple[int, Any]:
    """Upload a file."""
    return send(address, "POST", f"?name={name}", data)


def test_served(tmp_path: Path) -> None:
    """A PDF and a Word file are read; after bombs the service is as large as before, and reads on."""
    config = tmp_path / "dub5.toml"
    config.write_text(SETTINGS.format(file=tmp_path / "kept.db"))
    with serving(config) as (address, process):
        status, pdf = upload(address, make_pdf(["The cell.", "The nucleus."]), "biology.pdf")
        assert (status, pdf["kind"], pdf["pages"]) == (201, "pdf", 2)
        status, docx = upload(address, make_docx("# Jane", "Cells."), "jane.docx")
        assert (status, docx["kind"]) == (201, "docx")
        status, large = upload(address, b"The cell is small.\n" * 55_000, "notes.txt")
        assert (status, large["pages"]) == (201, 1)
        before = memory_kib(process.pid)
        for _ in range(2):
            status, refused = upload(address, bomb(), "bomb.pdf")
            assert (status, refused["error"]["code"]) == (400, "unreadable_document")
            assert "take" in refused["error"]["message"] or "damaged" in refused["error"]["message"]
        assert memory_kib(process.pid) < 1.1 * before
        assert upload(address, b"x" * (10 * 2**20 + 1))[0] == 413
        assert not children(process.pid)
        status, listed = send(address, "GET", "")
        assert (status, listed["data"]) == (200, [large, docx, pdf])
        assert send(address, "DELETE", f"/{pdf['id']}")[0] == 204
        _leave(address)
        until = time.monotonic() + 10
        while children(process.pid):
            assert time.monotonic() < until, "the reading process is left"
            time.sleep(0.02)
        assert send(address, "GET", "")[1]["data"] == [large, docx]


def _leave(address: str) -> None:
    """Upload a file, and leave before there is an answer."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/octet-stream"}
    connection.request("POST", "/v1/documents", bomb(), headers)
    time.sleep(0.1)
    connection.close()
