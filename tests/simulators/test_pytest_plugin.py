"""Another project's tests get a provider as a fixture."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.source import ROOT

THEIRS = """
import json, urllib.error, urllib.request
import pytest
from dub5.simulators.answers import Proof, judge

ASK = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


def post(url):
    request = urllib.request.Request(url + "/v1/chat/completions", ASK, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def test_exact_list(dub5_provider):
    provider = dub5_provider("openai", {"kind": "sequence", "steps": ["status:500", "status:429"]})
    statuses = [post(provider.url)[0] for _ in range(3)]
    assert statuses == [500, 429, 200]
    assert [line.faults for line in provider.ledger()] == [("status",), ("status",), ()]


def test_two_at_once(dub5_provider):
    one, two = dub5_provider("groq", "status:498", words=3), dub5_provider("mistral", name="two")
    assert (post(one.url)[0], post(two.url)[0]) == (498, 200)
    one.set_faults()
    text = post(one.url)[1]["choices"][0]["message"]["content"]
    assert judge(text, "hi") is Proof.WHOLE and "in 3 words" in text


def test_limits(dub5_provider):
    provider = dub5_provider(limits={"requests_per_day": 1})
    assert [post(provider.url)[0] for _ in range(2)] == [200, 429]


def test_mistake(dub5_provider):
    with pytest.raises(ValueError, match="did you mean `openai`"):
        dub5_provider("opnai")
"""


def test_in_another_project(tmp_path: Path) -> None:
    """In another project tests pass with every warning an error, and pytest ends by itself."""
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "pytest",
        "-q",
        "-p",
        "dub5.simulators.pytest_plugin",
        "-p",
        "no:cacheprovider",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert "4 passed" in ended.stdout, ended.stdout + ended.stderr


def test_costs_nothing_unless_used() -> None:
    """Loading the plugin loads no other file of this package, and its entry point is the announced one."""
    code = "import sys, dub5.simulators.pytest_plugin as p; "
    code += "print(*sorted(m for m in sys.modules if m.startswith('dub5')))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["dub5", "dub5.simulators", "dub5.simulators.pytest_plugin"]
    announced = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert announced == {"dub5": "dub5.simulators.pytest_plugin"}
