"""The page and its files, read once at start: small, and no disk on a request's way."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # ask each time; the etag makes that cheap
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page as it is served."""

    body: bytes
    etag: str
    media_type: str

    @property
    def headers(self) -> dict[str, str]:
        """All headers but the length."""
        return SECURITY_HEADERS | {"etag": self.etag}


def read_files(folder: Path) -> dict[str, PageFile]:
    """Every file of the page by its name."""
    found = {path.name: path for path in folder.iterdir() if path.suffix in MEDIA_TYPES}
    return {name: _read_file(path) for name, path in sorted(found.items())}


def _read_file(path: Path) -> PageFile:
    body = path.read_bytes()
    return PageFile(body, f'"{hashlib.sha256(body).hexdigest()[:16]}"', MEDIA_TYPES[path.suffix])
