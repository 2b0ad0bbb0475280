"""Scenario files are read strictly: every mistake becomes a sentence that says what to fix."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dub5.chaos.scenario.parse import SCENARIOS, ScenarioProblems, parse, read

GOOD = """
title = "t"
why = "w"
[workload]
seconds = 10
[[fault]]
at_s = 2
for_s = 3
provider = "one"
kind = "status"
status = 530
[expect]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ScenarioProblems) as caught:
        parse(text, "mine")
    return caught.value.problems


def test_the_smallest_scenario() -> None:
    """Omitted fields have defaults: three providers, twenty requests per second, everything honest."""
    scenario = parse(GOOD, "mine")
    assert ["one", "two", "three"] == list(scenario.providers)
    assert 20.0 == scenario.workload.rate_per_s
    assert 1.0 == scenario.expect.honest_share
    assert "status status 530" == scenario.faults[0].label


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("seconds = 10", "second = 10", "workload.second: there is no such setting; did you mean 'seconds'?"),
        ("seconds = 10", 'seconds = "ten"', "workload.seconds: must be a number, not text (it is 'ten')."),
        (
            "seconds = 10",
            "seconds = true",
            "workload.seconds: must be a number, not true or false (it is True).",
        ),
        ("seconds = 10", "", "workload.seconds: is missing."),
        ("seconds = 10", "seconds = 0", "workload.seconds: must be a number > 0.0 (it is 0)."),
        ("seconds = 10", "seconds = 4", "fault 1: ends at 5 s, after the load does."),
        ('"status"', '"statsu"', "fault 1: there is no fault 'statsu'; did you mean 'status'?"),
        ('"one"', '"ones"', "fault 1: there is no provider 'ones'; did you mean 'one'?"),
        (
            "status = 530",
            "statuss = 530",
            "fault 1: statuss: there is no such setting; did you mean 'status'?",
        ),
        ("at_s = 2", "", "fault 1: at_s: is missing."),
        ("at_s = 2", "at_s = -1", "fault 1: at_s: must be a number >= 0.0 (it is -1)."),
        (
            "[expect]",
            "[expect]\nhonest_share = 1.1",
            "expect.honest_share: must be a number <= 1.0 (it is 1.1).",
        ),
        (
            "[expect]",
            '[expect]\nhappened = ["failover"]',
            "expect.happened: 'failover' is not known; did you mean 'failed_over'?",
        ),
        ("title", "titel", "titel: there is no such setting; did you mean 'title'?"),
        (
            "[expect]",
            "[providers]\none = 'opanai'\n[expect]",
            "providers: 'opanai' is not known; did you mean 'openai'?",
        ),
        (
            "[expect]",
            "[timeouts]\ntotal = 3\n[expect]",
            "timeouts.total: there is no such setting; did you mean 'total_s'?",
        ),
    ],
)
def test_a_mistake(wrong: str, right: str, said: str) -> None:
    """A sentence names the place of a mistake, what is wrong, and what was probably meant."""
    assert said in problems(GOOD.replace(wrong, right, 1))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "kind = 'latency'\nlatency = 2.5",
            "fault 1: latency: must be a whole number, not a number (it is 2.5).",
        ),
        ("kind = 'latency'", "fault 1: latency: is missing."),
        (
            "kind = 'reset_peer'\ntimeout = 0\nstream = 'down'",
            "fault 1: stream: 'down' is not known; known here: downstream, upstream.",
        ),
        (
            "kind = 'bandwidth'\nrate = 0",
            "fault 1: rate: must be at least 1; use 'timeout' to let nothing through.",
        ),
    ],
)
def test_a_fault_of_the_connection(fault: str, said: str) -> None:
    """TCP faults take Toxiproxy's fields, except values that would freeze its server."""
    assert said in problems(GOOD.replace('kind = "status"\nstatus = 530', fault))


@pytest.mark.parametrize(
    ("at", "line", "said"),
    [
        ("seconds = 10", "mix = 1.5", "workload.mix: must be a table, not a number (it is 1.5)."),
        ("seconds = 10", "mix = {chat = 'a'}", "workload.mix.chat: must be a number, not text (it is 'a')."),
        ("seconds = 10", "mix = {}", "workload.mix: weights of the routes, at least one above 0."),
        (
            "seconds = 10",
            "mix = {chat = -1}",
            "workload.mix.chat: must be a number >= 0.0 (it is -1).",
        ),
        (
            "seconds = 10",
            "rate_per_s = inf",
            "workload.rate_per_s: must be a number <= 1000000000.0 (it is inf).",
        ),
        (
            "seconds = 10",
            "plateau_rate_per_s = 0",
            "workload.plateau_rate_per_s: must be a number > 0.0 (it is 0).",
        ),
        ("status = 530", "times = 0", "fault 1: times: must be a whole number >= 1 (it is 0)."),
        (
            "status = 530",
            "times = 1_000_000_000",
            "fault 1: times: must be a whole number <= 1000 (it is 1000000000).",
        ),
        ("[expect]", "happened = true", "expect.happened: must be a list, not true or false (it is True)."),
        ("[expect]", "answered_by = 1.5", "expect.answered_by: must be a table, not a number (it is 1.5)."),
        (
            "[expect]",
            "answered_by = {'chat/one' = 'x'}",
            "expect.answered_by.chat/one: must be a number, not text (it is 'x').",
        ),
        (
            "[expect]",
            "answered_by = {'chat/one' = 2}",
            "expect.answered_by.chat/one: must be a number <= 1.0 (it is 2).",
        ),
        ("[expect]", "failover_s = -1", "expect.failover_s: must be a number >= 0.0 (it is -1)."),
        ('why = "w"', "engines = []", "engines: must not be empty."),
        ('why = "w"', "timeouts = {total_s = 0}", "timeouts.total_s: must be a number > 0.0 (it is 0)."),
        ('why = "w"', "routes = {chat = []}", "routes: each is a list of targets, such as 'one/gpt-sim'."),
        (
            'why = "w"',
            "routes = {chat = ['one']}",
            "routes: each is a list of targets, such as 'one/gpt-sim'.",
        ),
        (
            'why = "w"',
            "routes = {a = ['one/gpt-sim']}",
            "workload.mix: 'chat' is not known; known here: a.",
        ),
    ],
)
def test_what_could_not_be_played(at: str, line: str, said: str) -> None:
    """A scenario that could not run, or would run nothing, is rejected when it is read."""
    assert said in problems(GOOD.replace(at, f"{at}\n{line}", 1))


def test_the_old_name_of_timeouts() -> None:
    """`clocks`, the old name of `timeouts`, is read for one more version, and only one name may be set."""
    assert parse(f"clocks = {{total_s = 7}}\n{GOOD}", "mine").topology.timeouts == {"total_s": 7}
    assert "clocks: there is no such setting" in problems(f"clocks = {{}}\ntimeouts = {{}}\n{GOOD}")[0]


def test_what_the_simulators_refuse() -> None:
    """Faults of the answer are checked by the simulators."""
    (said,) = problems(GOOD.replace("status = 530", 'status = 530\nbody = "nonsense"'))
    assert "unknown body" in said


def test_all_mistakes_at_once() -> None:
    """All mistakes of a file are reported at once."""
    assert 3 == len(problems(GOOD.replace("seconds = 10", "seconds = 1\nrate_per_s = 0\ndeadline_s = 0")))


def test_two_faults_of_one_kind_at_once() -> None:
    """Overlapping faults of one kind at one provider are rejected: the first's end would end both."""
    twin = GOOD[GOOD.index("[[fault]]") : GOOD.index("[expect]")].replace("at_s = 2", "at_s = 4")
    assert "begins before it ends" in problems(GOOD.replace("[expect]", twin + "[expect]"))[0]


def test_a_fault_is_named_by_its_place_in_the_file() -> None:
    """A sentence about a fault has its number in the file, whatever the others are."""
    first = '[[fault]]\nat_s = 6\nfor_s = 1\nprovider = "two"\nkind = "status"\nstatus = 530\n'
    text = GOOD.replace("[[fault]]", f"{first}[[fault]]").replace("for_s = 3", "for_s = 30")
    assert [said.partition(":")[0] for said in problems(text)] == ["fault 2"]
    places = [said.partition(":")[0] for said in problems(text.replace("at_s = 6", "at_s = -6"))]
    assert places == ["fault 1", "fault 2"]


def test_a_file_that_is_not_there() -> None:
    """The message about a missing file names it."""
    with pytest.raises(
        ScenarioProblems, match=r"nowhere\.toml cannot be used:\n  - cannot be read: No such file"
    ):
        read(Path("nowhere.toml"))


def test_ours() -> None:
    """Every bundled scenario is valid and requires that something happens and every end is honest."""
    names = [entry for entry in SCENARIOS.iterdir() if entry.name.endswith(".toml")]
    assert names
    for entry in names:
        scenario = parse(entry.read_text(), entry.name)
        assert scenario.why
        assert scenario.expect.happened, "a run in which nothing happened must not pass"
        assert tomllib.loads(entry.read_text())["expect"]["honest_share"] == 1.0


MISTAKES = [  # each is one edit of GOOD, and what is said of it, whatever else is wrong
    ('title = "t"\n', "", "title: is missing."),
    ('why = "w"', "why = 3", "why: must be text, not a whole number (it is 3)."),
    ("seconds = 10", "second = 10", "workload.seconds: is missing."),
    ("", "engines = []\n", "engines: must not be empty."),
    (
        "[workload]",
        "[providers]\none = 'opanai'\ntwo = 'openai'\nthree = 3\n[workload]",
        "providers: 'opanai' is not known; did you mean 'openai'?",
    ),
    (
        "[workload]",
        "[routes]\nchat = ['one/m']\nb = 'one'\n[workload]",
        "routes: each is a list of targets, such as 'one/gpt-sim'.",
    ),
    ('"one"', '"ones"', "fault 1: there is no provider 'ones'; did you mean 'one'?"),
    ("= 10\n", "= 10\nmix = {chta = 1}\n", "workload.mix: 'chta' is not known; did you mean 'chat'?"),
    (
        "[expect]\n",
        "[expect]\nanswered_by = {'chat/onne' = 1}\n",
        "expect.answered_by: 'chat/onne' is not known; did you mean 'chat/one'?",
    ),
    ("at_s = 2\n", "", "fault 1: at_s: is missing."),
    ("status = 530", "statuss = 530", "fault 1: statuss: there is no such setting; did you mean 'status'?"),
    ("[expect]\n", "[expect]\nhonest_share = 2\n", "expect.honest_share: must be a number <= 1.0 (it is 2)."),
    ("[expect]\n", "", "expect: is missing."),
]


@given(st.sets(st.sampled_from(MISTAKES), min_size=2, max_size=6))
@settings(max_examples=80)
def test_several_mistakes_are_told_at_once(mistakes: set[tuple[str, str, str]]) -> None:
    """No mistake hides another one: a missing title, workload or table `expect` neither."""
    text, made = GOOD, []
    for wrong, (right, said) in {wrong: rest for wrong, *rest in sorted(mistakes)}.items():
        text, made = text.replace(wrong, right, 1), [*made, said]
    told = problems(text)
    assert [said for said in made if said not in told] == []
