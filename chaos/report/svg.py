"""Shapes and text of the picture, as SVG."""

from html import escape

from dub5.chaos.report.axis import CHAR_PX


def box(x: float, width: float, y: float, height: float) -> str:
    """Return a rectangle as part of a path: a thousand of them are one element."""
    return f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"


def boxes(kind: str, shapes: str, title: str = "") -> str:
    """Return a path of boxes; empty if there are none."""
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    return f'<path class="{kind}" d="{shapes}">{tooltip}</path>' if shapes else ""


def rect(kind: str, x: float, width: float, y: float, height: float, title: str) -> str:
    """Return a rectangle with a tooltip."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(title)}</title></rect>"
    )


def text(words: str, x: float, y: float, anchor: str = "start", kind: str = "") -> str:
    """Return a line of text."""
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def torn(x: float, top: int, bottom: int, deep_px: float) -> str:
    """Return a torn line from top to bottom: the time scale changes there."""
    tooth = f"l{deep_px:g} 5l{-2 * deep_px:g} 10l{deep_px:g} 5"
    path = f'd="M{x:.1f} {top}{tooth * ((bottom - top) // 20)}"'
    return f'<path class="tear" {path}/><path class="torn" {path}/>'


def short(words: str, width_px: float) -> str:
    """Return as much of a text as fits."""
    most = max(1, int(width_px / CHAR_PX))
    return words if len(words) <= most else words[: most - 1] + "…"
