"""The row of feedback: what people say of the answers, and of what is wrong."""

from dashboards.panels import Panel, PanelRow, Query, rate, series
from dub5.service.telemetry import names

FEEDBACK = PanelRow(
    "Feedback",
    (
        Panel(
            "Thumbs down",
            "Share of the thumbs that are down, by the target that had answered. A target that is fast and "
            "never fails may still answer badly: only people can say so. Empty without thumbs.",
            "percentunit",
            (
                Query(
                    rate(names.FEEDBACK, by="target", match='value="down"')
                    + " / ("
                    + rate(names.FEEDBACK, by="target", match='kind="answer"')
                    + " > 0)",
                    "{{target}}",
                ),
            ),
            max_value=1,
            often_empty=True,
        ),
        Panel(
            "Feedback by kind",
            "Feedback by kind and value. Issues and crashes are in words: GET /admin/feedback lists them.",
            "short",
            (
                Query(
                    f"sum by (kind, value) (increase({series(names.FEEDBACK)}[$__rate_interval]))",
                    "{{kind}} {{value}}",
                ),
            ),
            stacked=True,
            often_empty=True,
        ),
    ),
)
