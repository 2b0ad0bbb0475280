"""The row of keys: which are refused, what they cost, and what is left of quotas and budgets."""

from dashboards.panels import Panel, PanelRow, Query, ValueMapping, rate, series
from dub5.service.telemetry import names

KEYS = PanelRow(
    "Keys",
    (
        Panel(
            "Provider keys",
            "State of each key of a provider, by eight digits of its hash. A refused key rests; other keys "
            "and targets answer.",
            "none",
            (Query(f"max by (provider, key) ({series(names.KEY_STATE)})", "{{provider}} {{key}}"),),
            width=6,
            max_value=2,
            value_mappings=(
                ValueMapping("unknown", "text"),
                ValueMapping("valid", "green"),
                ValueMapping("refused", "red"),
            ),
            often_empty=True,
        ),
        Panel(
            "Key checks",
            "Checks of keys and changes of their state, as they happen. Unknown: the provider did not say.",
            "none",
            (
                Query(
                    f"sum by (provider, result) (increase({series(names.KEY_CHECKS)}[$__rate_interval]))",
                    "{{provider}} checked: {{result}}",
                ),
                Query(
                    f"sum by (provider, after) (increase({series(names.KEY_CHANGES)}[$__rate_interval]))",
                    "{{provider}} became {{after}}",
                ),
            ),
            width=6,
            often_empty=True,
        ),
        Panel(
            "Quota left",
            "What is left of the limits of each key, as the provider's answers say. At zero the key rests "
            "until the reset.",
            "none",
            (
                Query(
                    f"min by (provider, key, what) ({series(names.KEY_QUOTA_LEFT)})",
                    "{{provider}} {{key}} {{what}}",
                ),
            ),
            width=6,
            often_empty=True,
        ),
        Panel(
            "Daily budgets",
            "Share of each provider's daily budget that is spent (UTC), cost per hour by key, and budgets "
            "that were nearly or wholly spent.",
            "none",
            (
                Query(
                    f"max by (provider) ({series(names.SPENDING_SHARE)})", "{{provider}} share of the budget"
                ),
                Query(
                    f"3600 * {rate(names.KEY_COST, by='provider, key')}",
                    "{{provider}} {{key}} dollars an hour",
                ),
                Query(
                    f"sum by (provider, what) (increase({series(names.SPENDING_NOTED)}[$__rate_interval]))",
                    "{{provider}} {{what}}",
                ),
            ),
            width=6,
            often_empty=True,
        ),
    ),
)
