"""Find the Toxiproxy server, or build it if Go is installed: `python -m dub5.chaos.engines.find_toxiproxy`.

PATH -> .tools/bin (outside a checkout: ~/.cache/dub5/bin) -> go install -> none: simulators play the TCP
faults

Uses the standard library only.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAME = "toxiproxy-server"
PACKAGE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
BUILT_AS = "server"  # `go install` names a program after its folder
ROOT = Path(__file__).resolve().parents[2]
IN_CHECKOUT = (ROOT / "pyproject.toml").exists()
TOOLS = ROOT / ".tools" / "bin" if IN_CHECKOUT else Path.home() / ".cache" / "dub5" / "bin"
BUILD_S = 300.0


@dataclass(frozen=True, slots=True)
class ToxiproxyBinary:
    """The path of the server, or why there is none."""

    path: Path | None
    why: str = ""


def find(tools: Path = TOOLS) -> Path | None:
    """Return the path of an installed server, or None."""
    for place in (shutil.which(NAME), tools / NAME):
        if place is not None and os.access(place, os.X_OK):
            return Path(place)
    return None


def find_or_build(tools: Path = TOOLS) -> ToxiproxyBinary:
    """Find the server or build it. Print a line before a build, which may take a minute."""
    if (path := find(tools)) is not None:
        return ToxiproxyBinary(path)
    go = shutil.which("go")
    if go is None:
        return ToxiproxyBinary(
            None, f"{NAME} is neither on PATH nor in {_shown(tools)}, and there is no Go to build it with"
        )
    print(f"toxiproxy: building {PACKAGE} (once, about a minute) ...", flush=True)
    return _build(go, tools)


def _shown(tools: Path) -> str:
    return str(tools.relative_to(ROOT)) if tools.is_relative_to(ROOT) else str(tools)


def _build(go: str, tools: Path) -> ToxiproxyBinary:
    tools.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools) as folder:
        environ = {**os.environ, "GOBIN": folder, "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(
                [go, "install", PACKAGE],
                env=environ,
                capture_output=True,
                text=True,
                timeout=BUILD_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ToxiproxyBinary(None, f"building {NAME} took longer than {BUILD_S:g} s")
        except OSError as error:
            return ToxiproxyBinary(None, f"{go} cannot be run: {error.strerror}")
        if done.returncode != 0:
            reason = (done.stderr.strip() or "go printed nothing").splitlines()[-1]
            return ToxiproxyBinary(None, f"{NAME} could not be built: {reason}")
        os.replace(Path(folder) / BUILT_AS, tools / NAME)  # atomic: a parallel build never sees half a file
    return ToxiproxyBinary(tools / NAME)


def main() -> int:
    """Print the path, or why there is no server. Return exit code 1 without one."""
    binary = find_or_build()
    print(f"toxiproxy: {binary.path or binary.why}", flush=True)
    return 0 if binary.path else 1


if __name__ == "__main__":
    sys.exit(main())
