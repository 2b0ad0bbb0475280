"""The picture of a run, as SVG: what was done to the providers, who answered, how they stood, how long people waited.

x is time, shared by all rows; colours and dark mode come from the page's style (report.py)
"""

from collections.abc import Iterable, Iterator
from html import escape

from chaos.figures import Second, Strip, by_second, strips
from chaos.journal import Journal, Window
from chaos.judge import Outcome

LEFT, RIGHT, WIDTH = 84, 14, 1080
ROW, BARS, LINES, GAP = 22, 150, 96, 40
LABEL_PX = 6.3  # a character of a fault's label, about
BAD = (Outcome.CUT, Outcome.FAILED, Outcome.REFUSED, Outcome.DISHONEST, Outcome.HUNG)


class Picture:
    """Draws from the top down; `y` is where the next row begins."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._seconds = max(1, round(journal.scenario.workload.seconds))
        self._rows = by_second(journal.requests, self._seconds)
        self._names = list(journal.scenario.providers)
        self._y = 24
        self._parts: list[str] = []

    def svg(self) -> str:
        """The whole picture."""
        top = self._y
        self._faults()
        self._answers()
        self._states()
        self._waits()
        self._axis()
        shades = "".join(self._shade(window, top) for window in self._journal.windows)
        size = f'viewBox="0 0 {WIDTH} {self._y}" role="img" aria-labelledby="picture-title"'
        title = '<title id="picture-title">Faults, answers by provider, breakers and waiting times over the run</title>'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}{shades}{"".join(self._parts)}</svg>'

    def _x(self, at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at_s, 0), self._seconds) / self._seconds

    def _add(self, *parts: str) -> None:
        self._parts += parts

    def _heading(self, text: str) -> None:
        self._add(f'<text class="heading" x="0" y="{self._y}">{escape(text)}</text>')
        self._y += 10

    def _shade(self, window: Window, top: int) -> str:
        from_x, until_x = self._x(window.from_s), self._x(_until(window, self._seconds))
        return (
            f'<rect class="shade" x="{from_x:.1f}" y="{top}" width="{until_x - from_x:.1f}" '
            f'height="{self._y - top - 22}"/>'
        )

    def _faults(self) -> None:
        self._heading("What was done to the providers")
        for window in self._journal.windows:
            from_x, until_x = self._x(window.from_s), self._x(_until(window, self._seconds))
            label, room = window.label, WIDTH - RIGHT - until_x - 6
            fits = len(label) * LABEL_PX <= room
            x, anchor = (until_x + 6, "start") if fits else (from_x - 6, "end")
            self._add(
                f'<rect class="p{self._index(window.provider)}" x="{from_x:.1f}" y="{self._y}" rx="3" '
                f'width="{until_x - from_x:.1f}" height="{ROW - 7}"><title>{escape(label)}, '
                f"by {escape(window.by)}</title></rect>",
                f'<text x="{x:.1f}" y="{self._y + 12}" text-anchor="{anchor}">{escape(label)}</text>',
            )
            self._y += ROW
        self._y += GAP

    def _index(self, provider: str) -> int:
        return self._names.index(provider) % 6 if provider in self._names else 6

    def _answers(self) -> None:
        self._heading("Requests by the second they were sent in: who answered")
        most = max((sum(row.ended.values()) for row in self._rows), default=1) or 1
        bottom = self._y + BARS
        width = self._x(1) - self._x(0)
        for row in self._rows:
            y = float(bottom)
            for kind, count, what in self._stack(row):
                height = BARS * count / most
                y -= height
                self._add(
                    f'<rect class="{kind}" x="{self._x(row.at_s) + 0.5:.1f}" y="{y:.1f}" '
                    f'width="{max(1.0, width - 1):.1f}" height="{height:.1f}">'
                    f"<title>second {row.at_s}: {escape(what)} {count}</title></rect>"
                )
        self._scale(bottom, BARS, [(most, str(most)), (most / 2, f"{most / 2:g}"), (0, "0")], most)
        self._y = bottom + GAP

    def _stack(self, row: Second) -> Iterator[tuple[str, int, str]]:
        """The pieces of one second's bar, from the bottom up."""
        for name in [*self._names, *sorted(row.answered.keys() - set(self._names))]:
            if count := row.answered[name]:
                yield f"p{self._index(name)}", count, f"{name} answered"
        for outcome in BAD:
            if count := row.ended[outcome]:
                yield outcome.value, count, outcome.value

    def _states(self) -> None:
        made = strips(self._journal.samples, self._seconds)
        if not made:
            return
        self._heading("How the service held each provider: breaker")
        for name in self._names:
            self._add(f'<text x="{LEFT - 8}" y="{self._y + 12}" text-anchor="end">{escape(name)}</text>')
            self._add(*(self._strip(strip) for strip in made if strip.provider == name))
            self._y += ROW
        self._y += GAP

    def _strip(self, strip: Strip) -> str:
        from_x, until_x = self._x(strip.from_s), self._x(strip.until_s)
        words = strip.state.replace("_", "-")
        said = f"{strip.provider}: {words} from {strip.from_s:.1f} to {strip.until_s:.1f} s"
        rect = (
            f'<rect class="s-{strip.state}" x="{from_x:.1f}" y="{self._y}" height="{ROW - 7}" '
            f'width="{max(0.5, until_x - from_x):.1f}"><title>{escape(said)}</title></rect>'
        )
        if until_x - from_x < len(words) * LABEL_PX + 8:
            return rect
        style = "pale" if strip.state == "closed" else "on"
        return f'{rect}<text class="{style}" x="{from_x + 5:.1f}" y="{self._y + 12}">{words}</text>'

    def _waits(self) -> None:
        waits = [row.first_token_p95_s for row in self._rows if row.first_token_p95_s is not None]
        if not waits:
            return
        self._heading("Seconds to the first token of a stream: half of all wait at most (thick), 95 % (thin)")
        top_s = max(0.5, max(waits) * 1.1)
        bottom = self._y + LINES
        for kind, values in (
            ("p95", [(row.at_s, row.first_token_p95_s) for row in self._rows]),
            ("p50", [(row.at_s, row.first_token_p50_s) for row in self._rows]),
        ):
            points = " ".join(
                f"{self._x(at_s + 0.5):.1f},{bottom - LINES * value / top_s:.1f}"
                for at_s, value in values
                if value is not None
            )
            self._add(f'<polyline class="{kind}" points="{points}"/>')
        self._scale(
            bottom, LINES, [(top_s, f"{top_s:.1f} s"), (top_s / 2, f"{top_s / 2:.1f} s"), (0, "0")], top_s
        )
        self._y = bottom + 18

    def _scale(self, bottom: int, height: int, marks: Iterable[tuple[float, str]], most: float) -> None:
        for value, text in marks:
            y = bottom - height * value / most
            self._add(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
            )

    def _axis(self) -> None:
        step = next((s for s in (5, 10, 20, 60, 300, 600) if self._seconds / s <= 14), 3600)
        for at_s in range(0, self._seconds + 1, step):
            self._add(f'<text x="{self._x(at_s):.1f}" y="{self._y}" text-anchor="middle">{at_s} s</text>')
        self._y += 22


def _until(window: Window, seconds: float) -> float:
    return seconds if window.until_s is None else window.until_s
