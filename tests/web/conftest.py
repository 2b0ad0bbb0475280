"""A real browser, and the real service over simulated providers, each a process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import chromium
from tests.support.child_processes import child, serving
from tests.support.page import PERSONAS, SimulatedProviders, settings


@pytest.fixture(scope="session")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="session")
def providers() -> Iterator[SimulatedProviders]:
    named = [part for name, persona in PERSONAS.items() for part in ("--provider", f"{name}={persona}")]
    with child("simulators", *named, "--admin-port", "0", "--leash") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        urls = {name: entry["url"] for name, entry in said["providers"].items()}
        yield SimulatedProviders(urls, said["admin"], said["token"])


@pytest.fixture(scope="module")
def config(providers: SimulatedProviders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("web") / "dub5.toml"
    path.write_text(settings(providers.urls))
    return path


@pytest.fixture(scope="module")
def service(config: Path) -> Iterator[str]:
    with serving(config) as (url, _):
        yield url
