"""The levels of the service: who may import whom."""

# Low to high. Peers of one level may import each other, without a cycle; no two folders import each other.
LEVELS = (
    ("", "clock", "closed_output", "optional_parts", "model", "errors", "terminal", "timeouts", "tokens"),
    ("documents.model", "documents.refusals", "documents.report", "ids"),
    ("documents.kinds", "documents.plain_text"),
    ("documents.extract", "documents.reading", "documents.read_child"),
    ("config.decode_messages", "store.base", "store.url"),
    ("config", "events"),
    ("wire",),
    ("providers",),
    ("resilience",),
    ("failover",),
    ("cache", "fallback", "admission", "single_flight", "store"),
    ("grounding",),
    ("gateway",),
    ("conversation", "documents", "feedback", "jobs"),
    ("study",),
    ("api", "telemetry"),
    ("app", "runtime", "online_check", "personality_trial", "reloader", "socket_protocol", "unread"),
    ("front", "http_protocol"),
    ("asgi", "command", "database_command", "personality_command", "work_command", "verify"),
    ("__main__",),
)
