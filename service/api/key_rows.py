"""Rows of /status about the providers' keys: their state, quota and spending, never the keys."""

from collections.abc import Sequence
from typing import Any

from dub5.service import clock
from dub5.service.config.settings import ProviderSettings
from dub5.service.resilience.fleet import Fleet
from dub5.service.resilience.provider_keys import KeyState
from dub5.service.resilience.spending import SpendingBook

USD_DIGITS = 6


def key_rows(
    fleet: Fleet, spending: SpendingBook, providers: Sequence[ProviderSettings]
) -> list[dict[str, Any]]:
    """Return a row for each key. Times are epoch seconds; `quota` is the least of all models."""
    wall, now_s = clock.wall(), clock.now()
    budgets = {provider.name: provider.spend_max_usd_per_day for provider in providers}
    priced = {provider.name for provider in providers if provider.prices}
    return [
        {
            "provider": state.provider,
            "key": state.label,
            "state": state.verdict.value,
            "checked_at": _epoch(state.checked_at_s, now_s, wall),
            "refused_since": _epoch(state.refused_since_s, now_s, wall),
            "quota": quota_rows(state, now_s, wall),
            "spent_usd_today": round(spending.spent_usd(state.provider, wall, state.label), USD_DIGITS)
            if state.provider in priced
            else None,
            "provider_spent_usd_today": round(spending.spent_usd(state.provider, wall), USD_DIGITS)
            if state.provider in priced
            else None,
            "spend_max_usd_per_day": budgets.get(state.provider),
        }
        for state in fleet.key_states
        if state.secret
    ]


def quota_rows(state: KeyState, now_s: float, wall: float) -> dict[str, dict[str, Any]]:
    """Return what is left of each limit of a key, as the last responses had it: the least of all models."""
    found: dict[str, dict[str, Any]] = {}
    for key in state.at_targets:
        for left in key.quota:
            if left.what not in found or left.left < found[left.what]["left"]:
                at = wall - (now_s - key.quota_at_s)
                reset_s = left.reset_s(at)
                reset_at = None if reset_s is None else round(at + reset_s, 3)
                found[left.what] = {"left": left.left, "reset_at": reset_at}
    return found


def _epoch(at_s: float | None, now_s: float, wall: float) -> float | None:
    return None if at_s is None else round(wall - (now_s - at_s), 3)
