"""What each mechanism may be told, with its defaults. Seconds end in `_s`; a share is between 0 and 1.

Each default says where it comes from in docs/reliability.md.
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


class TimeoutOptions(Struct, frozen=True):
    """How long each stage of an answer may take, in seconds. `total_s` is the deadline of the whole request."""

    pool_s: Seconds = 1.0
    connect_s: Seconds = 3.0
    first_token_s: Seconds = 10.0
    whole_answer_s: Seconds = 60.0
    between_tokens_s: Seconds = 15.0
    total_s: Seconds = 300.0


class BreakerOptions(Struct, frozen=True):
    """When a target, or a host, is left alone, and for how long. A first token is slow when it took more than
    `slow_of_timeout` of the route's first-token clock."""

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
    """Asking the same target again. `wait_max_s`: a limit that says to come back within so long is waited for."""

    same_target_max: Annotated[int, Meta(ge=0, le=10)] = 1
    last_target_max: Annotated[int, Meta(ge=0, le=10)] = 2
    base_s: Seconds = 0.1
    max_s: Seconds = 2.0
    wait_max_s: SecondsOrZero = 3.0


class BudgetOptions(Struct, frozen=True):
    """What same-target retries and hedges may add to a provider's load, measured over `window_s`."""

    share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    floor_per_s: Annotated[float, Meta(ge=0)] = 1.0
    window_s: WindowSeconds = 10


class LimiterOptions(Struct, frozen=True):
    """How many requests a provider is given at one time: `max` until it shows that this is too many."""

    min: Count = 4
    max: Count = 1_000
    decrease: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    growth: Share = 0.1
    forget_s: Seconds = 60.0


class HealthOptions(Struct, frozen=True):
    """When a target that still answers stands behind the others. `calls_min`: fewer prove nothing, and a target that
    fails all of them has opened its breaker before. `canary_interval_s`: it is still asked that often, beside a healthy one."""

    window_s: WindowSeconds = 30
    calls_min: Count = 20
    failure_share: Share = 0.05
    canary_interval_s: Seconds = 2.0


class HedgeOptions(Struct, frozen=True):
    """Asking a second target beside one that takes longer than usual. `share`: of all requests; 0 switches it off."""

    share: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    percentile: Annotated[float, Meta(gt=0.5, lt=1)] = 0.95
    samples_min: Count = 20
    delay_min_s: Seconds = 0.1


class AdmissionOptions(Struct, frozen=True):
    """Waiting while every provider is full. `waiting_max` 0: nobody does. When even the shortest wait of the last
    `interval_s` was above `target_s`, those go who have waited for more than twice that. `priorities`: of callers, by
    the variable that holds their key (one of server.caller_keys_env); `others`: of all that are not named."""

    waiting_max: Annotated[int, Meta(ge=0, le=100_000)] = 1_000
    target_s: Seconds = 0.5
    interval_s: Seconds = 2.0
    priorities: Mapping[str, PriorityName] = {}


class ProbeOptions(Struct, frozen=True):
    """Asking a target that nobody asks any more whether it is back; `idle_s`: after so long without a request."""

    enabled: bool = True
    idle_s: Seconds = 2.0


class CacheOptions(Struct, frozen=True):
    """Whether finished answers of a route are kept, and how long. Only requests with temperature 0 are. Older than
    `ttl_s` they are stale. `warm_from`: a file with answers that are there from the start, for every caller. `share`: equal requests at one
    time share one call."""

    enabled: bool = False
    ttl_s: Seconds = 300.0
    stale_while_revalidate_s: SecondsOrZero = 0.0
    stale_if_error_s: SecondsOrZero = 0.0
    warm_from: str | None = None
    share: bool = True


class RedisOptions(Struct, frozen=True):
    """A Redis that all processes share; none unless `url` or `url_env` says where. `timeout_s`: the longest that a
    request waits for it, all calls together. Of equal questions at one time one is asked: the others wait `claim_wait_s` for
    its answer, and the one who asks is believed to be at it for `claim_s`."""

    url: str | None = None
    url_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] | None = None
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=64)] = "dub5"
    timeout_s: Annotated[float, Meta(ge=0.005, le=5)] = 0.05
    connections_max: Annotated[int, Meta(ge=1, le=10_000)] = 16
    claim_s: Seconds = 30.0
    claim_wait_s: SecondsOrZero = 1.0

    @property
    def used(self) -> bool:
        """Whether answers are kept there."""
        return self.url is not None or self.url_env is not None


class CacheBounds(Struct, frozen=True):
    """How much the answer cache may hold in memory, all routes together, and of how many bytes an answer may be."""

    entries_max: Count = 10_000
    bytes_max: Count = 64 * 1024 * 1024
    entry_bytes_max: Count = 1024 * 1024
    redis: RedisOptions = RedisOptions()


class DegradedOptions(Struct, frozen=True):
    """Whether a route gives a labelled substitute when nobody can answer. `answer_within_s`: so long providers are
    asked, until one of them has committed. `templates`: a file of texts that go before ours."""

    enabled: bool = False
    answer_within_s: Seconds | None = None
    templates: str | None = None
