"""A page that shows metrics over time with every change marked: one self-contained HTML file.

Owns the drawing: inline SVG, light and dark, no drawing library, nothing loaded from anywhere. Takes plain
data (`Picture`) and must not know where it is from: no clock, no file, no daemon. Whatever the names and
labels contain is text, never markup.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise

from msgspec import structs

from tuned_spec.model import Frozen, Way

WIDTH = 1000.0
LEFT, RIGHT = 66.0, 986.0  # of the plot, in the picture's own pixels
PLOT_HEIGHT = 190.0
STRIP = 18.0
LANE = 19.0  # one row of labels above the plot
LANES = 8  # labels that would need more rows keep only their line, a tooltip, and their row in the table
AXIS = 44.0
LABEL_CHARS = 96
BEYOND = 1e300  # no axis reaches this; such a value is drawn as a gap, as infinity is
MAX_POINTS = 1800  # drawn as one point each; more are drawn as the least and the most of each pixel column

# ------------------------------------------------------------------------------- what goes in


class Event(Frozen, frozen=True):
    """Something happened at `t`: a line across the plot, and a label. `tone` is one of `TONES`."""

    t: float
    label: str
    tone: str = "plain"


class Window(Frozen, frozen=True):
    """A stretch of time that is shaded. `tone` is a key of `SHADES`, else plain."""

    start: float
    end: float
    label: str
    tone: str = "plain"


class Panel(Frozen, frozen=True):
    """One metric over time. Times are seconds on any clock, the same one in the whole picture.

    `samples` need no order; a value that is NaN or infinite, and a pause of several samples, is a gap.
    """

    title: str
    axis: str  # what is on the vertical axis, in words
    unit: str
    samples: tuple[tuple[float, float], ...]
    better: Way | None = None
    events: tuple[Event, ...] = ()
    windows: tuple[Window, ...] = ()


class Table(Frozen, frozen=True):
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Picture(Frozen, frozen=True):
    """The whole page; `title` says the result, `notes` how it was got."""

    title: str
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()


TONES = ("plain", "changed", "good", "bad", "back")
SHADES = {
    "a": "A: as before",
    "b": "B: as changed",
    "c": "C: another value tried",
    "held": "confirmed, in force",
    "left": "left behind by kill -9",
    "theirs": "written by somebody else",
}

# ------------------------------------------------------------------------------------ drawing


def page(picture: Picture) -> str:
    """The picture as one HTML document; never fails on odd data, an empty panel says that it is empty."""
    style = files(__package__).joinpath("picture.css").read_text(encoding="utf-8")
    start, end = _span(picture.panels)
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{_text(picture.title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>\n{style}</style>\n<main>\n<h1>{_text(picture.title)}</h1>\n"
    ]
    parts += [f"<p>{_text(note)}</p>\n" for note in picture.notes]
    parts += [_figure(panel, start, end) for panel in picture.panels]
    if picture.panels:
        parts.append(_key(picture.panels))
    parts += [_table(table) for table in picture.tables]
    return "".join(parts) + "</main>\n</html>\n"


def _figure(panel: Panel, start: float, end: float) -> str:
    points = sorted((t, v if abs(v) < BEYOND else math.nan) for t, v in panel.samples if math.isfinite(t))
    finite = [v for _, v in points if math.isfinite(v)]
    labels, lanes = _lay_out(panel.events, start, end)
    top = 10 + lanes * LANE
    crest = top + (STRIP if panel.windows else 0)  # where the plot begins, below the windows' letters
    bottom = crest + PLOT_HEIGHT
    ticks, ceiling = _scale(finite)

    def x(t: float) -> float:
        return LEFT + (t - start) / (end - start) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return bottom - (min(max(value, ticks[0]), ceiling) - ticks[0]) / (ceiling - ticks[0]) * PLOT_HEIGHT

    better = {None: "", Way.DOWN: "lower is better", Way.UP: "higher is better"}[panel.better]
    unit = f" ({panel.unit})" if panel.unit else ""
    drawn = [
        *(_window(window, x, top, bottom) for window in panel.windows if _is_drawable(window)),
        *(_level(tick, y(tick), ticks) for tick in ticks),
        *(_moment(tick, x(start + tick), bottom, end - start) for tick in _time_ticks(end - start)),
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>',
        f'<text class="name" x="{(LEFT + RIGHT) / 2}" y="{bottom + 38:.1f}">time (seconds)</text>',
        f'<text class="name" transform="translate(16 {crest + PLOT_HEIGHT / 2:.1f}) rotate(-90)">'
        f"{_text(panel.axis + unit)}</text>",
        *(f'<path class="line" d="{path}"/>' for path in _paths(points, x, y)),
        *(
            f'<path class="beyond" d="M{x(t):.1f} {crest + 1:.1f}l4 7h-8z"><title>{_number(v)}</title></path>'
            for t, v in points
            if math.isfinite(v) and v > ceiling
        ),
        *_events(labels, top, bottom),
    ]
    if not finite:
        drawn.append(
            f'<text class="name" x="{(LEFT + RIGHT) / 2}" y="{crest + PLOT_HEIGHT / 2}">'
            "nothing was measured</text>"
        )
    return (
        f"<figure>\n<figcaption><b>{_text(panel.title)}</b> <span>{better}</span></figcaption>\n"
        f'<svg viewBox="0 0 {WIDTH:.0f} {bottom + AXIS:.0f}" role="img" aria-label="{_text(panel.title)}">\n'
        + "\n".join(drawn)
        + "\n</svg>\n</figure>\n"
    )


def _paths(
    points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]
) -> Iterator[str]:
    """One path for each unbroken run of samples; a run of one is drawn as a dot."""
    if len(points) > MAX_POINTS:
        points = _thinned(points, x)
    steps = sorted(b[0] - a[0] for a, b in pairwise(points))
    longest = 6 * steps[len(steps) // 2] if steps else 0.0
    run: list[str] = []
    last = -math.inf
    for t, value in (*points, (math.inf, math.nan)):
        if run and (not math.isfinite(value) or t - last > longest):
            yield "M" + "L".join(run) + ("h0" if len(run) == 1 else "")
            run = []
        if math.isfinite(value):
            run.append(f"{x(t):.1f} {y(value):.1f}")
            last = t


def _thinned(
    points: Sequence[tuple[float, float]], x: Callable[[float], float]
) -> Sequence[tuple[float, float]]:
    """The least and the most of each pixel column: no peak is lost."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        if math.isfinite(point[1]):
            columns.setdefault(int(x(point[0])), []).append(point)
    kept = [{min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])} for column in columns.values()]
    return sorted(point for column in kept for point in column)


def _window(window: Window, x: Callable[[float], float], top: float, bottom: float) -> str:
    left, right = max(x(window.start), LEFT), min(x(window.end), RIGHT)
    if right <= left:
        return ""
    tone = window.tone if window.tone in SHADES else "plain"
    label = ""
    if right - left > _width(window.label) + 2:
        middle = (left + right) / 2
        label = f'<text class="arm" x="{middle:.1f}" y="{top + 13:.1f}">{_text(window.label)}</text>'
    return (
        f'<rect class="window {tone}" x="{left:.1f}" width="{right - left:.1f}" y="{top:.1f}" '
        f'height="{bottom - top:.1f}"><title>{_text(window.label)}</title></rect>{label}'
    )


def _is_drawable(window: Window) -> bool:
    return math.isfinite(window.start) and math.isfinite(window.end) and window.start < window.end


class _Label(Frozen, frozen=True):
    """Where one event's label goes: its line is at `at`, its text starts at `left`; lane None is no text."""

    event: Event
    at: float
    left: float
    right: float
    lane: int | None = None

    def meets(self, other: _Label) -> bool:
        """Would they touch in one row? Its line belongs to a label."""
        gap = 6.0
        return (
            min(self.left, self.at) < max(other.right, other.at) + gap
            and min(other.left, other.at) < max(self.right, self.at) + gap
        )


def _lay_out(events: Sequence[Event], start: float, end: float) -> tuple[list[_Label], int]:
    """A row for each label so that no two texts touch, and how many rows that takes.

    A text goes to the right of its line, or to the left where the picture ends. Each gets the lowest row
    above all that it would touch; in this order no line runs through a text on its own side either.
    """
    rightward, leftward = [], []
    for event in sorted((e for e in events if math.isfinite(e.t)), key=lambda event: event.t):
        at = LEFT + (event.t - start) / (end - start) * (RIGHT - LEFT)
        width = _width(_short(event.label))
        if at + 6 + width <= RIGHT:
            rightward.append(_Label(event, at, at + 6, at + 6 + width))
        else:
            left = max(LEFT, at - 6 - width)
            leftward.append(_Label(event, at, left, left + width))
    placed: list[_Label] = []
    for label in (*leftward, *reversed(rightward)):
        lane = 1 + max((o.lane for o in placed if o.lane is not None and o.meets(label)), default=-1)
        placed.append(structs.replace(label, lane=lane if lane < LANES else None))
    return placed, 1 + max((label.lane for label in placed if label.lane is not None), default=-1)


def _events(labels: Sequence[_Label], top: float, bottom: float) -> Iterator[str]:
    """The lines first, then the texts, so that a text is never struck through."""
    for label in labels:
        tone = label.event.tone if label.event.tone in TONES else "plain"
        high = top if label.lane is None else top - (label.lane + 1) * LANE + 2
        yield (
            f'<g class="event {tone}"><title>{_text(label.event.label)}</title>'
            f'<line x1="{label.at:.1f}" x2="{label.at:.1f}" y1="{high:.1f}" y2="{bottom:.1f}"/>'
            f'<circle cx="{label.at:.1f}" cy="{bottom:.1f}" r="3.5"/></g>'
        )
    for label in labels:
        if label.lane is not None:
            tone = label.event.tone if label.event.tone in TONES else "plain"
            yield (
                f'<text class="label {tone}" x="{label.left:.1f}" '
                f'y="{top - label.lane * LANE - 5:.1f}">{_text(_short(label.event.label))}</text>'
            )


def _level(tick: float, y: float, ticks: Sequence[float]) -> str:
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return (
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick up" x="{LEFT - 8}" y="{y + 4:.1f}">{tick:,.{decimals}f}</text>'
    )


def _moment(tick: float, x: float, bottom: float, span: float) -> str:
    text = f"{tick:.0f}" if span >= 5 else f"{tick:g}"
    return (
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 5:.1f}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 19:.1f}">{text}</text>'
    )


def _key(panels: Sequence[Panel]) -> str:
    """What the shades and marks mean: only those that occur."""
    tones = {window.tone for panel in panels for window in panel.windows}
    keys = "".join(
        f'<span><i class="{tone}"></i>{name}</span>' for tone, name in SHADES.items() if tone in tones
    )
    return f'<p class="key">{keys}</p>\n' if keys else ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    return (
        f"<table>\n<caption>{_text(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table>\n"
    )


# ------------------------------------------------------------------------------------- scales


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    """First and last moment of all panels, so that they stand below each other on one time axis."""
    times = [
        t
        for panel in panels
        for t in (
            *(t for t, _ in panel.samples),
            *(event.t for event in panel.events),
            *(edge for window in panel.windows for edge in (window.start, window.end)),
        )
        if math.isfinite(t)
    ]
    if not times:
        return 0.0, 1.0
    return min(times), max(max(times), min(times) + 1.0)


def _scale(values: Sequence[float]) -> tuple[list[float], float]:
    """Ticks from zero (or below, for negative values), and the top of the axis.

    A few values far beyond all others (one stall of a second among milliseconds) would flatten the rest:
    the axis then ends above the others, and those few are drawn as small arrows at its top.
    """
    if not values:
        return [0.0, 1.0], 1.0
    ordered = sorted(values)
    most, usual = ordered[-1], ordered[int(0.98 * (len(ordered) - 1))]
    top = usual * 1.25 if most > 3 * usual > 0 else most * 1.05
    low = min(ordered[0], 0.0)
    if top - low < 1 / BEYOND:
        top = low + 1.0
    step = _round_step((top - low) / 4.5)
    first = math.floor(low / step) * step
    return [first + i * step for i in range(math.floor((top - first) / step + 1e-9) + 1)], top


def _time_ticks(span: float) -> list[float]:
    step = _round_step(span / 10)
    return [i * step for i in range(math.floor(span / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


# --------------------------------------------------------------------------------------- text


def _text(raw: str) -> str:
    """Text for HTML: markup escaped, control characters and lone surrogates shown as a dot."""
    return escape("".join("·" if unicodedata.category(c) in ("Cc", "Cs") else c for c in raw))


def _short(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1].rstrip() + "…"


def _width(text: str) -> float:
    """A generous guess at the width of 12.5-pixel text: wide characters of East Asia count double."""
    return sum(13.0 if unicodedata.east_asian_width(c) in "WF" else 7.1 for c in text)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
