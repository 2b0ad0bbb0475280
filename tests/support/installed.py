"""The project as it is installed elsewhere: its wheel, in an environment that has no checkout."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.source import ROOT

PATIENCE_S = 60


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command that must succeed. Return what it prints."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build_wheel(folder: Path, source: Path = ROOT) -> Path:
    """Build the wheel of a source folder into another folder."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    return next(folder.glob("*.whl"))


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Make an environment of the wheel and of all else that is installed here. Return its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--python", python, wheel)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", code, cwd=folder).strip())
    (packages / "zz_ours.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the wheel's own
    return python
