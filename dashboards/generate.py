"""The generator of the Grafana dashboards.

    python -m dashboards.generate            write dashboards/*.json
    python -m dashboards.generate --check    write nothing; exit 1 if a file is out of date

Metric names come from dub5.service.telemetry.names, so panels follow a renamed metric. The JSON is committed:
Grafana reads files, and reviews show changes of panels.
"""

import argparse
import json
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from dashboards.overview import OVERVIEW
from dashboards.panels import Dashboard, Panel, PanelRow, Query

FOLDER = Path(__file__).parent
DASHBOARDS = (OVERVIEW,)
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39  # Grafana 10 and later; newer versions migrate it on load


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """Return a dashboard in Grafana's format."""
    return {
        "annotations": {"list": []},
        "description": dashboard.description,
        "editable": False,
        "graphTooltip": 1,  # one crosshair for all panels
        "id": None,
        "panels": [
            panel_json(item, place) if isinstance(item, Panel) else row_json(item, place)
            for item, place in layout(dashboard)
        ],
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["dub5"],
        "templating": {"list": variables(dashboard)},
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "title": dashboard.title,
        "uid": dashboard.uid,
    }


def layout(dashboard: Dashboard) -> Iterator[tuple[Panel | PanelRow, dict[str, int]]]:
    """Yield panels and titles of rows with their places, from top to bottom."""
    y = yield from _places(dashboard.panels, 0)
    for row in dashboard.rows:
        yield row, {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        y = yield from _places(row.panels, y + 1)


def _places(panels: tuple[Panel, ...], y: int) -> Generator[tuple[Panel, dict[str, int]], None, int]:
    """Yield panels with their places, from left to right, a line as high as its highest; return its end."""
    x = line_height = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, line_height = 0, y + line_height, 0
        yield panel, {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, line_height = x + panel.width, max(line_height, panel.height)
    return y + line_height


def row_json(row: PanelRow, place: dict[str, int]) -> dict[str, Any]:
    """Return the title of a row in Grafana's format; what follows it belongs to it."""
    return {"type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def panel_json(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel in Grafana's format."""
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "mappings": [mapping(panel)] if panel.value_mappings else [],
    }
    if panel.max_value is not None:
        defaults |= {"min": 0, "max": panel.max_value}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 15, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "gridPos": place,
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
        if panel.kind != "stat"
        else {"reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [target(query, letter) for query, letter in zip(panel.queries, "ABCDEFGH", strict=False)],
    }


def target(query: Query, letter: str) -> dict[str, Any]:
    """Return a query in Grafana's format."""
    return {"datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend, "refId": letter}


def mapping(panel: Panel) -> dict[str, Any]:
    """Return a mapping of values to texts and colours."""
    options = {
        str(value): {"text": state.text, "color": state.color, "index": value}
        for value, state in enumerate(panel.value_mappings)
    }
    return {"type": "value", "options": options}


def variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Return the variables of a dashboard: data source, job and instances."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [
        source,
        *(variable(dashboard, name, match) for name, match in (("job", ""), ("instance", 'job=~"$job"'))),
    ]


def variable(dashboard: Dashboard, name: str, match: str) -> dict[str, Any]:
    """Return a variable that lists the values of a label, all selected at first."""
    selector = f"{dashboard.up}{{{match}}}" if match else dashboard.up
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": f"label_values({selector}, {name})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def render(dashboard: Dashboard) -> str:
    """Render the file's text with sorted keys, so that equal dashboards are equal files."""
    return json.dumps(dashboard_json(dashboard), indent=1, sort_keys=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the generator; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.generate", description="Writes dashboards/*.json."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    stale = False
    for dashboard in DASHBOARDS:
        path, text = FOLDER / f"{dashboard.file}.json", render(dashboard)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{path.name} is out of date: run python -m dashboards.generate", file=sys.stderr)
            stale = True
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
