"""What is known of a key, and its rests at a target: pure, without a clock."""

from dub5.service.config.settings import Secret
from dub5.service.events import Event, Events, KeyStateChanged
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.provider_keys import KeyState, KeyVerdict, ProviderKey, RestCause

LIMITED, QUOTA, REFUSED = CooldownReason.LIMITED, CooldownReason.QUOTA, CooldownReason.REFUSED


class ObservedKey(KeyState):
    """A key at two targets, and its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        super().__init__("one", Secret("sk-a"), Events(self.events.append))
        self.first, self.second = ProviderKey(self), ProviderKey(self)
        self.at_targets += [self.first, self.second]

    def changes(self) -> list[str]:
        """Return what it has become, in order."""
        return [event.after for event in self.events if isinstance(event, KeyStateChanged)]


def test_the_longest_rest_counts() -> None:
    """Each cause has a rest of its own; the cool-down is the longest, with its reason."""
    key = ObservedKey().first
    key.rest(RestCause.CALL, 10.0, LIMITED)
    key.rest(RestCause.BUDGET, 50.0, QUOTA)
    assert (key.cooldown_until_s, key.cooldown_reason) == (50.0, QUOTA)
    key.lift(RestCause.BUDGET)
    assert (key.cooldown_until_s, key.cooldown_reason) == (10.0, LIMITED)
    key.lift(RestCause.CALL)
    assert key.cooldown_until_s == 0.0


def test_forecasts_leave_the_last_resort() -> None:
    """A key that no call has found refused may be used where nothing else is left."""
    key = ObservedKey().first
    key.rest(RestCause.CHECK, 100.0, REFUSED)
    key.rest(RestCause.QUOTA, 90.0, LIMITED)
    assert key.cooldown_until_s == 100.0 and key.usable_from_s() == 0.0
    key.rest(RestCause.CALL, 60.0, REFUSED)
    assert key.usable_from_s() == 60.0


def test_a_check_that_confirms() -> None:
    """Refused by a call and by a check, it rests at all targets; good again by a check, it does not."""
    key = ObservedKey()
    key.first.rest(RestCause.CALL, 70.0, REFUSED)
    key.note_refused(10.0, key.first)
    key.note_check(refused=True, now_s=11.0, rest_until_s=200.0)
    assert (key.first.cooldown_until_s, key.second.cooldown_until_s) == (200.0, 200.0)
    key.note_check(refused=False, now_s=71.0, rest_until_s=0.0)
    assert (key.first.cooldown_until_s, key.second.cooldown_until_s) == (0.0, 0.0)
    assert key.changes() == ["refused", "valid"]


def test_a_limit_outlasts_a_refusal() -> None:
    """A key that is good again still waits for its Retry-After."""
    key = ObservedKey()
    key.first.rest(RestCause.CALL, 300.0, LIMITED)
    key.note_check(refused=True, now_s=11.0, rest_until_s=500.0)
    key.note_check(refused=False, now_s=71.0, rest_until_s=0.0)
    assert key.first.cooldown_until_s == 300.0


def test_a_check_does_not_contradict_a_call() -> None:
    """The list takes the key, answers do not: only a call that is taken makes it valid."""
    key = ObservedKey()
    key.note_refused(10.0, key.first)
    key.note_check(refused=False, now_s=11.0, rest_until_s=0.0)
    assert key.verdict is KeyVerdict.REFUSED
    key.note_accepted(9.0, key.first)  # it had begun before
    assert key.verdict is KeyVerdict.REFUSED
    key.note_accepted(70.0, key.first)
    assert key.changes() == ["refused", "valid"]


def test_a_target_that_refuses_alone() -> None:
    """A target that refuses a key that another one takes speaks of its model: it alone rests, in silence."""
    key = ObservedKey()
    for now_s in (10.0, 80.0, 150.0):
        key.first.rest(RestCause.CALL, now_s + 60.0, REFUSED)
        key.note_refused(now_s, key.first)
        key.note_accepted(now_s + 1.0, key.second)
        assert key.first.cooldown_until_s == now_s + 60.0
    assert key.changes() == ["refused", "valid"]
    key.note_refused(200.0, key.second)
    key.first.lift(RestCause.CALL)
    key.note_accepted(250.0, key.second)
    key.note_refused(300.0, key.first)
    assert key.changes() == ["refused", "valid", "refused", "valid", "refused"]


def test_a_target_that_takes_the_key_after_all() -> None:
    """It speaks of the key again."""
    key = ObservedKey()
    key.first.rest(RestCause.CALL, 70.0, REFUSED)
    key.note_refused(10.0, key.first)
    key.note_accepted(11.0, key.second)
    key.note_accepted(80.0, key.first)
    key.note_refused(90.0, key.first)
    assert key.changes() == ["refused", "valid", "refused"]


def test_one_that_was_replaced() -> None:
    """What the last calls with a replaced key bring is told to nobody."""
    key = ObservedKey()
    key.note_accepted(1.0, key.first)
    key.retire()
    key.note_refused(2.0, key.first)
    assert key.changes() == ["valid"]


def test_a_refused_one_that_was_replaced() -> None:
    """It is refused no more, which is told once, and what its last calls bring to nobody."""
    key = ObservedKey()
    key.note_refused(1.0, key.first)
    key.retire()
    key.note_refused(2.0, key.first)
    key.note_accepted(3.0, key.first)
    assert key.changes() == ["refused", "unknown"]
