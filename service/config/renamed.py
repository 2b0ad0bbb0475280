"""Renamed settings: the old name of a setting works for one more version, with a warning.

`rename` is called with decoded TOML, `renamed_variables` with the environment, both before the strict decode.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dub5.service.config.decode_messages import table_label

RENAMED: Mapping[str, str] = {  # path of the old name -> new name
    "route.clocks": "timeouts",
    "route.notices": "reject_patterns",
    "provider.differs": "overrides",
    "breaker.ramp_s": "slow_start_s",
    "breaker.slow_of_clock": "slow_of_timeout",
    "health.trial_s": "canary_interval_s",
    "cache.redis.turn_s": "claim_wait_s",
}


ARRAYS = frozenset({"provider", "route"})  # of tables: no variable reaches into them


def rename(data: dict[str, Any], problems: list[str]) -> list[str]:
    """Give each setting under an old name its new name, in place. Return one warning for each.

    A setting under both names adds a sentence to `problems`.
    """
    found_warnings = []
    for path, new in RENAMED.items():
        *tables, old = path.split(".")
        for where, table in _tables_at(data, tables):
            if old not in table:
                continue
            if new in table:
                problems.append(_both(f"{where}{old}", new))
            else:
                found_warnings.append(_warning(f"{where}{old}", new))
            table.setdefault(new, table.pop(old))
    return found_warnings


def renamed_variables(
    environ: Mapping[str, str], prefix: str, problems: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the environment with new names in place of old ones, and one warning for each.

    A setting under both names adds a sentence to `problems`.
    """
    variables, found_warnings, renamed = dict(environ), [], _variables(prefix)
    present = {name.upper(): name for name in environ if name.startswith(prefix)}
    for name in [name for name in environ if name.upper() in renamed]:
        new = renamed[name.upper()]
        if new in present:
            problems.append(_both(name, present[new]))
        else:
            found_warnings.append(_warning(name, new))
        variables.setdefault(present.get(new, new), variables.pop(name))
    return variables, found_warnings


def new_name(name: str) -> str:
    """Return the new name of a setting whose own name was `name`; `name` itself if it has none."""
    return _NEW_NAMES.get(name, name)


def old_names(known: list[str]) -> list[str]:
    """Return the old names of the settings `known`."""
    return [old for old, new in _NEW_NAMES.items() if new in known]


_NEW_NAMES = {path.rpartition(".")[2]: new for path, new in RENAMED.items()}


def _variables(prefix: str) -> dict[str, str]:
    """Return old and new names of environment variables: only fields of a top-level table have one."""
    return {
        f"{prefix}{table}__{old}".upper(): f"{prefix}{table}__{new}".upper()
        for (table, _, old), new in ((path.partition("."), new) for path, new in RENAMED.items())
        if "." not in old and table not in ARRAYS
    }


def _tables_at(data: Any, tables: list[str], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each table at the path `tables`, with the text before its settings, as "route 'chat': "."""
    if not isinstance(data, dict):
        return
    if not tables:
        yield where, data
        return
    name, *inner = tables
    child = data.get(name)
    if isinstance(child, list):
        for index, row in enumerate(child):
            yield from _tables_at(row, inner, f"{where}{table_label(name, index, row)}: ")
    else:
        yield from _tables_at(child, inner, f"{where}{name}.")


def _warning(old: str, new: str) -> str:
    return f"{old}: is called {new} now; the old name goes with the next version."


def _both(old: str, new: str) -> str:
    return f"{old}: is set under its new name {new} as well; keep {new} only."
