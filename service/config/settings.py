"""All settings as frozen structs: read by load.py, validated by checks.py, listed in docs/use/settings.md."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from dub5.service.config.options import (
    AdmissionOptions,
    BreakerOptions,
    BudgetOptions,
    CacheBounds,
    CacheOptions,
    Count,
    DegradedOptions,
    HealthOptions,
    HedgeOptions,
    InjectionAction,
    KeysOptions,
    LimiterOptions,
    LimitsOptions,
    ProbeOptions,
    RetryOptions,
    SanitizeOptions,
    Seconds,
    SecondsOrZero,
    TimeoutOptions,
)
from dub5.service.model import Price

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=64)]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=128)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+\Z", max_length=64)]
HeaderText = Annotated[str, Meta(pattern=r"^[ -~]*\Z", max_length=1024)]
TargetName = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z")]  # it stands in headers
Title = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]+\Z", max_length=100)]
RouteName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*\Z", max_length=128)]

DOCUMENT_BYTES_MAX = 10 * 1024 * 1024
OTHERS = "others"  # in admission.priorities: all callers that are not named
DialectName = Literal["openai", "mistral", "anthropic"]
WireName = Literal["native", "httpx", "aiohttp"]  # aiohttp: an old name of native
HttpsName = Literal["off", "redirect", "require"]
DeliveryName = Literal["live", "whole"]
PolicyName = Literal["ordered", "balanced"]
LogLevelName = Literal["debug", "info", "warning", "error"]
LogFormatName = Literal["json", "text"]
NotifyKind = Literal[
    "degraded",
    "database_lost",
    "breaker_flaps",
    "crash",
    "writes_forgotten",
    "migration_failed",
    "job_failed",
    "key_refused",
    "budget",
    "security",
]


class ServerSettings(Struct, frozen=True):
    """Listening address of the service, and its bounds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    wire: WireName = "native"
    proxy: str | None = None
    caller_keys_env: tuple[Variable, ...] = ()
    allowed_hosts: tuple[str, ...] = ()  # none: every host name is served
    https: HttpsName = "off"
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-For and X-Forwarded-Proto are believed
    origins: tuple[str, ...] = ()  # of web pages that may call the API
    in_flight_max: Count = 10_000
    client_stall_s: Seconds = 30.0
    connections_per_origin_max: Count = 1_000
    connection_age_max_s: Seconds = 300.0  # then it is replaced between two requests
    request_bytes_max: Count = 25 * 1024 * 1024
    bodies_bytes_max: Count = 512 * 1024 * 1024
    answer_bytes_max: Count = 32 * 1024 * 1024
    event_bytes_max: Count = 8 * 1024 * 1024
    headers_max: Count = 100
    json_depth_max: Count = 64
    announce_s: SecondsOrZero = 0.0
    drain_s: SecondsOrZero = 25.0


class DialectOverrides(Struct, frozen=True):
    """Overrides of a provider's dialect, by names of request fields.

    `messages.name` in `drops` is a field of each message.
    """

    headers: Mapping[HeaderName, HeaderText] = {}  # sent unchanged with each request; never keys
    renames: Mapping[str, str] = {}  # the provider's names of fields
    drops: tuple[str, ...] = ()  # fields that the provider rejects: left out, and named in the trail
    refuses: tuple[str, ...] = ()  # features that the provider lacks: another target is tried
    developer_role: bool = True  # false: developer messages are sent as system messages


NO_OVERRIDES = DialectOverrides()


class ProviderSettings(Struct, frozen=True):
    """One provider: dialect, address, keys. `key_env` names the environment variables that hold its keys."""

    name: Name
    dialect: DialectName
    base_url: str
    key_env: tuple[Variable, ...] = ()
    api_version: str | None = None
    max_tokens: Count = 4096  # sent if the dialect requires a limit and the caller set none
    overrides: DialectOverrides = NO_OVERRIDES
    isolated: bool = False  # by the operator: no request is sent there
    simulated: bool = False  # no model answers there: the page says so
    prices: Mapping[str, Price] = {}  # by model, in US dollars per million tokens
    context_tokens: Mapping[str, Count] = {}  # by model: longer conversations go to another target
    output_tokens: Mapping[str, Count] = {}  # by model: sent instead of `max_tokens`
    spend_max_usd_per_day: Annotated[float, Meta(gt=0)] | None = None  # by `prices`, until midnight UTC


class RouteSettings(Struct, frozen=True):
    """One model name of the API, and its targets in order of preference."""

    name: RouteName
    targets: Annotated[tuple[TargetName, ...], Meta(min_length=1)]
    policy: PolicyName = "ordered"
    delivery: DeliveryName = "live"
    timeouts: TimeoutOptions = TimeoutOptions()
    cache: CacheOptions = CacheOptions()
    degraded: DegradedOptions = DegradedOptions()
    reject_patterns: tuple[str, ...] = ()
    personalities: tuple[str, ...] = ()  # each makes one more model name, `<route>:<personality>`
    sanitize: SanitizeOptions = SanitizeOptions()


class PersonalitySettings(Struct, frozen=True):
    """One personality: a system prompt. `file`: its text; None for one that is shipped.

    `document`: a file that its answers are about, and are checked against.
    """

    name: Name
    file: str | None = None
    title: Title | None = None
    document: str | None = None


class Personality(Struct, frozen=True):
    """A personality with its text, as it was read. `document`: the text of its document."""

    name: str
    title: str
    text: str
    document: str | None = None


class LogSettings(Struct, frozen=True):
    """The log on stderr: the lowest level that is written, and the form of a line."""

    level: LogLevelName = "info"
    format: LogFormatName = "json"


class AdminSettings(Struct, frozen=True):
    """The admin API. Without `token_env` the service generates a token, and prints it only to a terminal."""

    token_env: Variable | None = None


class SessionSettings(Struct, frozen=True):
    """Sessions of browsers, by a signed cookie. The table turns them on, even if it is empty.

    `secret_env`: the first secret signs, all are accepted. Without one, session_secret.py keeps or makes one.
    """

    secret_env: tuple[Variable, ...] = ()
    days: Annotated[int, Meta(ge=1, le=400)] = 30  # of a cookie; browsers keep none for longer than 400
    ticket_s: Annotated[int, Meta(ge=1, le=600)] = 30


class DatabaseSettings(Struct, frozen=True):
    """The database of conversations: `sqlite:///path`, or `postgresql://...` for several instances.

    Without `url` and `url_env` it is the file data/dub5.db. `sync`: whether a write has to survive a loss of
    power, or only the end of the process (SQLite). `pool_max`: connections (PostgreSQL). `patience_s`: the
    longest wait of an answer for the database, before it begins; `keep_s`: before its end is told.
    """

    url: str | None = None
    url_env: Variable | None = None
    sync: Literal["power", "process"] = "power"
    pool_max: Annotated[int, Meta(ge=1, le=1_000)] = 10
    patience_s: Annotated[float, Meta(ge=0.005, le=10)] = 0.05
    keep_s: Annotated[float, Meta(ge=0.005, le=10)] = 0.25
    migrate: Literal["start", "never"] = "start"


class ConversationSettings(Struct, frozen=True):
    """Conversations that are kept. The table turns them on, even if it is empty.

    `context_tokens`: the window of a model whose provider does not say one. `answer_tokens`: room in the
    window that is left for the answer. `keep_days`: after its last question, a conversation is deleted.
    `linger_s`: how long a turn is answered while nobody listens; then its provider is told. `sockets_max`:
    open WebSockets of a process.
    """

    question_chars_max: Annotated[int, Meta(ge=1, le=60_000)] = 2_000
    context_tokens: Annotated[int, Meta(ge=256)] = 8_000
    answer_tokens: Count = 2_000
    keep_days: Annotated[int, Meta(ge=1, le=3_650)] = 30
    injection: InjectionAction = "flag"
    linger_s: Annotated[float, Meta(ge=0, le=600)] = 15.0
    sockets_max: Annotated[int, Meta(ge=0)] = 10_000


class DocumentSettings(Struct, frozen=True):
    """Documents that people upload. The table turns them on, even if it is empty; it needs [conversation].

    `readers`: files that are read at one time, each by a process. `bytes_max`: of a file. `per_owner_max`:
    documents of one session or caller.
    """

    readers: Annotated[int, Meta(ge=1, le=64)] = 2
    bytes_max: Annotated[int, Meta(ge=1_024, le=DOCUMENT_BYTES_MAX)] = DOCUMENT_BYTES_MAX
    per_owner_max: Annotated[int, Meta(ge=1, le=1_000)] = 50


class JobsSettings(Struct, frozen=True):
    """Work in the background, where the settings turn on what needs it.

    `workers`: jobs that a process does at one time. `watchers_work`: whoever watches a job does its steps,
    for hosts that run nothing between requests.
    """

    workers: Annotated[int, Meta(ge=0, le=16)] = 1
    watchers_work: bool = False


class NotifySettings(Struct, frozen=True):
    """A hook of the operator's that is told of incidents. The table turns it on.

    `url_env`: the variable that holds its address. `secret_env`: those that hold the secrets which sign; a
    message has a signature for each. `events`: what it is told of.
    """

    url_env: Variable | None = None
    secret_env: tuple[Variable, ...] = ()
    events: tuple[NotifyKind, ...] = get_args(NotifyKind)


class SentrySettings(Struct, frozen=True):
    """Sentry, which is told of crashes and problems. The table turns it on. `dsn_env` holds its address."""

    dsn_env: Variable | None = None
    environment: Name = "production"


class Settings(Struct, frozen=True):
    """All settings, without secrets: those are in LoadedSettings."""

    provider: tuple[ProviderSettings, ...]
    route: tuple[RouteSettings, ...]
    personality: tuple[PersonalitySettings, ...] = ()
    server: ServerSettings = ServerSettings()
    breaker: BreakerOptions = BreakerOptions()
    retry: RetryOptions = RetryOptions()
    budget: BudgetOptions = BudgetOptions()
    limiter: LimiterOptions = LimiterOptions()
    health: HealthOptions = HealthOptions()
    probe: ProbeOptions = ProbeOptions()
    keys: KeysOptions = KeysOptions()
    admission: AdmissionOptions = AdmissionOptions()
    limits: LimitsOptions = LimitsOptions()
    hedge: HedgeOptions = HedgeOptions()
    cache: CacheBounds = CacheBounds()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    session: SessionSettings | None = None
    database: DatabaseSettings = DatabaseSettings()
    conversation: ConversationSettings | None = None
    documents: DocumentSettings | None = None
    jobs: JobsSettings = JobsSettings()
    notify: NotifySettings | None = None
    sentry: SentrySettings | None = None


class Secret:
    """A secret that cannot be printed by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret, for the one header or address that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class NotifyHook(Struct, frozen=True):
    """The hook of [notify]: its address, and the secrets that sign. `events`: what it is told of."""

    url: Secret
    secrets: tuple[Secret, ...]
    events: tuple[NotifyKind, ...]


class LoadedSettings(Struct, frozen=True):
    """Settings, and the secrets and texts that they name.

    `warnings`: sentences about valid settings, for the operator.
    """

    settings: Settings
    provider_keys: Mapping[str, tuple[Secret, ...]]
    caller_keys: tuple[Secret, ...]
    warnings: tuple[str, ...] = ()
    redis_url: Secret | None = None  # with its password
    admin_token: Secret | None = None
    personalities: Mapping[str, Personality] = {}
    session_secrets: tuple[Secret, ...] = ()
    database_url: Secret | None = None  # with its password; None without [conversation]
    notify: NotifyHook | None = None
    sentry_dsn: Secret | None = None


class SettingsProblems(Exception):
    """Raised when settings are invalid. `problems`: one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def report(self) -> str:
        """Return all problems as a list, under a line that counts them."""
        errors = "1 error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        return "\n".join([f"Invalid configuration ({errors}):", *(f"  - {one}" for one in self.problems)])
