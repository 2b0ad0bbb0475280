"""Is every request answered, and if not, who is to blame?"""

from dashboards.panels import Dashboard, Panel, Query, ValueMapping, quantiles, rate, series
from dub5.service.telemetry import names

TARGET = "gen_ai_provider_name, gen_ai_request_model"
TARGET_LEGEND = "{{gen_ai_provider_name}}/{{gen_ai_request_model}}"
OURS_TO_ANSWER = 'outcome!~"refused|cancelled"'

OVERVIEW = Dashboard(
    file="overview",
    uid="dub5-overview",
    title="DUB5 overview",
    description="Is every request answered, and if not, who is to blame?",
    up=names.IN_FLIGHT.prometheus_name,
    panels=(
        Panel(
            "Answered",
            "Share of requests that got an answer, whole or a labelled substitute. Requests that were refused at the "
            "door or given up by their client are left out.",
            "percentunit",
            (
                Query(
                    rate(names.REQUESTS, match='outcome=~"complete|degraded"')
                    + " / "
                    + rate(names.REQUESTS, match=OURS_TO_ANSWER),
                    "answered",
                ),
            ),
            kind="stat",
            width=4,
            max_value=1,
        ),
        Panel(
            "Requests by outcome",
            "Requests a second by how they ended. Everything but complete deserves a look; cut is the worst.",
            "reqps",
            (Query(rate(names.REQUESTS, by="outcome"), "{{outcome}}"),),
            width=10,
            stacked=True,
        ),
        Panel(
            "Errors by code",
            "What clients were told, by error code.",
            "reqps",
            (Query(rate(names.ERRORS, by="code"), "{{code}}"),),
            width=10,
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "First token, as clients see it",
            "From a stream's request to its first content, failovers included, answers from the cache left out.",
            "s",
            quantiles(names.FIRST_TOKEN, match='cached="false"'),
        ),
        Panel(
            "First token by target",
            "From the start of a try to its first content. Targets are never summed: a fast one would hide a slow one.",
            "s",
            quantiles(names.FIRST_CHUNK, by=TARGET, legend=TARGET_LEGEND),
        ),
        Panel(
            "Whole request",
            "From a request's arrival to its last byte, answered requests only.",
            "s",
            quantiles(names.DURATION, match='outcome=~"complete|degraded"'),
        ),
        Panel(
            "Tries by target and reason",
            "Tries a second by target and how they ended. A reason other than ok is the provider's word or silence.",
            "reqps",
            (Query(rate(names.ATTEMPTS, by="target, reason"), "{{target}} {{reason}}"),),
            width=12,
            stacked=True,
        ),
        Panel(
            "Failovers and targets passed over",
            "Requests a second that one target answered after another had failed; and targets that were left alone "
            "because they were known to be down or cooling.",
            "reqps",
            (
                Query(rate(names.FAILOVERS, by="route"), "carried over on {{route}}"),
                Query(rate(names.PASSED_OVER, by="target, reason"), "{{target}} {{reason}}"),
            ),
            width=12,
            often_empty=True,
        ),
        Panel(
            "Breakers",
            "The state of each target's breaker, or of its host's if that is worse.",
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
            "What the router goes by: degraded targets are asked after healthy ones, unhealthy ones last.",
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
            "Tries a second that were not simply a target's turn, by why they were made; and requests that went to a "
            "second target at once, beside one that might have kept them waiting.",
            "reqps",
            (
                Query(rate(names.ATTEMPTS, by="target, kind", match='kind!="first"'), "{{target}} {{kind}}"),
                Query(rate(names.HEDGES, by="target, why"), "hedged beside {{target}}: {{why}}"),
            ),
            often_empty=True,
        ),
        Panel(
            "Retries denied",
            "Retries and hedges a second that were not made, because their provider's budget was spent. A provider in "
            "trouble is not to be asked even more; if this lasts, look at what fails there.",
            "reqps",
            (Query(rate(names.RETRIES_DENIED, by="provider"), "{{provider}}"),),
            often_empty=True,
        ),
        Panel(
            "Room at providers",
            "Requests that each provider is given at one time, and those under way. A provider that shows that it has "
            "less room is given less; how often that happened stands below.",
            "short",
            (
                Query(f"sum by (provider) ({series(names.PROVIDER_LIMIT)})", "{{provider}} limit"),
                Query(f"sum by (provider) ({series(names.PROVIDER_IN_FLIGHT)})", "{{provider}} under way"),
            ),
        ),
        Panel(
            "Waiting in line",
            "Requests that wait while every provider that could answer them is full. A line is no trouble while it "
            "moves; the next two panels say whether it does.",
            "short",
            (Query(f"sum ({series(names.QUEUE_WAITING)})", "waiting"),),
        ),
        Panel(
            "Time in line",
            "How long those waited who were let through.",
            "s",
            quantiles(names.QUEUE_WAIT, match='how="served"'),
            often_empty=True,
        ),
        Panel(
            "Out of the line",
            "How requests left it, by class: served, left by their client, or refused, as the line stood "
            "(overloaded), was too long (full), or left them too little time (expired).",
            "reqps",
            (Query(rate(names.QUEUE, by="priority, how"), "{{priority}} {{how}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "Substitutes",
            "Labelled substitutes a second for requests that nobody could answer, by where they came from. People "
            "read something, but not what they asked for.",
            "reqps",
            (Query(rate(names.DEGRADED, by="route, source"), "{{route}} {{source}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "In flight",
            "Requests being answered, and open tries by target.",
            "short",
            (
                Query(f"sum ({series(names.IN_FLIGHT)})", "requests"),
                Query(f"sum by (target) ({series(names.TARGET_IN_FLIGHT)})", "{{target}}"),
            ),
        ),
        Panel(
            "Cache",
            "Looks into the answer cache a second, by result. Stale answers were given all the same: while somebody "
            "asked anew, or as nobody answered. Errors cost milliseconds, not answers.",
            "reqps",
            (Query(rate(names.CACHE, by="result"), "{{result}}"),),
            stacked=True,
            often_empty=True,
        ),
        Panel(
            "Shared calls",
            "Requests a second that joined the call of an equal one, and asked no provider; calls that went on for "
            "them after whoever began had left; and calls that were made behind a stale answer.",
            "reqps",
            (Query(rate(names.SHARED, by="what"), "{{what}}"),),
        ),
        Panel(
            "Moves",
            "How often breakers and health moved, by what they moved to; and how often a provider's limit was lowered.",
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
                    "{{provider}} limit lowered",
                ),
            ),
            often_empty=True,
        ),
        Panel(
            "Our own share",
            "What this service added before the first byte, providers' time taken off.",
            "s",
            quantiles(names.OVERHEAD),
        ),
        Panel(
            "Processor",
            "Processor seconds a second; one process cannot use more than about one.",
            "short",
            (Query(f"rate({series(names.CPU)}[$__rate_interval])", "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            (Query(series(names.MEMORY), "{{instance}}"),),
        ),
        Panel(
            "Descriptors",
            "Open file descriptors: two for each stream in flight. The usual hard limit is 20,000.",
            "short",
            (Query(series(names.DESCRIPTORS), "{{instance}}"),),
        ),
        Panel(
            "Defects",
            "Defects of ours, caught at the edge. Each one is in the log under its request's id.",
            "short",
            (Query(f"sum (increase({series(names.CRASHES)}[$__rate_interval]))", "crashes"),),
        ),
        Panel(
            "Tokens",
            "Tokens a second by target and kind. Those that may be billed belong to tries without a whole answer: cut, "
            "given up, left by their client, or outrun by another target. Some are estimated.",
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
            "Cost",
            "US dollars an hour by target, where the settings name a price. Whole answers are billed; what was spent "
            "on others may be.",
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
    ),
)
