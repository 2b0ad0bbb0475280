"""The faults that a scenario may name, and what applies them.

HTTP and tokens   the simulators' names (simulators/faults/answers.py): faults inside the answer
TCP               Toxiproxy's names, fields and units: faults on the connection; without Toxiproxy,
                  `simulator_equivalent` gives what the simulators do instead
environment       a provider's `capacity` (simulators/limits/concurrency.py), or `settings`: the service
                  reloads an unreadable settings file; on virtual time only
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from dub5.chaos.scenario.decode import decode, suggestion, unknown_settings
from dub5.simulators.faults.answers import KINDS as HTTP_KINDS
from dub5.simulators.faults.answers import BadFault, parse_fault
from dub5.simulators.limits.concurrency import Capacity

FaultValue = str | int | float | bool


class _Toxic(msgspec.Struct, kw_only=True):
    """The options of a Toxiproxy toxic, on the stream to or from the provider."""

    stream: Literal["upstream", "downstream"] = "downstream"


class _Latency(_Toxic):
    latency: int  # ms
    jitter: int = 0  # ms


class _Bandwidth(_Toxic):
    rate: int  # KB/s; at least 1, or the proxy hangs


class _SlowClose(_Toxic):
    delay: int  # ms


class _Timeout(_Toxic):
    timeout: int  # ms; 0 swallows all bytes until it is lifted


class _ResetPeer(_Toxic):
    timeout: int  # ms


class _Slicer(_Toxic):
    average_size: int  # bytes
    size_variation: int = 0  # bytes
    delay: int = 0  # us


class _LimitData(_Toxic):
    bytes: int


class _NoOptions(msgspec.Struct):
    pass


TCP_KINDS: Mapping[str, type[msgspec.Struct]] = {
    "latency": _Latency,
    "bandwidth": _Bandwidth,
    "slow_close": _SlowClose,
    "timeout": _Timeout,
    "reset_peer": _ResetPeer,
    "slicer": _Slicer,
    "limit_data": _LimitData,
    "down": _Toxic,  # the port refuses
}
CAPACITY, SETTINGS = "capacity", "settings"
ENVIRONMENT_KINDS: Mapping[str, type[msgspec.Struct]] = {CAPACITY: Capacity, SETTINGS: _NoOptions}
# Faults that may cut a stream that has begun.
CUTTING = frozenset({"cut", "timeout", "reset_peer", "limit_data", "down"})


def problems_of(kind: str, options: Mapping[str, FaultValue]) -> list[str]:
    """Return what is wrong with a fault, one sentence each."""
    if struct := TCP_KINDS.get(kind) or ENVIRONMENT_KINDS.get(kind):
        problems: list[str] = []
        decode(struct, options, "", problems)
        if kind == "bandwidth" and options.get("rate") == 0:
            problems.append("rate: must be at least 1; use 'timeout' to let nothing through.")
        return problems
    if kind not in HTTP_KINDS:
        hint = suggestion(kind, [*HTTP_KINDS, *TCP_KINDS, *ENVIRONMENT_KINDS])
        return [f"there is no fault {kind!r}; {hint}"]
    known = HTTP_KINDS[kind].__struct_fields__
    problems = unknown_settings(options, known, "")
    try:
        parse_fault({"kind": kind, **{name: value for name, value in options.items() if name in known}})
    except BadFault as error:
        if not problems or "is missing" not in str(error):  # what is misspelt is not missing as well
            problems.append(str(error))
    return problems


def simulator_equivalent(kind: str, options: Mapping[str, FaultValue]) -> dict[str, FaultValue] | None:
    """Return the nearest simulator fault to a TCP fault; None if it would show nothing.

    A simulator answers on a connection that is already open, so a refusing port becomes a close before the
    head.
    """
    match kind:
        case "reset_peer":
            return {"kind": "reset", "before": "head"}
        case "down":
            return {"kind": "close", "before": "head"}
        case "timeout":
            return {"kind": "stall", "before": "head"}
        case "latency":
            return {"kind": "stall", "before": "head", "s": float(options["latency"]) / 1000}
        case "limit_data":
            return {"kind": "cut", "after_tokens": max(1, int(options["bytes"]) // 200), "how": "close"}
        case "bandwidth":
            return {"kind": "slow", "factor": 10.0}
        case _:
            return None
