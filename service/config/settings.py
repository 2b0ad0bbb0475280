"""Everything that can be set: frozen, by concern. settings_file.py reads it, settings_checks.py judges it."""

from collections.abc import Mapping
from typing import Annotated, Literal

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
    LimiterOptions,
    ProbeOptions,
    RetryOptions,
    Seconds,
    SecondsOrZero,
    TimeoutOptions,
)
from dub5.service.model import Price

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+$", max_length=64)]
HeaderText = Annotated[str, Meta(pattern=r"^[ -~]*$", max_length=1024)]
RouteName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]

OTHERS = "others"  # of admission.priorities: every caller that is not named
DialectName = Literal["openai", "mistral", "anthropic"]
WireName = Literal["aiohttp", "httpx"]
DeliveryName = Literal["live", "whole"]
PolicyName = Literal["ordered", "balanced"]


class ServerSettings(Struct, frozen=True):
    """Where the service listens, and its bounds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    wire: WireName = "aiohttp"
    proxy: str | None = None
    caller_keys_env: tuple[Variable, ...] = ()
    in_flight_max: Count = 10_000
    client_stall_s: Seconds = 30.0
    connections_per_origin_max: Count = 1_000
    request_bytes_max: Count = 25 * 1024 * 1024
    answer_bytes_max: Count = 32 * 1024 * 1024
    event_bytes_max: Count = 8 * 1024 * 1024
    headers_max: Count = 100
    json_depth_max: Count = 64
    announce_s: SecondsOrZero = 0.0
    drain_s: SecondsOrZero = 25.0


class DialectOverrides(Struct, frozen=True):
    """What a provider does otherwise than its dialect. Names are those of the request's fields; `messages.name` in
    `drops` is a field of every message."""

    headers: Mapping[HeaderName, HeaderText] = {}  # sent with each request, as they are; never keys
    renames: Mapping[str, str] = {}  # it knows the field under another name
    drops: tuple[str, ...] = ()  # it refuses the field: left out, and named in the trail
    refuses: tuple[str, ...] = ()  # it cannot do that: another target is asked
    developer_role: bool = True  # false: developer turns go to it as system turns


NO_OVERRIDES = DialectOverrides()


class ProviderSettings(Struct, frozen=True):
    """One provider: how it speaks and where. `key_env` names the environment variables that hold its keys."""

    name: Name
    dialect: DialectName
    base_url: str
    key_env: tuple[Variable, ...] = ()
    api_version: str | None = None
    max_tokens: Count = 4096  # where the dialect wants a limit and the caller set none
    overrides: DialectOverrides = NO_OVERRIDES
    isolated: bool = False  # by hand: nobody is sent there
    prices: Mapping[str, Price] = {}  # of its models, in US dollars per million tokens
    context_tokens: Mapping[str, Count] = {}  # of its models: a longer conversation goes to another target


class RouteSettings(Struct, frozen=True):
    """One model name that clients may ask for, and the targets behind it in order of preference."""

    name: RouteName
    targets: Annotated[tuple[str, ...], Meta(min_length=1)]
    policy: PolicyName = "ordered"
    delivery: DeliveryName = "live"
    timeouts: TimeoutOptions = TimeoutOptions()
    cache: CacheOptions = CacheOptions()
    degraded: DegradedOptions = DegradedOptions()
    reject_patterns: tuple[str, ...] = ()


class AdminSettings(Struct, frozen=True):
    """Who may give orders to the running service. Without `token_env` it makes a token, and shows it at the start."""

    token_env: Variable | None = None


class Settings(Struct, frozen=True):
    """The whole of it. `keys` and `caller_keys` are filled from the environment and never shown."""

    provider: tuple[ProviderSettings, ...]
    route: tuple[RouteSettings, ...]
    server: ServerSettings = ServerSettings()
    breaker: BreakerOptions = BreakerOptions()
    retry: RetryOptions = RetryOptions()
    budget: BudgetOptions = BudgetOptions()
    limiter: LimiterOptions = LimiterOptions()
    health: HealthOptions = HealthOptions()
    probe: ProbeOptions = ProbeOptions()
    admission: AdmissionOptions = AdmissionOptions()
    hedge: HedgeOptions = HedgeOptions()
    cache: CacheBounds = CacheBounds()
    admin: AdminSettings = AdminSettings()


class Secret:
    """A key that cannot be printed by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one header it belongs into."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


class LoadedSettings(Struct, frozen=True):
    """Settings, and the secrets they name. `warnings`: what is worth saying of settings that can be used."""

    settings: Settings
    provider_keys: Mapping[str, tuple[Secret, ...]]
    caller_keys: tuple[Secret, ...]
    warnings: tuple[str, ...] = ()
    redis_url: Secret | None = None  # with its password
    admin_token: Secret | None = None


class SettingsProblems(Exception):
    """What must be changed before the service can start, one plain sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
