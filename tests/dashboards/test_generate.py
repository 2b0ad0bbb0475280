import json
import os
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from dashboards.generate import DASHBOARDS, FOLDER, main, render
from dub5.service.telemetry import names

PANELS: list[dict[str, Any]] = [
    panel
    for dashboard in DASHBOARDS
    for panel in json.loads(render(dashboard))["panels"]
    if panel["type"] != "row"
]


def test_no_drift(capsys: pytest.CaptureFixture[str]) -> None:
    """The committed files are what the generator writes."""
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_file_out_of_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The check fails when a file differs or is missing, and writes nothing; a plain run then mends it."""
    monkeypatch.setattr("dashboards.generate.FOLDER", tmp_path)
    assert main(["--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "overview.json").write_text("{}")
    assert main(["--check"]) == 1


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
class TestEachPanel:
    """The rules of Grafana's dashboard linter, as far as they are about panels."""

    def test_says_what_it_shows(self, panel: dict[str, Any]) -> None:
        """A title, a sentence of description, a unit, and a legend that tells lines apart."""
        assert panel["title"] and panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])

    def test_reads_what_the_reader_chose(self, panel: dict[str, Any]) -> None:
        """The data source, the job and the instance are variables in every query."""
        for part in (panel, *panel["targets"]):
            assert part["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            selectors = re.findall(r"\{[^{}]*\}", target["expr"])
            assert selectors
            assert all('job=~"$job",instance=~"$instance"' in selector for selector in selectors)

    def test_rates_fit_the_zoom(self, panel: dict[str, Any]) -> None:
        """Counters are read as rates over Grafana's own interval, and a rate is taken before it is summed."""
        for target in panel["targets"]:
            expr = target["expr"]
            assert not re.search(r"\[(?!\$__rate_interval\])", expr)
            assert not re.search(r"rate\s*\(\s*sum", expr)
            for name in re.findall(r"\w+_(?:total|bucket|sum|count)\{", expr):
                assert re.search(rf"(?:rate|increase)\({re.escape(name)}", expr), name

    def test_can_be_provisioned_anywhere(self, panel: dict[str, Any]) -> None:
        """No fixed panel number, and each query of a panel has its own letter."""
        assert "id" not in panel
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


def test_every_metric_has_a_panel() -> None:
    """What the service measures can be seen: each metric of the catalogue is on a dashboard."""
    shown = "".join(target["expr"] for panel in PANELS for target in panel["targets"])
    hidden = [
        metric.prometheus_name
        for metric in names.ALL
        if not re.search(rf"\b{metric.prometheus_name}(_bucket|_sum|_count)?{{", shown)
    ]
    assert hidden == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.file)
class TestEachBoard:
    def test_panels_do_not_overlap(self, dashboard: Any) -> None:
        """No panel covers another or hangs over the edge."""
        places = [panel["gridPos"] for panel in json.loads(render(dashboard))["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        for one, other in combinations(places, 2):
            apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert apart_x or apart_y, (one, other)

    def test_has_a_name_of_its_own(self, dashboard: Any) -> None:
        """A stable uid so that links hold, no database id, and titles that are said once."""
        made = json.loads(render(dashboard))
        assert made["id"] is None and made["uid"] == dashboard.uid
        titles = [panel["title"] for panel in made["panels"]]
        assert len(set(titles)) == len(titles)


def test_promql(tmp_path: Path) -> None:
    """Prometheus's own tool can parse every expression."""
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "promtool must be installed where CI is set"
        pytest.skip("promtool is not installed: the expressions were not parsed")
    rules = [
        {"record": f"panel:{i}", "expr": expr.replace("$__rate_interval", "1m")}
        for i, expr in enumerate(target["expr"] for panel in PANELS for target in panel["targets"])
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    checked = subprocess.run(
        [promtool, "check", "rules", str(path)], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_folder_holds_no_stray_board() -> None:
    """Each JSON file beside the generator is written by it."""
    assert {path.stem for path in FOLDER.glob("*.json")} == {dashboard.file for dashboard in DASHBOARDS}
