"""A short run of the fuzz, and proof that it finds violations."""

from collections.abc import Callable

import pytest

from dub5.service.api import response, stream
from dub5.service.failover.attempt import Attempt, StreamedAnswer
from dub5.service.providers import openai
from dub5.service.providers.base import ProviderFault
from tests.experiments.fuzz_upstream import Violation, fuzz

SEED = 1
WORLDS = 3  # `nox -s thorough` plays many more
OUTCOMES = {"complete", "cut", "refused", "left", "cache hits", "tool calls"}


def test_hundreds_of_streams() -> None:
    """With whole, cut and mutated streams nothing crashes or is left over, and nothing is delivered as whole
    that is not."""
    counts = sum((fuzz(SEED, number) for number in range(WORLDS)), start=fuzz(SEED, WORLDS, 1))
    assert counts["streams"] >= 750
    assert all(counts[outcome] > 20 for outcome in OUTCOMES), counts


def test_cancelled_while_the_loser_ends() -> None:
    """A race whose inner race has its answer, and is ending its loser, can be cancelled."""
    fuzz(0, 6)


def always_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(openai.OpenAIStream, "end", lambda self: [])


def done_after_an_error(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(response, "error_event", lambda body: stream.error_event(body) + stream.DONE)


def never_closed(patch: pytest.MonkeyPatch) -> None:
    async def close(self: Attempt, *, at_end: bool = False) -> None: ...

    patch.setattr(Attempt, "close", close)


def a_pass_kept(patch: pytest.MonkeyPatch) -> None:
    async def aclose(self: StreamedAnswer) -> None:
        await self._attempt.close()

    patch.setattr(StreamedAnswer, "aclose", aclose)


def a_fault_of_ours(patch: pytest.MonkeyPatch) -> None:
    decode = openai.decode_body

    def raw(body: bytes) -> openai._Body:
        try:
            return decode(body)
        except ProviderFault:
            raise ValueError from None

    patch.setattr(openai, "decode_body", raw)


MUTANTS = (always_whole, done_after_an_error, never_closed, a_pass_kept, a_fault_of_ours)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_service_is_seen(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way to break the service is found within one world."""
    mutant(monkeypatch)
    with pytest.raises(Violation):
        fuzz(SEED, 1)
