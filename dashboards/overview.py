"""The overview dashboard: is every request answered, and if not, which provider or mechanism is the cause?"""

from dashboards.background import DOCUMENTS, JOBS
from dashboards.feedback import FEEDBACK
from dashboards.keys import KEYS
from dashboards.panels import Dashboard, Panel, Query, ValueMapping, quantile, quantiles, rate, series
from dashboards.problems import PROBLEMS
from dashboards.system import SYSTEM
from dub5.service.telemetry import names

TARGET = "gen_ai_provider_name, gen_ai_request_model"
TARGET_LEGEND = "{{gen_ai_provider_name}}/{{gen_ai_request_model}}"
ANSWERABLE = 'outcome!~"refused|cancelled"'

OVERVIEW = Dashboard(
    file="overview",
    uid="dub5-overview",
    title="DUB5 overview",
    description="Is every request answered, and if not, which provider or mechanism is the cause?",
    up=names.IN_FLIGHT.prometheus_name,
    panels=(
        Panel(
            "Answered",
            "Share of requests that got a complete answer or a fallback answer. Refused requests and "
            "requests cancelled by their client do not count.",
            "percentunit",
            (
                Query(
                    rate(names.REQUESTS, match='outcome=~"complete|degraded"')
                    + " / "
                    + rate(names.REQUESTS, match=ANSWERABLE),
                    "answered",
                ),
            ),
            kind="stat",
            width=4,
            max_value=1,
        ),
        Panel(
            "Requests by outcome",
            "Requests per second by outcome. Every outcome except complete deserves a look; cut is the "
            "worst.",
            "reqps",
            (Query(rate(names.REQUESTS, by="outcome"), "{{outcome}}"),),
            width=10,
            stacked=True,
        ),
        Panel(
            "Errors by code",
            "Errors per second that clients received, by error code.",
            "reqps",
            (Query(rate(names.ERRORS, by="code"), "{{code}}"),),
            width=10,
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "First token, as clients see it",
            "Time from a stream's request to its first content, with failovers, without answers from the "
            "cache.",
            "s",
            quantiles(names.FIRST_TOKEN, match='cached="false"'),
        ),
        Panel(
            "First token by target",
            "Time from the start of an attempt to its first content. Targets are not summed: a fast target "
            "would hide a slow one.",
            "s",
            quantiles(names.FIRST_CHUNK, by=TARGET, legend=TARGET_LEGEND),
        ),
        Panel(
            "Time per token",
            "Time between tokens after the first, averaged over each complete stream.",
            "s",
            quantiles(names.PER_TOKEN),
        ),
        Panel(
            "Attempts: duration by target",
            "p95 of the time that answered attempts took, streams to their end, without cancelled ones.",
            "s",
            (
                Query(
                    quantile(0.95, names.ATTEMPT_DURATION, by=TARGET, match='error_type!="failed"'),
                    TARGET_LEGEND,
                ),
            ),
        ),
        Panel(
            "Whole request",
            "Time from a request's arrival to its last byte, for answered requests.",
            "s",
            quantiles(names.DURATION, match='outcome=~"complete|degraded"'),
        ),
        Panel(
            "Attempts by target and reason",
            "Attempts per second by target and the reason they ended with. A reason other than ok is the "
            "provider's error or a timeout.",
            "reqps",
            (Query(rate(names.ATTEMPTS, by="target, reason"), "{{target}} {{reason}}"),),
            width=12,
            stacked=True,
        ),
        Panel(
            "Failovers and skipped targets",
            "Requests per second that one target answered after another had failed; and targets that "
            "requests skipped, by reason: an open breaker, a cool-down, a concurrency limit.",
            "reqps",
            (
                Query(rate(names.FAILOVERS, by="route"), "failover on {{route}}"),
                Query(rate(names.PASSED_OVER, by="target, reason"), "{{target}} {{reason}}"),
            ),
            width=12,
            often_empty=True,
        ),
        Panel(
            "Circuit breakers",
            "The state of each target's circuit breaker, or of its host's breaker if that is worse.",
            "short",
            (Query(f"max by (target) ({series(names.BREAKER_STATE)})", "{{target}}"),),
            kind="state-timeline",
            width=12,
            value_mappings=(
                ValueMapping("closed", "green"),
                ValueMapping("half open", "yellow"),
                ValueMapping("open", "red"),
                ValueMapping("isolated", "purple"),
            ),
        ),
        Panel(
            "Health",
            "The health of each target, which orders them: degraded targets are called after healthy ones, "
            "unhealthy ones last.",
            "short",
            (Query(f"max by (target) ({series(names.TARGET_HEALTH)})", "{{target}}"),),
            kind="state-timeline",
            width=12,
            value_mappings=(
                ValueMapping("healthy", "green"),
                ValueMapping("degraded", "yellow"),
                ValueMapping("unhealthy", "red"),
            ),
        ),
        Panel(
            "Retries, hedges and probes",
            "Attempts per second other than first ones, by kind; and hedges: calls to a second target while "
            "the first one is slow or on probation.",
            "reqps",
            (
                Query(rate(names.ATTEMPTS, by="target, kind", match='kind!="first"'), "{{target}} {{kind}}"),
                Query(rate(names.HEDGES, by="target, why"), "hedge of {{target}}: {{why}}"),
            ),
            often_empty=True,
        ),
        Panel(
            "Retries denied by the retry budget",
            "Retries and hedges per second that were denied, because the provider's retry budget was "
            "exhausted. This protects a failing provider; if it lasts, look at what fails there.",
            "reqps",
            (Query(rate(names.RETRIES_DENIED, by="provider"), "{{provider}}"),),
            often_empty=True,
        ),
        Panel(
            "Provider concurrency limits",
            "The concurrency limit of each provider, and its requests in flight. Signs of overload decrease "
            "the limit; the panel of changes below counts the decreases.",
            "short",
            (
                Query(f"sum by (provider) ({series(names.PROVIDER_LIMIT)})", "{{provider}} limit"),
                Query(f"sum by (provider) ({series(names.PROVIDER_IN_FLIGHT)})", "{{provider}} in flight"),
            ),
        ),
        Panel(
            "Queue length",
            "Requests that wait because all providers that could answer them are at capacity. A queue is "
            "harmless while it moves; the next two panels show whether it does.",
            "short",
            (Query(f"sum ({series(names.QUEUE_WAITING)})", "waiting"),),
        ),
        Panel(
            "Queueing delay",
            "Time in the queue of requests that were served afterwards.",
            "s",
            quantiles(names.QUEUE_WAIT, match='how="served"'),
            often_empty=True,
        ),
        Panel(
            "Queue exits by outcome",
            "Requests per second that left the queue, by priority: served, left by their client, or shed, "
            "because the queue was standing (overloaded) or too long (full), or because the deadline was too "
            "near (expired).",
            "reqps",
            (Query(rate(names.QUEUE, by="priority, how"), "{{priority}} {{how}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "Fallback answers",
            "Fallback answers per second for requests that no target could answer, by source.",
            "reqps",
            (Query(rate(names.DEGRADED, by="route, source"), "{{route}} {{source}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "In flight",
            "Requests in flight, and attempts in flight by target.",
            "short",
            (
                Query(f"sum ({series(names.IN_FLIGHT)})", "requests"),
                Query(f"sum by (target) ({series(names.TARGET_IN_FLIGHT)})", "{{target}}"),
            ),
        ),
        Panel(
            "Cache",
            "Lookups in the answer cache per second, by result. Stale answers are served while a call "
            "refreshes them, or when no target answers. Errors cost milliseconds, not answers.",
            "reqps",
            (Query(rate(names.CACHE, by="result"), "{{result}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "Shared calls",
            "Requests per second that joined the call of an equal request; calls handed over to joined "
            "requests after the first client had left; and calls that refresh a stale answer.",
            "reqps",
            (Query(rate(names.SHARED, by="what"), "{{what}}"),),
        ),
        Panel(
            "Breaker, health and limit changes",
            "State changes of breakers and health, by the new state; and decreases of providers' concurrency "
            "limits.",
            "short",
            (
                Query(
                    f"sum by (scope, after) (increase({series(names.BREAKER_CHANGES)}[$__rate_interval]))",
                    "{{scope}} breaker {{after}}",
                ),
                Query(
                    f"sum by (target, after) (increase({series(names.HEALTH_CHANGES)}[$__rate_interval]))",
                    "{{target}} {{after}}",
                ),
                Query(
                    f"sum by (provider) (increase({series(names.LIMIT_LOWERED)}[$__rate_interval]))",
                    "{{provider}} limit decreased",
                ),
            ),
            often_empty=True,
        ),
        Panel(
            "Gateway overhead",
            "Time that the gateway itself adds before the first byte, without the time of providers.",
            "s",
            quantiles(names.OVERHEAD),
        ),
        Panel(
            "Internal errors",
            "Internal errors: defects of the gateway. Each one is in the log under its request's id.",
            "short",
            (Query(f"sum (increase({series(names.CRASHES)}[$__rate_interval]))", "crashes"),),
        ),
        Panel(
            "Rate limits",
            "Requests per second that were refused for a rate limit, by what the limit counts. Blocked: of "
            "clients that go on sending while they are refused. Counted locally: the shared log did not "
            "answer, so each process accepts the whole limit.",
            "reqps",
            (
                Query(rate(names.RATE_LIMITED, by="by, blocked"), "{{by}} blocked={{blocked}}"),
                Query(rate(names.RATE_LIMIT_LOCAL), "counted locally"),
            ),
        ),
        Panel(
            "Security events",
            "Refused keys, tokens, hosts, origins and sessions, and misuse. A burst of one kind: an attack, "
            "or a client with old settings; the log lines with event=security name the addresses.",
            "short",
            (
                Query(
                    f"sum by (what) (increase({series(names.SECURITY_EVENTS)}[$__rate_interval]))", "{{what}}"
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Database: time of statements",
            "p95 of the time that the database took, by statement; a transaction counts under its first one. "
            "Empty without conversations.",
            "s",
            (Query(quantile(0.95, names.STORE_DURATION, by="statement"), "{{statement}}"),),
            often_empty=True,
        ),
        Panel(
            "Database: what failed",
            "Statements per second that failed. Lost: the call failed; late: nobody waited any longer; "
            "refused: a defect. Forgotten: writes that were given up, which are not in the database.",
            "ops",
            (
                Query(
                    rate(names.STORE_DURATION, suffix="_count", by="statement, result", match='result!="ok"'),
                    "{{statement}} {{result}}",
                ),
                Query(rate(names.STORE_FORGOTTEN), "forgotten writes"),
            ),
            often_empty=True,
        ),
        Panel(
            "Database: outbox and pool",
            "Writes that wait for the database, over all instances: they are sent when it is back, 1,000 of "
            "each instance at most. And the connections to PostgreSQL; used: 1 while requests use it.",
            "short",
            (
                Query(f"sum ({series(names.STORE_OUTBOX)})", "writes waiting"),
                Query(f"sum by (state) ({series(names.STORE_POOL)})", "connections {{state}}"),
                Query(f"min ({series(names.STORE_READY)})", "used"),
            ),
            often_empty=True,
        ),
        Panel(
            "Turns of conversations",
            "Turns per second by outcome; kept: they are in the database. Pruned: asked without some of "
            "what was said before, which did not fit in the window. Empty without conversations.",
            "ops",
            (
                Query(rate(names.TURNS, by="outcome, kept"), "{{outcome}} kept={{kept}}"),
                Query(rate(names.HISTORY_PRUNED), "pruned"),
            ),
            often_empty=True,
        ),
        Panel(
            "Turns live, and read on",
            "Turns that are being answered now; and turns per second that a new connection reads on, by "
            "where their answer comes from: the memory of the process, the database, or another process. "
            "Much of the last two: connections move between instances. Empty without conversations.",
            "short",
            (
                Query(f"sum ({series(names.TURNS_LIVE)})", "live"),
                Query(rate(names.TURNS_RESUMED, by="source"), "read on, from {{source}}"),
            ),
            often_empty=True,
        ),
        Panel(
            "WebSockets",
            "Open WebSockets of each instance: 10,000 at most, unless the settings say otherwise; and closed "
            "ones per second by close code. 1000, 1001: by the client; 1006: broken off; 1012: the instance "
            "stops; 1013: too many; 4408: idle. Empty without conversations.",
            "short",
            (
                Query(f"sum by (instance) ({series(names.SOCKETS)})", "open {{instance}}"),
                Query(rate(names.SOCKETS_CLOSED, by="code"), "closed {{code}}"),
            ),
            often_empty=True,
        ),
        Panel(
            "Tokens",
            "Tokens per second by target and type. Tokens of the certainty maybe belong to attempts that "
            "failed, were cut or cancelled, and may be billed. Some are estimated.",
            "short",
            (
                Query(
                    rate(names.TOKENS_SPENT, by="target, gen_ai_token_type, certainty"),
                    "{{target}} {{gen_ai_token_type}} {{certainty}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Tokens of a request",
            "p95 of the tokens of a question with all that is asked along, and of an answer.",
            "short",
            (Query(quantile(0.95, names.TOKEN_USAGE, by="gen_ai_token_type"), "{{gen_ai_token_type}} p95"),),
        ),
        Panel(
            "Cost",
            "US dollars per hour by target, where the settings name a price. Complete answers are billed; "
            "other attempts may be.",
            "currencyUSD",
            (
                Query(
                    f"3600 * {rate(names.COST, by='target, certainty')}",
                    "{{target}} {{certainty}}",
                ),
            ),
            stacked=True,
            often_empty=True,
        ),
        # The providers' keys: a row of their own.
    ),
    rows=(SYSTEM, DOCUMENTS, JOBS, KEYS, PROBLEMS, FEEDBACK),
)
