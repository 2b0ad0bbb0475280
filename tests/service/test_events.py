"""Events: who is told of what, and in which order."""

from dub5.service.events import BudgetSpent, DrainBegan, Event, EventHandlers, Events


def test_only_what_is_wanted() -> None:
    """A plain subscriber is told of each event, one with handlers of those that it has handlers for."""
    all_events: list[Event] = []
    drains: list[Event] = []
    events = Events(all_events.append, EventHandlers({DrainBegan: drains.append}))
    events.emit(BudgetSpent("one"))
    events.emit(DrainBegan(3))
    assert all_events == [BudgetSpent("one"), DrainBegan(3)]
    assert drains == [DrainBegan(3)]


def test_the_order_of_subscribers() -> None:
    """Subscribers are told in their order, one that came later last."""
    told: list[str] = []
    events = Events(EventHandlers({DrainBegan: lambda event: told.append("handlers")}))
    events.subscribe(lambda event: told.append("plain"))
    events.subscribe(EventHandlers({DrainBegan: lambda event: told.append("late")}))
    events.emit(DrainBegan(3))
    assert told == ["handlers", "plain", "late"]


def test_handlers_are_a_subscriber() -> None:
    """Handlers can be called with any event, and ignore what they do not handle."""
    drains: list[Event] = []
    handlers = EventHandlers({DrainBegan: drains.append})
    handlers(BudgetSpent("one"))
    handlers(DrainBegan(3))
    assert drains == [DrainBegan(3)]
