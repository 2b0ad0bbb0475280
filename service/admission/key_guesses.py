"""Guessed keys: how many different unknown keys an address has sent, and whether it is blocked for it.

    GUESSES_MAX different unknown keys within WINDOW_S   blocked for BLOCK_S, the next time for twice as long
    after a block none for as long as that took          the next block is short again

A client with one old key, however often it asks, guesses nothing. Times are handed in; memory is bounded.
"""

from collections import OrderedDict

from msgspec import Struct, field

GUESSES_MAX = 10
WINDOW_S = 60.0
BLOCK_S = 60.0
BLOCK_MAX_S = 3600.0
ACCEPTED_S = 3600.0  # so long an address whose key was accepted is not taken for a neighbour that guesses
ADDRESSES_MAX = 10_000


class _Suspect(Struct):
    """An address that has sent unknown keys. `keys`: hash -> when it came last."""

    keys: dict[str, float] = field(default_factory=dict)
    blocked_until_s: float = 0.0
    block_s: float = 0.0  # length of the last block


class KeyGuesses:
    """What is known of addresses: unknown keys, blocks, accepted callers."""

    def __init__(self) -> None:
        self._suspects: OrderedDict[str, _Suspect] = OrderedDict()
        self._accepted: OrderedDict[tuple[str, str], float] = OrderedDict()  # (address, caller) -> when

    def blocked_s(self, address: str, now_s: float) -> float:
        """Return how long the address is still blocked; 0 if it is not."""
        if not self._suspects or (suspect := self._suspects.get(address)) is None:
            return 0.0
        return max(0.0, suspect.blocked_until_s - now_s)

    def note_unknown(self, address: str, key_hash: str, now_s: float) -> float:
        """Note an unknown key. Return the length of the block that begins with it, else 0."""
        suspect = self._suspects.setdefault(address, _Suspect())
        self._suspects.move_to_end(address)
        if len(self._suspects) > ADDRESSES_MAX:
            self._suspects.popitem(last=False)
        if now_s >= suspect.blocked_until_s + suspect.block_s:
            suspect.block_s = 0.0
        suspect.keys[key_hash] = now_s
        suspect.keys = {key: at_s for key, at_s in suspect.keys.items() if now_s - at_s < WINDOW_S}
        if len(suspect.keys) < GUESSES_MAX:
            return 0.0
        suspect.keys.clear()
        suspect.block_s = min(2 * suspect.block_s or BLOCK_S, BLOCK_MAX_S)
        suspect.blocked_until_s = now_s + suspect.block_s
        return suspect.block_s

    def note_accepted(self, address: str, caller: str, now_s: float) -> None:
        """Note that the key of this caller was accepted."""
        self._accepted[address, caller] = now_s
        self._accepted.move_to_end((address, caller))
        if len(self._accepted) > ADDRESSES_MAX:
            self._accepted.popitem(last=False)

    def was_accepted(self, address: str, caller: str, now_s: float) -> bool:
        """Return whether the key of this caller was accepted from there within `ACCEPTED_S`."""
        at_s = self._accepted.get((address, caller))
        return at_s is not None and now_s - at_s < ACCEPTED_S
