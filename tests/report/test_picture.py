"""The page on tricky data: it is always well-formed, says nothing that is not there, and loads nothing."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from tuned_spec.model import Way
from tuned_spec.report.picture import LABEL_CHARS, LANES, Event, Panel, Picture, Table, Window, page

VOID = {"meta"}


class Strict(HTMLParser):
    """Demands that every element is closed in order; collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def drawn(*panels: Panel, title: str = "t", tables: tuple[Table, ...] = ()) -> tuple[str, Strict]:
    html = page(Picture(title, ("note",), panels, tables))
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    body = html.split("</style>")[1]
    assert not re.search(r"[\"\s](nan|-?inf)[\"\s]", body)
    assert "http" not in html and "<script" not in html
    return html, parser


def panel(samples: list[tuple[float, float]], **more: object) -> Panel:
    return Panel("Wait", "p95", "ms", tuple(samples), Way.DOWN, **more)  # type: ignore[arg-type]


def points(html: str) -> list[tuple[float, float]]:
    path = "".join(re.findall(r'class="line" d="([^"]*)"', html))
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def boxes(html: str) -> list[tuple[float, float, str]]:
    """Left edge, baseline and text of each label."""
    found = re.findall(r'<text class="label \w+" x="([\d.]+)" y="([\d.]+)">([^<]*)<', html)
    return [(float(x), float(y), text) for x, y, text in found]


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [(5.0, 1.0)],
        [(0.0, math.nan), (1.0, math.inf), (2.0, -math.inf)],
        [(0.0, 0.0), (1.0, 0.0)],
        [(0.0, -5.0), (1.0, 5.0)],
        [(0.0, 5e-324), (1.0, 1e-310)],
        [(0.0, 1.7e308), (1.0, 1.0)],
        [(math.nan, 1.0), (math.inf, 2.0)],
        [(1e15, 1.0), (1e15 + 1, 2.0)],
        [(1.0, 3.0), (1.0, 4.0), (0.0, 5.0)],
    ],
)
def test_any_samples_make_a_page(samples: list[tuple[float, float]]) -> None:
    _, parsed = drawn(panel(samples))
    assert "svg" in parsed.tags
    assert "time (seconds)" in parsed.text and "p95 (ms)" in parsed.text


def test_a_page_without_panels_is_a_page() -> None:
    drawn()


def test_nothing_measured_is_said() -> None:
    _, parsed = drawn(panel([(0.0, math.nan)]))
    assert "nothing was measured" in parsed.text


def test_a_nan_and_a_pause_break_the_line() -> None:
    steady = [(i / 10, 1.0) for i in range(50)]
    html, _ = drawn(panel(steady))
    assert html.count('class="line"') == 1
    html, _ = drawn(panel([*steady, (5.0, math.nan), *((t + 5.1, v) for t, v in steady)]))
    assert html.count('class="line"') == 2
    html, _ = drawn(panel([*steady, *((t + 60, v) for t, v in steady)]))
    assert html.count('class="line"') == 2


def test_many_points_stay_small_and_keep_their_peaks() -> None:
    samples = [(i / 100, 1.0 + i % 7 / 10) for i in range(10_000)]
    samples[4321] = (43.21, 2.9)
    samples[7000] = (70.0, 0.0)
    html, _ = drawn(panel(samples))
    assert len(html) < 120_000
    heights = [y for _, y in points(html)]
    whole = [y for _, y in points(drawn(panel(samples[4300:4340] + samples[6990:7010]))[0])]
    assert min(heights) == min(whole) and max(heights) == max(whole)


def test_one_stall_does_not_flatten_the_rest() -> None:
    samples = [(i / 10, 10.0) for i in range(200)]
    samples[100] = (10.0, 1000.0)
    html, parsed = drawn(panel(samples))
    assert html.count('class="beyond"') == 1
    assert "1,000" in parsed.text  # the arrow's tooltip
    ticks = [float(text.replace(",", "")) for text in re.findall(r'class="tick up"[^>]*>([^<]*)<', html)]
    assert max(ticks) < 20


def test_markup_in_names_is_text() -> None:
    evil = '<script>alert("1")</script>&amp;\x00\ud800'
    samples = [(0.0, 1.0), (10.0, 2.0)]
    html, parsed = drawn(
        Panel(evil, evil, evil, tuple(samples), None, (Event(1, evil, evil),), (Window(2, 8, evil, evil),)),
        title=evil,
        tables=(Table(evil, (evil,), ((evil,),)),),
    )
    assert "script" not in parsed.tags
    assert '<script>alert("1")</script>&amp;··' in parsed.text
    html.encode()


def test_labels_never_touch() -> None:
    """Crowded, long, at both edges, at the same moment; a text of n letters is about 6.3 n wide."""
    events = tuple(Event(t, f"something happened at {t}", "good") for t in (0, 1, 2, 2, 50, 51, 97, 99, 100))
    html, _ = drawn(panel([(0.0, 1.0), (100.0, 1.0)], events=events))
    placed = boxes(html)
    assert len(placed) == len(events)
    for i, (x, y, text) in enumerate(placed):
        assert x >= 60 and x + 6.3 * len(text) <= 1000 and y > 0
        for x2, y2, text2 in placed[i + 1 :]:
            assert y != y2 or x + 6.3 * len(text) < x2 or x2 + 6.3 * len(text2) < x


def test_long_labels_are_cut_and_kept_whole_in_the_tooltip() -> None:
    label = "word " * 100
    html, _ = drawn(panel([(0.0, 1.0), (9.0, 1.0)], events=(Event(1, label),)))
    assert f"<title>{label}</title>" in html
    assert all(len(text) <= LABEL_CHARS for _, _, text in boxes(html))


def test_a_crowd_of_events_keeps_its_lines() -> None:
    events = tuple(Event(50 + i / 100, f"event number {i}") for i in range(60))
    html, _ = drawn(panel([(0.0, 1.0), (100.0, 1.0)], events=events))
    assert html.count('<g class="event') == 60
    assert len(boxes(html)) == LANES


def test_windows_are_clipped_and_explained() -> None:
    windows = (
        Window(-math.inf, 5, "A", "a"),
        Window(5, 1, "A", "a"),
        Window(1, 3, "A", "a"),
        Window(3, 400, "B", "b"),
    )
    html, parsed = drawn(panel([(0.0, 1.0), (10.0, 1.0)], windows=windows))
    assert html.count('<rect class="window') == 2
    assert "A: as before" in parsed.text and "B: as changed" in parsed.text
    assert "in force" not in parsed.text
