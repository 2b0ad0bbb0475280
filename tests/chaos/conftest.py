import os
from pathlib import Path

import pytest

from dub5.chaos.engines import find_toxiproxy as tools


@pytest.fixture
def server_path() -> Path:
    """Return the path of the Toxiproxy server. Skip loudly without one; fail under CI."""
    path = tools.find()
    if path is None:
        build = "python -m dub5.chaos.engines.find_toxiproxy builds it"
        assert os.environ.get("CI") != "true", f"CI needs toxiproxy-server: {build}"
        pytest.skip(f"no toxiproxy-server ({build}): the client was not tested with a real server")
    return path
