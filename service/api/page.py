"""The status and chat page: its files are read once at startup, so requests need no disk."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
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
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-cache",  # revalidate each time, which the etag makes cheap
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, ready to be served."""

    body: bytes
    etag: str
    media_type: str

    @property
    def headers(self) -> dict[str, str]:
        """Return all headers except the content length."""
        return SECURITY_HEADERS | {"etag": self.etag}


def read_files(folder: Path) -> dict[str, PageFile]:
    """Read all files of the page; return them by name."""
    found = {path.name: path for path in folder.iterdir() if path.suffix in MEDIA_TYPES}
    return {name: _read_file(path) for name, path in sorted(found.items())}


def _read_file(path: Path) -> PageFile:
    body = path.read_bytes()
    return PageFile(body, f'"{hashlib.sha256(body).hexdigest()[:16]}"', MEDIA_TYPES[path.suffix])
