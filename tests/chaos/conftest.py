import os
from pathlib import Path

import pytest

from chaos import tools


@pytest.fixture
def server_path() -> Path:
    """The Toxiproxy server; without it a loud skip, and a failure under CI."""
    path = tools.find()
    if path is None:
        assert os.environ.get("CI") != "true", (
            "toxiproxy-server must be there under CI: python -m chaos.tools"
        )
        pytest.skip(
            "no toxiproxy-server (python -m chaos.tools builds it): our client was not tried on a real one"
        )
    return path
