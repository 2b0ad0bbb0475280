"""With less time left than the quickest answer of late took, nobody need be asked."""

from service import clock
from service.chat import Attempt, Outcome
from service.events import RequestEnded
from service.policy.needs import LATELY_S, Fastest, Needs


class TestFastest:
    def test_the_least_counts(self) -> None:
        """Nobody is turned away for needing what one of the last ones needed."""
        fastest = Fastest()
        for took_s in (2.0, 0.7, 5.0):
            fastest.note(took_s, 1.0)
        assert fastest.read(2.0) == 0.7

    def test_it_is_forgotten(self) -> None:
        """After ten to twenty seconds; where nothing is known nobody needs anything."""
        fastest = Fastest()
        assert fastest.read(0.0) == 0.0
        fastest.note(0.7, 1.0)
        assert fastest.read(LATELY_S) == 0.7
        assert fastest.read(2 * LATELY_S + 1.0) == 0.0


def ended(*attempts: Attempt, outcome: Outcome = Outcome.COMPLETE) -> RequestEnded:
    return RequestEnded(
        "req_1", "me", "chat", outcome, None, "one/m", True, False, 0.5, 9.0, 0.0, None, attempts
    )


async def test_what_is_noted() -> None:
    """The try that gave the whole answer, without what was waited and tried before; of this kind of request alone."""
    needs = Needs()
    failed, good = Attempt("one/m", 3.0, 3.1, "http_500"), Attempt("two/m", 4.0, 5.5, "ok")
    needs.note(ended(failed, good))
    needs.note(ended(failed, outcome=Outcome.FAILED))
    needs.note(ended())  # from the cache
    assert needs.of("chat", "chat", True).read(clock.now()) == 1.5
    assert needs.of("chat", "chat", False).read(clock.now()) == 0.0
