"""The page's files, read as text: what the Content-Security-Policy and the rest of the service rely on."""

import gzip
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dub5.service.api.page import MEDIA_TYPES
from dub5.service.events import SecurityKind, StepResult
from dub5.service.model import Outcome
from dub5.service.resilience.circuit_breaker import BreakerState
from dub5.service.resilience.classify import CooldownReason
from dub5.service.resilience.health import Health
from dub5.service.telemetry.board import COUNTERS
from dub5.service.telemetry.names import ATTEMPT_KINDS, PASSED_OVER_REASONS
from tests.support.source import ROOT

WEB = ROOT / "service" / "web"
HTML = (WEB / "index.html").read_text()
STYLE = (WEB / "style.css").read_text()
SCRIPTS = {path.name: path.read_text() for path in sorted(WEB.glob("*.js"))}
EVERY_SCRIPT = "\n".join(SCRIPTS.values())
FIRST_LOAD_BYTES_MAX = 60 * 1024
PART_BYTES_MAX = 16 * 1024
PLACES = {"documents"}  # addresses of parts of the page, which are no ids
VOID = {"meta", "link", "input", "br", "img"}
OWN_URL = re.compile(r"^(/web/[a-z]+\.(js|css|svg)|#[\w-]+)$")


class PageReader(HTMLParser):
    """Every tag with its attributes, the text of each script and style, and whether all is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def page() -> PageReader:
    reader = PageReader()
    reader.feed(HTML)
    assert not reader.open
    return reader


def ids(page: PageReader) -> list[str]:
    return [attributes["id"] or "" for _, attributes in page.tags if "id" in attributes]


def test_nothing_inline(page: PageReader) -> None:
    """No inline script, style or handler: the policy would block it, and the page would be broken."""
    attributes = {name for _, attributes in page.tags for name in attributes}

    assert page.inline == []
    assert "style" not in [tag for tag, _ in page.tags]
    assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_nothing_from_elsewhere(page: PageReader) -> None:
    """Everything the page loads is its own: no address of another host in any file."""
    urls = [a[name] or "" for _, a in page.tags for name in ("src", "href", "action", "srcset") if name in a]
    everything = "\n".join([HTML, STYLE, EVERY_SCRIPT, (WEB / "favicon.svg").read_text()])
    elsewhere = set(re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}[^\s\"')]*", everything))

    assert [url for url in urls if not OWN_URL.match(url)] == []
    assert elsewhere == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "@import" not in STYLE and "url(" not in STYLE


def test_text_stays_text() -> None:
    """Whatever a provider says is shown, never run: no way from text to markup or code is used."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser"

    assert re.findall(ways, EVERY_SCRIPT) == []


def test_ids(page: PageReader) -> None:
    """Every id is there once, and every id and icon that a script, a label or a link names is there."""
    found = ids(page)
    by_scripts = set(re.findall(r'byId\("([^"]+)"\)', EVERY_SCRIPT))
    by_attributes = {
        name
        for _, a in page.tags
        for attribute in ("for", "aria-labelledby", "aria-describedby")
        for name in (a.get(attribute) or "").split()
    } | {(a["href"] or "")[1:] for _, a in page.tags if (a.get("href") or "").startswith("#")}
    icons = {f"i-{name}" for name in re.findall(r'\bicon\("([^"]+)"\)', EVERY_SCRIPT)}
    icons |= {f"i-{state.value}" for state in (*BreakerState, *Health)}

    assert len(found) == len(set(found))
    assert by_scripts, "the pattern no longer finds how scripts name ids"
    assert by_scripts | (by_attributes - PLACES) | icons <= set(found)


def imported(*names: str) -> set[str]:
    """Return all modules that these import at once, and those in turn."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        more = set(re.findall(r'from "\./([\w.]+)"', SCRIPTS[waiting.pop()])) - found
        found |= more
        waiting += more
    return found


AT_ONCE = imported("app.js")
WHEN_NEEDED = set(re.findall(r'await import\("\./([\w.]+)"\)', EVERY_SCRIPT))


def test_modules_exist(page: PageReader) -> None:
    """Every file that the page or a module names exists and has a served type; every file is used. The page
    asks for all modules at once, not for each when another one has come, and for no part that a chat can do
    without."""
    links = [
        (a.get("rel"), (a.get("src") or a.get("href") or "").removeprefix("/web/")) for _, a in page.tags
    ]
    preloaded = [name for rel, name in links if rel == "modulepreload"]
    named = {name for rel, name in links if name and "#" not in name and rel != "modulepreload"}
    there = {path.name for path in WEB.iterdir()}
    others = {"index.html", "openapi.json"}  # the page itself, and a document that programs ask for
    styles = set(re.findall(r'rel: "stylesheet", href: "/web/([\w.]+)"', EVERY_SCRIPT))

    assert WHEN_NEEDED, "the pattern no longer finds what is loaded when it is needed"
    assert not WHEN_NEEDED & AT_ONCE
    assert named | AT_ONCE | WHEN_NEEDED | imported(*WHEN_NEEDED) | styles == there - others
    assert preloaded == sorted(AT_ONCE)
    assert {Path(name).suffix for name in there} <= set(MEDIA_TYPES)


def test_first_load() -> None:
    """All that the first visit loads is small, as it is sent by a proxy that compresses; so is each part that
    comes when it is needed."""
    first = ["app.js", *AT_ONCE, "index.html", "style.css", "favicon.svg"]

    assert compressed(first) <= FIRST_LOAD_BYTES_MAX
    for part in WHEN_NEEDED:
        assert compressed({part, *imported(part)} - AT_ONCE) <= PART_BYTES_MAX, part


def compressed(names: Iterable[str]) -> int:
    return sum(len(gzip.compress((WEB / name).read_bytes(), mtime=0)) for name in names)


def test_labelled(page: PageReader) -> None:
    """Every field has a label, every picture says nothing or has a name."""
    labelled = {a.get("for") for tag, a in page.tags if tag == "label"}
    wrapped = re.findall(r'<label[^>]*>(?:(?!</label>).)*?id="([\w-]+)"', HTML, re.DOTALL)
    fields = {a["id"] for tag, a in page.tags if tag in ("input", "select", "textarea")}

    assert fields <= labelled | set(wrapped)
    assert all(a.get("aria-hidden") == "true" for tag, a in page.tags if tag == "svg")


def test_named_on_phones(page: PageReader) -> None:
    """The model's select keeps its name where a narrow screen hides the word beside it."""
    (select,) = [a for tag, a in page.tags if tag == "select"]

    assert ".pick span { display: none; }" in STYLE
    assert select["aria-label"] == "Model"


def test_what_is_stale_reads_well() -> None:
    """Parts that show an old state are grey, not pale: an opacity would take their text's contrast."""
    (rule,) = re.findall(r'#live\[data-stale="true"\][^{]*\{([^}]*)\}', STYLE)

    assert "grayscale" in rule and "opacity" not in rule


def test_service_words() -> None:
    """The page has words for every outcome, breaker state, event and reason of the service."""
    reasons = set[str]()
    for path in [*(ROOT / "service/providers").glob("*.py"), *(ROOT / "service/failover").glob("*.py")]:
        reasons |= set(re.findall(r'ProviderFault\(\s*"([a-z_]+)"', path.read_text()))
        reasons |= {f"{clock}_timeout" for clock in re.findall(r'TimedOut\("([a-z_]+)"', path.read_text())}
    guards = "".join(path.read_text() for path in (ROOT / "service/resilience").glob("*.py"))
    barred = re.findall(r"NotPermitted\((.+)\)", guards)
    passed_over = {name for said in barred for name in re.findall(r'"([a-z_]+)"', said)}
    passed_over |= {rest.value for rest in CooldownReason}
    assert passed_over == PASSED_OVER_REASONS
    reasons |= passed_over | {"cancelled", "hedge_lost"}

    assert {"truncated", "breaker_open", "cooling_down"} <= reasons, "the patterns no longer find the reasons"
    assert [r for r in sorted(passed_over) if f'"{r}"' not in _line(SCRIPTS["labels.js"], "SKIPPED =")] == []
    assert [r for r in sorted(reasons) if f'["{r}",' not in SCRIPTS["labels.js"]] == []
    assert [h for h in COUNTERS if f'["{h}", [' not in SCRIPTS["labels.js"]] == []
    assert [h for h in JOBS_AND_DOCUMENTS if f'["{h}", [' not in SCRIPTS["labels.js"]] == []
    assert [k for k in SecurityKind if f'["{k}", "' not in SCRIPTS["labels.js"]] == []
    assert [k for k in ATTEMPT_KINDS - {"first"} if f'["{k}",' not in SCRIPTS["labels.js"]] == []
    assert [o for o in Outcome if f'["{o}",' not in SCRIPTS["live.js"]] == []
    assert [s for s in BreakerState if f'["{s}",' not in SCRIPTS["cards.js"]] == []


JOBS_AND_DOCUMENTS = [
    "document_read",
    "document_refused",
    *[f"job_{state}" for state in ("done", "failed")],
    *[f"job_step_{result}" for result in StepResult],
]


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if start in line)


# Who stands on what: text needs 4.5:1 (WCAG AA).
PAIRS = [
    *[(text, ground) for text in ("ink", "soft", "accent") for ground in ("page", "card", "sunk", "tint")],
    *[(text, ground) for text in ("ok", "warn", "bad") for ground in ("page", "card")],
    *[("ink", ground) for ground in ("warn-tint", "bad-tint")],
    *[("soft", ground) for ground in ("warn-tint", "bad-tint")],
    ("warn", "warn-tint"),
    ("on-accent", "accent"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Every text colour reads well on every ground it stands on, in both colour schemes."""
    light, dark = (_colours(part) for part in STYLE.split("@media (prefers-color-scheme: dark)")[:2])
    colours = light if scheme == "light" else light | dark

    weak = {pair: round(_contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in weak.items() if ratio < 4.5} == {}


def _colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css))


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
