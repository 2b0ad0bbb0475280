"""What a process that reads a file is limited to, and what it reports."""

import msgspec
from msgspec import Struct

from dub5.service.documents.model import DocumentKind

WALL_S = 15
CPU_S = 10
MEMORY_BYTES = 512 * 1024 * 1024


class ReadText(Struct, frozen=True):
    """What was read of a file: its text, with a PAGE_BREAK between pages."""

    kind: DocumentKind
    pages: int
    text: str


class ChildReport(Struct, frozen=True, omit_defaults=True):
    """What the process says: what it found, or the name of a refusal. `why`: for the operator alone."""

    found: ReadText | None = None
    refused: str | None = None
    why: str = ""


DECODER = msgspec.json.Decoder(ChildReport)
