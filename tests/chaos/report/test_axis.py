"""The time axis: no moment of any run is lost or drawn backwards, and every label is readable."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from dub5.chaos.report.axis import (
    BREAKS_MAX,
    BUCKET_PX,
    EDGE_PX,
    FEW,
    Axis,
    Stretch,
    TimeSpan,
    axis,
    clock,
    span,
)

LEFT, RIGHT = 84.0, 1066.0
DENSE, SPARSE = 10.0, 0.1


@st.composite
def loads(draw: st.DrawFn) -> list[Stretch]:
    """Generate loads with dense and sparse stretches in turns, from seconds to a week."""
    length_s = st.one_of(st.floats(0.5, 40_000), st.sampled_from([0.5, 70.0, 301.0, 3600.0, 86_400.0]))
    lengths = draw(st.lists(length_s, min_size=1, max_size=60))
    dense = draw(st.booleans())
    made: list[Stretch] = []
    from_s = 0.0
    for length_s in lengths:
        made.append((from_s, from_s + length_s, DENSE if dense else SPARSE))
        from_s, dense = from_s + length_s, not dense
    return made


def plateaus(load: list[Stretch]) -> list[TimeSpan]:
    return [(from_s, until_s) for from_s, until_s, rate in load if rate == SPARSE]


def drawn(load: list[Stretch]) -> Axis:
    return axis(load[-1][1], LEFT, RIGHT, plateaus(load))


@given(loads(), st.lists(st.floats(-100, 3_000_000), min_size=2, max_size=40))
def test_time_goes_right(load: list[Stretch], moments: list[float]) -> None:
    """A later moment is never drawn further left, and no moment outside the picture."""
    made = drawn(load)
    drawn_at = [made.x(at_s) for at_s in sorted(moments)]
    assert drawn_at == sorted(drawn_at)
    assert all(LEFT <= x <= RIGHT for x in drawn_at)


ROUNDED = [(0.0, 1.0, 0.1), (1.0, 2.0, 10.0), (2.0, 3.0, 0.1), (3.0, 404.0, 10.0), (404.0, 13182.0, 0.1)]
ROUNDED += [(13182.0, 13183.0, 10.0), (13183.0, 13184.0, 0.1), (13184.0, 32768.596308681634, 10.0)]


@given(loads())
@example(ROUNDED)
def test_the_whole_run_is_drawn(load: list[Stretch]) -> None:
    """Pieces cover the run and the picture from end to end without a gap, and each has some width."""
    made = drawn(load)
    assert (made.x(0), made.x(made.seconds)) == (LEFT, RIGHT)
    assert made.seconds == max(1.0, load[-1][1])
    assert all((a.until_s, a.until_x) == (b.from_s, b.from_x) for a, b in pairwise(made.pieces))
    assert all(piece.until_x - piece.from_x > 0.01 for piece in made.pieces)


@given(loads())
def test_only_plateaus_are_drawn_narrow(load: list[Stretch]) -> None:
    """Narrow pieces are few, hold no dense moment, and leave most of the width to the others."""
    made = drawn(load)
    narrow = [piece for piece in made.pieces if piece.plateau]
    assert {(piece.from_s, piece.until_s) for piece in narrow} <= set(plateaus(load))
    assert len(narrow) <= BREAKS_MAX
    assert sum(piece.until_x - piece.from_x for piece in narrow) < (RIGHT - LEFT) / 2


@given(loads(), st.lists(st.floats(0, 3_000_000), max_size=60))
def test_bars(load: list[Stretch], edges: list[float]) -> None:
    """Bars cover the run without a gap; they are few, and wide enough to see."""
    made = drawn(load)
    bars = made.buckets(load, edges)
    assert (bars[0][0], bars[-1][1]) == (0, made.seconds)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(bars))
    assert len(bars) <= (RIGHT - LEFT) / BUCKET_PX + 2 * len(made.pieces)
    narrow = [bar for bar in bars if made.x(bar[1]) - made.x(bar[0]) < BUCKET_PX - 0.001]
    assert len(narrow) <= 2 * len(made.pieces), (
        "but for what lies before the first edge of a piece, or after its last"
    )


@given(loads())
def test_labels(load: list[Stretch]) -> None:
    """Labels are round moments, overlap nothing and stay in the picture; each plateau shows its length."""
    made = drawn(load)
    ticks, lengths = made.ticks(), made.lengths()
    assert all(tick.at_s % 5 == 0 for tick in ticks)
    assert all(a.until_x < b.from_x for a, b in pairwise(ticks))
    assert all(tick.until_x <= RIGHT + EDGE_PX + 0.001 for tick in (*ticks, *lengths))
    assert [tick.label for tick in lengths] == [
        span(piece.until_s - piece.from_s) for piece in made.pieces if piece.plateau
    ]
    for row in range(6):
        assert all(a.until_x < b.from_x for a, b in pairwise(t for t in lengths if t.row == row))
    assert all(tick.row < 6 for tick in lengths)


def test_a_minute() -> None:
    """A run of a minute has one scale, a bar for each second and a label every five seconds."""
    made = axis(60, LEFT, RIGHT)
    assert not made.broken
    assert made.buckets([(0, 60, 20)], [4, 26.5]) == [(n, n + 1) for n in range(60)]
    assert [tick.label for tick in made.ticks()] == [f"{n} s" for n in range(0, 61, 5)]


def test_hours() -> None:
    """In a run of hours edges are wide and plateaus narrow; bars begin where a fault does, and where the load
    is sparse a bar collects enough requests."""
    dense = [(0, 60), (110, 180), (350, 420), (1250, 1320), (6650, 6720)]
    load = [(0.0, 60.0, DENSE)]
    for (_, before_s), (from_s, until_s) in pairwise(dense):
        load += [(before_s, from_s, SPARSE), (from_s, until_s, DENSE)]
    load.append((6720, 6840, SPARSE))
    made = drawn(load)
    assert [(p.from_s, p.until_s) for p in made.pieces if p.plateau] == [(420, 1250), (1320, 6650)]
    assert [tick.label for tick in made.lengths()] == ["13 min 50 s", "1 h 29 min"]
    assert "1 h 52 min" in {tick.label for tick in made.ticks()}
    wide = [p.px_per_s for p in made.pieces if not p.plateau]
    assert min(wide) > 5 * max(p.px_per_s for p in made.pieces if p.plateau)
    bars = made.buckets(load, [120, 360, 1260, 6660])
    assert {120, 360, 1260, 6660} <= {from_s for from_s, _ in bars}
    assert [(60, 110)] == [bar for bar in bars if 60 <= bar[0] < 110], (
        "fifty seconds: not even eight requests"
    )
    assert all(until_s - from_s >= FEW / SPARSE for from_s, until_s in bars if 1320 <= from_s < 6650)


def test_alike_alike() -> None:
    """Plateaus of equal length are all drawn alike: a fault every twenty minutes for a day looks regular."""
    load = [
        (n * 600.0 + part, n * 600.0 + end, rate)
        for n in range(144)
        for part, end, rate in ((0, 70, 10.0), (70, 600, 0.1))
    ]
    assert not drawn(load).broken
    assert len(drawn(load[:40]).lengths()) == 20


def test_few_breaks() -> None:
    """Of forty plateaus of different lengths, the longest are drawn narrow."""
    load: list[Stretch] = [(0.0, 60.0, DENSE)]
    for n in range(40):
        before_s = load[-1][1]
        load += [(before_s, before_s + 600 + 60 * n, SPARSE)]
        load += [(load[-1][1], load[-1][1] + 60, DENSE)]
    narrow = [(p.from_s, p.until_s) for p in drawn(load).pieces if p.plateau]
    assert narrow == plateaus(load)[-BREAKS_MAX:]


def test_bars_begin_where_faults_do() -> None:
    """No bar holds both healthy and faulty time, if they alternate every five minutes under dense load."""
    edges = [float(at_s) for at_s in range(3600, 36_000, 300)]
    load = [(0.0, 3590.0, SPARSE)]
    for at_s in edges:
        load += [(at_s - 10, at_s + 60, DENSE), (at_s + 60, at_s + 290, SPARSE)]
    load.append((load[-1][1], 36_000.0, SPARSE))
    begins = {from_s for from_s, _ in drawn(load).buckets(load, edges)}
    assert set(edges) <= begins


def test_words_for_time() -> None:
    """A moment is formatted to the second, a length with a precision that suits it."""
    assert [clock(s) for s in (0, 45, 90, 3600, 6720, 7510.2)] == [
        "0 s",
        "45 s",
        "1 min 30 s",
        "1 h",
        "1 h 52 min",
        "2 h 5 min 10 s",
    ]
    assert [span(s) for s in (7.4, 250, 3599.7, 5330, 7199, 200_000)] == [
        "7 s",
        "4 min 10 s",
        "1 h",
        "1 h 29 min",
        "2 h",
        "56 h",
    ]
