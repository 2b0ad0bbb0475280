import os
import re
import shutil
import subprocess

import pytest

from dashboards.generate import FOLDER
from dub5.service.telemetry import names

RULES = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
TESTS = (FOLDER / "alerts.test.yml").read_text(encoding="utf-8")


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ, "promtool must be installed where CI is set"
        pytest.skip("promtool is not installed: the alerts were not tried")
    return found


def test_alerts_fire_when_they_should(promtool: str) -> None:
    """Prometheus plays each incident of alerts.test.yml: the right alerts fire, and no others."""
    tried = subprocess.run(
        [promtool, "test", "rules", str(FOLDER / "alerts.test.yml")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_each_alert_is_tried() -> None:
    """Each alert has an incident in which it fires."""
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert len(alerts) > 5
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n", TESTS), alert


def test_alerts_query_known_metrics() -> None:
    """Every metric and label of a rule is in the catalogue of metrics."""
    by_name = {metric.prometheus_name: metric for metric in names.ALL}
    queried = re.findall(
        r"\b((?:gateway|gen_ai|process)_\w+?)(?:_bucket|_count)?(?=[{)\[ ])(?:\{([^}]*)\})?", RULES
    )
    assert len(queried) > 8
    for name, selector in queried:
        assert name in by_name
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= set(by_name[name].labels)
