"""The faults that a scenario may name, and what applies them.

HTTP and tokens   the simulators' names (simulators/faults/answers.py): faults inside the answer
TCP               Toxiproxy's names, fields and units: faults on the connection; without Toxiproxy,
                  `simulator_equivalent` gives what the simulators do instead
environment       a provider's `capacity` (simulators/limits/concurrency.py), or `settings`: the service
                  reloads an unreadable settings file; on virtual time only
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from dub5.chaos.scenario.strict_toml import Types, missing_keys, suggestion, unknown_keys, wrong_type
from dub5.simulators.faults.answers import KINDS as HTTP_KINDS
from dub5.simulators.faults.answers import BadFault, parse_fault
from dub5.simulators.limits.concurrency import Capacity

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Tcp:
    """A fault of the connection. `cuts`: it may end a stream that is already under way."""

    fields: Mapping[str, Types]
    required: tuple[str, ...]
    cuts: bool = False


TCP_KINDS: Mapping[str, Tcp] = {
    "latency": Tcp({"latency": int, "jitter": int}, ("latency",)),  # ms
    "bandwidth": Tcp({"rate": int}, ("rate",)),  # KB/s; at least 1, or the proxy hangs
    "slow_close": Tcp({"delay": int}, ("delay",)),  # ms
    "timeout": Tcp({"timeout": int}, ("timeout",), cuts=True),  # ms; 0 swallows all until it is lifted
    "reset_peer": Tcp({"timeout": int}, ("timeout",), cuts=True),  # ms
    "slicer": Tcp({"average_size": int, "size_variation": int, "delay": int}, ("average_size",)),  # bytes, us
    "limit_data": Tcp({"bytes": int}, ("bytes",), cuts=True),
    "down": Tcp({}, (), cuts=True),  # the port refuses
}
CAPACITY, SETTINGS = "capacity", "settings"
ENVIRONMENT_KINDS: Mapping[str, tuple[str, ...]] = {CAPACITY: Capacity.__struct_fields__, SETTINGS: ()}
CUTTING = frozenset({"cut"} | {kind for kind, tcp in TCP_KINDS.items() if tcp.cuts})


def problems_of(kind: str, options: Mapping[str, Value]) -> list[str]:
    """Return what is wrong with a fault, one sentence each."""
    if kind in TCP_KINDS:
        return _tcp_problems(TCP_KINDS[kind], options)
    if kind in ENVIRONMENT_KINDS:
        return _environment_problems(kind, options)
    if kind not in HTTP_KINDS:
        return [
            f"there is no fault {kind!r}; {suggestion(kind, [*HTTP_KINDS, *TCP_KINDS, *ENVIRONMENT_KINDS])}"
        ]
    known = HTTP_KINDS[kind].__struct_fields__
    if problems := unknown_keys(options, known, ""):
        return problems
    try:
        parse_fault({"kind": kind, **options})
    except BadFault as error:
        return [str(error)]
    return []


def _environment_problems(kind: str, options: Mapping[str, Value]) -> list[str]:
    if problems := unknown_keys(options, ENVIRONMENT_KINDS[kind], ""):
        return problems
    try:
        msgspec.convert(options, Capacity)
    except msgspec.ValidationError as error:
        return [f"{kind}: {error}."]
    return []


def _tcp_problems(tcp: Tcp, options: Mapping[str, Value]) -> list[str]:
    fields: Mapping[str, Types] = {**tcp.fields, "stream": str}
    found = (
        unknown_keys(options, fields, "")
        + wrong_type(options, fields, "")
        + missing_keys(options, tcp.required, "")
    )
    if options.get("stream", "downstream") not in ("upstream", "downstream"):
        found.append("stream: must be 'upstream' or 'downstream'.")
    if options.get("rate", 1) == 0:
        found.append("rate: must be at least 1; use 'timeout' to let nothing through.")
    return found


def simulator_equivalent(kind: str, options: Mapping[str, Value]) -> dict[str, Value] | None:
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
