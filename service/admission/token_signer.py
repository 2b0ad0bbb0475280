"""Signed tokens with a time, by itsdangerous. An optional part: loaded only where sessions are on."""

from collections.abc import Sequence
from hashlib import sha256

from itsdangerous import BadSignature, TimestampSigner

from dub5.service import clock


class TokenSigner(TimestampSigner):
    """A signer for one purpose: what it signs is worth nothing to the signer of another purpose.

    The first of the secrets signs; what any of them has signed is genuine.
    """

    def __init__(self, secrets: Sequence[str], purpose: str) -> None:
        super().__init__(
            [*reversed(secrets)],  # itsdangerous signs with the last one
            salt=f"dub5 {purpose}",
            key_derivation="hmac",
            digest_method=sha256,
        )

    def get_timestamp(self) -> int:
        """Return the time, of our clock."""
        return int(clock.wall())

    def write(self, value: str) -> str:
        """Return the value with the time and a signature."""
        return self.sign(value).decode("ascii")

    def read(self, token: str) -> tuple[str, int] | None:
        """Return the value of a genuine token and its age in seconds; None for any other text.

        The age is negative if the clock was set back, or that of another instance is ahead.
        """
        try:
            value, signed_at = self.unsign(token, return_timestamp=True)
        except BadSignature:
            return None
        return value.decode("ascii"), self.get_timestamp() - int(signed_at.timestamp())
