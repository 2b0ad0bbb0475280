"""Options of each mechanism, with defaults and bounds.

Names of times in seconds end in `_s`; a share is between 0 and 1.
docs/operate/reliability.md gives the source of each default.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
WindowSeconds = Annotated[int, Meta(ge=1, le=600)]
PriorityName = Literal["high", "normal", "low"]
InjectionAction = Literal["off", "flag", "block"]


class TimeoutOptions(Struct, frozen=True):
    """Timeouts of the stages of an attempt. `total_s` is the deadline of the whole request.

    `hedge_after_s` ends nothing: after that silence another target is asked in parallel.
    """

    pool_s: Seconds = 1.0
    connect_s: Seconds = 3.0
    hedge_after_s: Seconds = 10.0
    first_token_s: Seconds = 240.0
    whole_answer_s: Seconds = 240.0
    between_tokens_s: Seconds = 15.0
    total_s: Seconds = 300.0


class BreakerOptions(Struct, frozen=True):
    """Circuit breakers of targets and hosts: when they open, and for how long.

    A first token is slow when it took more than `slow_of_timeout` of the time after which its target counts
    as silent.
    """

    window_s: WindowSeconds = 30
    calls_min: Count = 10
    failure_share: Share = 0.5
    slow_share: Share = 0.6
    slow_of_timeout: Share = 0.5
    failures_in_a_row: Count = 5
    open_s: Seconds = 5.0
    open_max_s: Seconds = 12.0
    host_open_max_s: Seconds = 55.0
    probes_max: Count = 1
    probe_s: Seconds = 10.0
    slow_start_s: SecondsOrZero = 10.0


class RetryOptions(Struct, frozen=True):
    """Retries on the same target. `wait_max_s`: the longest Retry-After of a limit that is waited out."""

    same_target_max: Annotated[int, Meta(ge=0, le=10)] = 1
    last_target_max: Annotated[int, Meta(ge=0, le=10)] = 2
    base_s: Seconds = 0.1
    max_s: Seconds = 2.0
    wait_max_s: SecondsOrZero = 3.0


class BudgetOptions(Struct, frozen=True):
    """Retry budget of a provider: retries and hedges allowed beyond first attempts, over `window_s`."""

    share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    floor_per_s: Annotated[float, Meta(ge=0)] = 1.0
    window_s: WindowSeconds = 10


class LimiterOptions(Struct, frozen=True):
    """Adaptive concurrency limit of a provider: `max` until the provider signals overload."""

    min: Count = 4
    max: Count = 1_000
    decrease: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    growth: Share = 0.1
    forget_s: Seconds = 60.0


class HealthOptions(Struct, frozen=True):
    """When a target that still answers counts as degraded and is tried after the healthy ones.

    `calls_min`: with fewer calls in the window, health is not judged; if all fail, the breaker opens earlier.
    `canary_interval_s`: interval of canary requests to a degraded target, in parallel with a healthy one.
    """

    window_s: WindowSeconds = 30
    calls_min: Count = 20
    failure_share: Share = 0.05
    canary_interval_s: Seconds = 2.0


class HedgeOptions(Struct, frozen=True):
    """Hedged requests to a second target. `share`: hedges per request, at most; 0 switches hedging off."""

    share: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    percentile: Annotated[float, Meta(gt=0.5, lt=1)] = 0.95
    samples_min: Count = 20
    delay_min_s: Seconds = 0.1


class AdmissionOptions(Struct, frozen=True):
    """The wait queue in front of full providers, shortened by CoDel. `waiting_max` 0: no request waits.

    If the shortest wait of the last `interval_s` exceeds `target_s`, requests that waited for more than twice
    `target_s` are shed.
    `priorities`: class of each caller, by the variable that holds its key (one of server.caller_keys_env);
    `others`: class of all callers that are not named.
    """

    waiting_max: Annotated[int, Meta(ge=0, le=100_000)] = 1_000
    target_s: Seconds = 0.5
    interval_s: Seconds = 2.0
    priorities: Mapping[str, PriorityName] = {}


class LimitOptions(Struct, frozen=True):
    """At most `count` requests in any `window_s`."""

    count: Annotated[int, Meta(ge=1, le=10_000)]
    window_s: Annotated[int, Meta(ge=1, le=86_400)] = 60


class LimitsOptions(Struct, frozen=True):
    """Rate limits of a session (its cookie), of an address and of a caller (its key). None: not counted.

    `premium`: callers that are not counted, by the variable that holds their key (one of
    server.caller_keys_env).
    `shared`: the requests are counted in the Redis of cache.redis, over all processes.
    After `strikes` refusals within a minute that came before the time that the client was told, its key is
    blocked for `block_s`, doubled each time up to `block_max_s`.
    """

    session: LimitOptions | None = None
    ip: LimitOptions | None = None
    caller: LimitOptions | None = None
    premium: tuple[str, ...] = ()
    shared: bool = False
    strikes: Count = 5
    block_s: Seconds = 60.0
    block_max_s: Seconds = 3_600.0


class ProbeOptions(Struct, frozen=True):
    """Active probes of failed targets that receive no requests. `idle_s`: time since the last request."""

    enabled: bool = True
    idle_s: Seconds = 2.0


class KeysOptions(Struct, frozen=True):
    """What is done so that a provider refuses no request for its key.

    `check_s`: time between two checks of a key; 0: none. `files_s`: time between two looks at the files that
    hold keys; 0: only SIGHUP reads them again. `quota_headers`: believe what a provider says is left of its
    limits.
    """

    check_s: SecondsOrZero = 900.0
    files_s: SecondsOrZero = 5.0
    quota_headers: bool = True


class CacheOptions(Struct, frozen=True):
    """The answer cache of a route. Only answers to requests with temperature 0 are cached.

    Answers older than `ttl_s` are stale. `warm_from`: a file of answers that are cached from the start, for
    every caller. `share`: equal requests at one time share one call (single flight).
    """

    enabled: bool = False
    ttl_s: Seconds = 300.0
    stale_while_revalidate_s: SecondsOrZero = 0.0
    stale_if_error_s: SecondsOrZero = 0.0
    warm_from: str | None = None
    share: bool = True


class RedisOptions(Struct, frozen=True):
    """A Redis that all processes share. Unused unless `url` or `url_env` is set.

    `timeout_s`: longest wait of a request for Redis, all calls together.
    Of equal requests in several processes one claims the call: the others wait `claim_wait_s` for its answer.
    A claim expires after `claim_s`.
    """

    url: str | None = None
    url_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] | None = None
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=64)] = "dub5"
    timeout_s: Annotated[float, Meta(ge=0.005, le=5)] = 0.05
    connections_max: Annotated[int, Meta(ge=1, le=10_000)] = 16
    claim_s: Seconds = 30.0
    claim_wait_s: SecondsOrZero = 1.0

    @property
    def used(self) -> bool:
        """Whether answers are cached in Redis."""
        return self.url is not None or self.url_env is not None


class CacheBounds(Struct, frozen=True):
    """Bounds of the answer cache in memory, over all routes. `entry_bytes_max`: largest cached answer."""

    entries_max: Count = 10_000
    bytes_max: Count = 64 * 1024 * 1024
    entry_bytes_max: Count = 1024 * 1024
    redis: RedisOptions = RedisOptions()


class DegradedOptions(Struct, frozen=True):
    """Fallback answers of a route (labelled substitutes), for when no provider can answer.

    `answer_within_s`: time limit for providers to reach the commit point; after it the fallback is returned.
    `templates`: a file of texts that override the built-in ones.
    """

    enabled: bool = False
    answer_within_s: Seconds | None = None
    templates: str | None = None


class SanitizeOptions(Struct, frozen=True):
    """Sanitising of the texts that callers send to a route. `question_chars_max`: of the last user message.

    `injection`: what becomes of a request that looks like a prompt injection.
    """

    enabled: bool = False
    question_chars_max: Count = 2_000
    injection: InjectionAction = "off"
