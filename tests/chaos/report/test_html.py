"""The report: one small file for a run of a minute or a day, which a newcomer understands."""

import re
from html import unescape
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dub5.chaos.report import html as report
from dub5.chaos.report.narrative import NOTES_MAX, narrative
from dub5.chaos.report.timeline import BARS, Picture
from dub5.chaos.run.journal import AppliedFault, Journal
from dub5.chaos.run.judge import ClientOutcome
from dub5.chaos.run.verdict import judge_run
from tests.support.journals import fault, journal, result, scenario

KILOBYTES_MAX = 400
SVG = "{http://www.w3.org/2000/svg}"
HOURS = (fault(120, 240, "one answers HTTP 530"), fault(1260, 5400, "one stalls for 30 s"))
FLAPS = tuple(fault(3600 + 600 * n, 300, "one answers 500") for n in range(60))


def page(made: Journal) -> str:
    return report.html(made, judge_run(made))


def text(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def svg(made: Journal) -> ElementTree.Element:
    return ElementTree.fromstring(Picture(made).svg())


def titles(picture: ElementTree.Element, kind: str) -> list[str]:
    return [
        title.text or ""
        for shape in picture
        if shape.get("class") == kind
        for title in shape.findall(f"{SVG}title")
    ]


def words(picture: ElementTree.Element) -> list[str]:
    return [line.text or "" for line in picture.findall(f"{SVG}text")]


@pytest.mark.parametrize("bad", [False, True])
def test_a_day_is_a_small_page(bad: bool) -> None:
    """The report of twenty hours with sixty faults and twelve targets is below 400 kB and its SVG well
    formed, even if states change with every sample and nine in ten requests fail."""
    day = scenario(72_000, FLAPS, rate_per_s=1.0, plateau_rate_per_s=0.1)
    made = journal(day, bad_share=0.9 if bad else 0.01, models=4, restless=bad)
    html = page(made)
    assert len(html.encode()) < KILOBYTES_MAX * 1000
    (drawn,) = re.findall("<svg.*</svg>", html, re.DOTALL)
    assert ElementTree.fromstring(drawn).tag == f"{SVG}svg"


def test_many_different_faults() -> None:
    """A hundred kinds of fault are shown as the first few, and how many more there are."""
    faults = [fault(600 * n + 60, 100, f"one is broken in way {n}" + " and on" * 100) for n in range(100)]
    made = journal(scenario(72_000, faults, rate_per_s=0.5, plateau_rate_per_s=0.02), bad_share=0.2)
    made.notes = [f"note {n}" for n in range(500)] + ["again"] * 500
    made.requests[0] = result(0.0, "", ClientOutcome.DISHONEST, reason="x" * 500_000, trail="y" * 500_000)
    html = page(made)
    assert len(html.encode()) < KILOBYTES_MAX * 1000
    assert "87 more kinds of fault" in html
    assert html.count("<li>note ") <= NOTES_MAX
    assert "more notes, in the journal" in html


def test_the_story_of_hours() -> None:
    """The narrative of hours names the load and lengths in hours and minutes, and tells a fault that came
    sixty times once, with all requests that met it."""
    made = journal(scenario(72_000, FLAPS, rate_per_s=2.0))
    lines = list(narrative(made))
    assert f"{len(made.requests)} chat requests went to one service over 20 h" in lines[0]
    assert "2 a second around each change and 0.1 a second while nothing changed" in lines[0]
    (flaps,) = [line for line in lines if "one answers 500" in line]
    assert flaps.startswith("60 times from 1 h to 10 h 55 min, for 5 min each: one answers 500.")
    met = sum(any(f.at_s <= s.at_s < f.until_s for f in FLAPS) for s in made.requests)
    assert f" {met} requests came in that time, all of them complete; answered by: two {met}." in flaps


def test_the_story_of_a_minute() -> None:
    """The narrative of a minute gives times in seconds only."""
    made = journal(scenario(60, [fault(4, 7, "one answers 530")], plateau_rate_per_s=None))
    lines = list(narrative(made))
    assert lines[1].startswith("From second 4 to 11: one answers 530. ")
    assert not [line for line in lines if " min" in line or " h " in line]


def test_a_minute_is_counted() -> None:
    """A run of a minute has one bar per second, as high as its number of requests."""
    made = journal(scenario(60, [fault(4, 7, "one answers 530")], plateau_rate_per_s=None))
    picture = svg(made)
    assert "Requests per second, by the provider that answered" in words(picture)
    assert len(titles(picture, "p0")) + len(titles(picture, "p1")) == 60 + 1  # and the fault's own bar
    assert not [shape for shape in picture if shape.get("class") in ("torn", "rate", "plateau")]
    assert {"0 s", "5 s", "60 s"} <= set(words(picture))


def test_hours_are_compared_by_shares() -> None:
    """In a run of hours every bar has full height, the request rate has its own row, and plateaus are torn
    out and labelled with their length."""
    made = journal(scenario(6840, HOURS))
    picture = svg(made)
    heights: dict[str, float] = {}
    for shape in picture.findall(f"{SVG}rect"):
        if re.fullmatch("p[0-6]", shape.get("class", "")):
            x = shape.get("x", "")
            heights[x] = heights.get(x, 0.0) + float(shape.get("height", "0"))
    assert len(heights) > 50
    assert all(abs(height - BARS) < 0.2 for height in heights.values())
    assert "Requests per second" in words(picture)
    assert {"13 min 50 s", "1 h 29 min", "2 min", "1 h 52 min"} <= set(words(picture))
    assert 4 == sum(shape.get("class") == "torn" for shape in picture)


def test_one_in_a_thousand_is_seen() -> None:
    """An outcome of one request in a thousand has a row of its own with a visible mark."""
    made = journal(scenario(6840, HOURS))
    made.requests[40] = result(made.requests[40].at_s, "", ClientOutcome.FAILED, first_token_s=None)
    (row,) = [shape for shape in svg(made).findall(f"{SVG}path") if shape.get("class") == "failed"]
    (mark,) = re.findall(r"h([\d.]+)v([\d.]+)h", row.get("d", ""))
    assert float(mark[0]) >= 2
    assert 4 <= float(mark[1]) < 5
    assert "failed" in words(svg(made))


def test_where_it_is_told() -> None:
    """The source is shown as links with its confidence in words; without a source there is neither."""
    html = page(
        journal(scenario(60, source="status.openai.com/incidents/55qs3vq1m35z", confidence="primary"))
    )
    assert '<a href="https://status.openai.com/incidents/55qs3vq1m35z">status.openai.com/' in html
    assert "Confidence: primary (the provider's own account)" in text(html)
    two = page(journal(scenario(60, source="a.example/x and http://b.example; a book")))
    assert re.findall('href="([^"]*)"', two) == ["https://a.example/x", "http://b.example"]
    assert "Confidence" not in two
    assert "Source" not in page(journal(scenario(60)))


SOURCES = (
    "javascript:alert(1)",
    'x.example/"onclick=',
    "data:a.b/c<i>",
    "<i>a.example/x</i>",
    "a.example/?x=1&lt;y=2",
    "HTTP.AA",
    "HTTP://a.example",
)


@given(st.text(max_size=80) | st.sampled_from(SOURCES))
def test_a_source_is_text(source: str) -> None:
    """Any text in a source is shown as it is, and links lead to http and https only."""
    html = report._linked(source)
    assert text(html) == source
    assert all(
        re.match("(?i)https?://", address) for address in re.findall('href="([^"]*)"', html, re.IGNORECASE)
    )


ODD = "<b onload='x'>&amp;\"</b>"


def test_names_are_text() -> None:
    """Names of providers, routes, targets and faults, reasons and notes are escaped."""
    odd = scenario(
        7200,
        [fault(600, 3000, f"fault {ODD}", provider=f"p{ODD}")],
        mix={f"r{ODD}": 1.0, "chat": 1.0},
        providers={f"p{ODD}": "openai", "two": "mistral"},
        source=ODD,
        confidence=ODD,
    )
    made = journal(odd, bad_share=0.2, models=2)
    made.notes, made.machine, made.counted_by = [ODD], ODD, ODD
    made.windows.append(AppliedFault(ODD, "status", ODD, ODD, False, 700.0))
    made.requests.append(result(10.0, ODD, ClientOutcome.FAILED, reason=ODD, trail=ODD, route=ODD))
    html = page(made)
    assert "<b " not in html.replace('<b class="', "")
    assert svg(made).tag == f"{SVG}svg"


def test_routes() -> None:
    """There is a table of routes if requests used several, and none if they used one."""
    assert "The routes" not in page(journal(scenario(60)))
    html = page(journal(scenario(600, mix={"chat": 3.0, "code": 1.0})))
    assert re.search(r"<td>chat</td><td>\d+</td><td>\d+</td><td>half had their first token within", html)
    assert "They used 2 routes: chat (" in html


def test_models_have_their_own_strips() -> None:
    """Each model of a provider has its own row of breaker states."""
    made = journal(scenario(60, [fault(10, 20, "one/model-0")]), models=2)
    assert {"one/model-0", "one/model-1", "three/model-1"} <= set(words(svg(made)))


def test_nothing_happened() -> None:
    """A run without requests, samples and faults has a report."""
    made = Journal(scenario(72_000), "virtual", 1, "machine", "2026-01-01 00:00:00", seconds=72_000.0)
    assert "0 chat requests" in page(made)


def test_every_colour_has_a_key() -> None:
    """The legend names each state of a breaker that is drawn; no state has a provider's colour."""
    html = page(journal(scenario(60, [fault(4, 30, "one answers 530")], plateau_rate_per_s=None)))
    drawn = set(re.findall(r'class="s-([a-z_]+)" [xd]', html))
    keys = set(re.findall(r'<i class="s-([a-z_]+)"', html))
    assert drawn and drawn <= keys
    colours = re.findall(r"\.s-[a-z_]+[^{]*\{ fill: var\(--(\w+)\)", html)
    assert not [colour for colour in colours if re.fullmatch(r"p\d", colour)]
    assert "print-color-adjust: exact" in html
