"""A burst makes a line long for a moment, overload keeps it long: which of the two is it?"""

from dub5.service.admission.codel import Codel
from dub5.service.config.options import AdmissionOptions

OPTIONS = AdmissionOptions(target_s=0.5, interval_s=2.0)


def after(*delays: float) -> tuple[Codel, float]:
    """A line that was looked at ten times a second, and the time then."""
    codel = Codel(OPTIONS)
    for i, delay_s in enumerate(delays):
        codel.note(delay_s, i / 10)
    return codel, len(delays) / 10


class TestStands:
    def test_a_burst(self) -> None:
        """Long for less than an interval: it is being worked off."""
        codel, now_s = after(*[0.9] * 15)
        assert not codel.is_standing(now_s) and not codel.too_long(60.0, now_s)

    def test_overload(self) -> None:
        """Delays above the target for a whole interval are overload."""
        codel, now_s = after(*[0.9] * 21)
        assert codel.is_standing(now_s)
        assert codel.too_long(1.01, now_s) and not codel.too_long(1.0, now_s)

    def test_one_short_moment(self) -> None:
        """One short delay within the interval is enough: its minimum counts."""
        codel, now_s = after(*[3.0] * 19, 0.4, *[3.0] * 19)
        assert not codel.is_standing(now_s)

    def test_nobody_waits(self) -> None:
        """An empty line does not stand; the next one begins anew."""
        codel, now_s = after(*[3.0] * 30)
        codel.reset()
        assert not codel.is_standing(now_s)
        codel.note(3.0, now_s)
        assert not codel.is_standing(now_s + 1.9) and codel.is_standing(now_s + 2.0)
