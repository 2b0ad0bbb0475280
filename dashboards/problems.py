"""The row of problems: what is worse than usual, what went wrong, and whether the operator was told."""

from dashboards.panels import Panel, PanelRow, Query, series
from dub5.service.telemetry import names

PROBLEMS = PanelRow(
    "Problems",
    (
        Panel(
            "Degraded routes",
            "Routes that do worse than their own hour before. not_whole: more requests that were not "
            "answered whole; first_token: a longer time to the first token.",
            "short",
            (Query(f"max by (route, what) ({series(names.ROUTE_DEGRADED)}) > 0", "{{route}} {{what}}"),),
            often_empty=True,
        ),
        Panel(
            "Problems, now and over",
            "Kinds of errors: those seen within the last five minutes, and those that are over. /status has "
            "each of them, with its count and request ids.",
            "short",
            (Query(f"sum by (state) ({series(names.PROBLEMS)})", "{{state}}"),),
        ),
        Panel(
            "Notifications",
            "Messages to the operator's hook and to Sentry. Failed: three tries were not taken; dropped: too "
            "many waited.",
            "short",
            (
                Query(
                    f"sum by (to, what, result) (increase({series(names.NOTIFICATIONS)}[$__rate_interval]))",
                    "{{to}} {{what}} {{result}}",
                ),
            ),
            often_empty=True,
        ),
    ),
)
