"""Parts that are imported only where the settings choose them: a closed table, and `load_part`.

No other module imports one of these: a service loads httpx or a Redis client only if it talks through it.
"""

import importlib
from typing import Any

PARTS = {
    "wire native": ("dub5.service.wire.native_wire", "NativeWire"),
    "wire aiohttp": ("dub5.service.wire.native_wire", "NativeWire"),  # an old name
    "wire httpx": ("dub5.service.wire.httpx_wire", "HttpxWire"),
    "injection patterns": ("dub5.service.admission.injection_patterns", "InjectionPatterns"),
    "session tokens": ("dub5.service.admission.token_signer", "TokenSigner"),
    "redis client": ("dub5.service.cache.storage_redis", "RedisClient"),
    "storage redis": ("dub5.service.cache.storage_redis", "RedisStorage"),
    "grounding": ("dub5.service.grounding.opening", "GroundingOpener"),
    "store": ("dub5.service.store.opening", "ConfiguredStore"),
    "shared spending": ("dub5.service.store.spending", "SharedSpending"),
    "socket protocol": ("dub5.service.socket_protocol", "SocketProtocol"),
    "database sqlite": ("dub5.service.store.sqlite", "SqliteDatabase"),
    "database postgresql": ("dub5.service.store.postgres", "PostgresDatabase"),
    "personality document": ("dub5.service.documents.personality_document", "PersonalityDocument"),
    "document pdf": ("dub5.service.documents.pdf", "PdfReader"),
    "document docx": ("dub5.service.documents.word", "WordReader"),
    "problem rows": ("dub5.service.telemetry.problem_rows", "ProblemRows"),
    "notifier": ("dub5.service.telemetry.notifier", "Notifier"),
    "sentry": ("dub5.service.telemetry.sentry", "SentryReporter"),
    "migrations sqlite": ("dub5.service.store.sqlite", "SqliteSession"),
    "migrations postgresql": ("dub5.service.store.postgres", "PostgresSession"),
}


def load_part(name: str) -> Any:
    """Import the module of a part, and return its class."""
    module, kind = PARTS[name]
    return getattr(importlib.import_module(module), kind)
