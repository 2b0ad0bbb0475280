import os
from pathlib import Path

import pytest

from dub5.chaos.engines import find_toxiproxy as tools


@pytest.fixture
def server_path() -> Path:
    """The Toxiproxy server; without it a loud skip, and a failure under CI."""
    path = tools.find()
    if path is None:
        assert os.environ.get("CI") != "true", (
            "toxiproxy-server must be there under CI: python -m dub5.chaos.engines.find_toxiproxy"
        )
        pytest.skip(
            "no toxiproxy-server (python -m dub5.chaos.engines.find_toxiproxy builds it): our client was not tried on a real one"
        )
    return path
