"""Describes what a package did in a few words: `3x APIConnectionError[ConnectError]`, `silent, cut`, `ok`.

`3x`: attempts; left out if a single one succeeded. `raw`: not a class of the package. In brackets: the cause.
"""

from collections.abc import Mapping
from typing import Any

from dub5.simulators.answers import Proof, judge

BACKOFFS_S = (0.5, 1.0)
BACKOFF_SHARE_MIN = 0.75  # what jitter leaves of the backoff
SERVICE_WAIT_S = 5.0  # the Retry-After of the cases, less what has passed since
LOOP_LAG_S = 2.5  # half of the time that a lingering provider takes
HTTP = ("httpx", "httpx2")


def words(
    seen: Mapping[str, Any], package: str, *, lingers: bool = False, slept: bool = False, ours: bool = False
) -> str:
    """Return one cell of the matrix.

    `slept`: include the delays of retries; `ours`: include the service's code.
    """
    tries = seen["attempts"]
    if "busy_s" in seen:
        return f"still busy after {seen['busy_s']:g} s"
    if "error" in seen:
        said = f"{tries}x {error_words(seen['error'], package)}"
        said += f" ({seen['error']['code']})" if ours else ""
    else:
        said = (f"{tries}x " if tries > 1 else "") + answer_words(seen, lingers)
    if slept and (tries > 1 or "error" in seen):
        said += f", waits {waits(seen['waits'])}"
    return said


def error_words(error: Mapping[str, Any], package: str) -> str:
    """Describe an exception."""
    name = error["class"] if error["home"] == package else f"raw {error['class']}"
    if error["cause_home"] in HTTP:
        name += f"[{error['cause']}]"
    if error["status"] == 200 and package == "anthropic":
        name += f", status 200, {error['type']}"
    return name


def answer_words(seen: Mapping[str, Any], lingers: bool) -> str:
    """Describe an answer without exception."""
    if "form" in seen:
        return str(seen["form"])
    if "models" in seen:
        return "ok" if len(seen["models"]) == 2 else f"models {seen['models']}"
    if seen.get("events") == 0:
        return "silent, 0 events"
    if judge(seen["text"], "hi") is not Proof.WHOLE:
        return "silent, cut" + (f', finish "{seen["finish"]}"' if seen["finish"] else "")
    if not seen["finish"]:
        return "silent, no finish"
    late = ", waits for the end" if lingers and seen["tail_s"] > LOOP_LAG_S else ""
    return "ok" + late + (", yields it" if seen.get("odd") else "")


def waits(slept: list[float]) -> str:
    """Describe the delays between retries; `~0.5` is the usual backoff with its jitter."""
    return ", ".join(map(_wait, slept)) or "none"


def _wait(s: float) -> str:
    for usual_s in (*BACKOFFS_S, SERVICE_WAIT_S):
        if BACKOFF_SHARE_MIN * usual_s <= s <= usual_s:
            return f"~{usual_s:g}"
    return f"{s:g}"


def sent(headers: Mapping[str, str]) -> str:
    """Describe the headers of a request."""
    key = "Authorization: Bearer" if headers.get("authorization", "").startswith("Bearer ") else "x-api-key"
    version = headers.get("anthropic-version")
    dated = f"anthropic-version: {version}, " if version else ""
    return f"{key}, {dated}accept: {headers.get('accept')}"
