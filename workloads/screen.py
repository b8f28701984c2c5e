"""The demo's live view: one screen of 80 columns where there is a terminal, plain lines where there is none.

Owns how things look while they happen. Knows what it is handed, and measures nothing.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence

WIDTH = 80
BARS = " ▁▂▃▄▅▆▇█"
COLOURS = {"changed": "33", "good": "32", "bad": "31", "back": "36", "plain": "0"}
CLEAR, HOME, HIDE, SHOW = "\x1b[2J", "\x1b[H", "\x1b[?25l", "\x1b[?25h"


class Screen:
    """Redrawn in place on a terminal. Elsewhere only what is said is printed, each sentence once."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.live = sys.stdout.isatty() and shutil.get_terminal_size().lines >= 22
        self.said: list[tuple[float, str, str]] = []
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        if self.live:
            print(HIDE + CLEAR, end="", flush=True)

    def say(self, seconds: float, text: str, tone: str = "plain") -> None:
        self.said.append((seconds, text, tone))
        if not self.live:
            print(f"{seconds:6.1f} s  {text}", flush=True)

    def draw(
        self, seconds: float, phases: str, metric: str, values: Sequence[float], facts: Sequence[str]
    ) -> None:
        """One frame: phases, the metric's last values as bars, facts, and the last things said."""
        if not self.live:
            return
        lines = [f"{self.title:<{WIDTH - 8}}{seconds:6.0f} s", phases, "", metric, bars(values, WIDTH), ""]
        lines += [*facts, "", "-" * WIDTH]
        room = 22 - len(lines)
        shown = [
            (line, tone) for t, text, tone in self.said for line in wrapped(f"{t:5.0f} s  {text}", WIDTH)
        ]
        frame = [line[:WIDTH] for line in lines]
        frame += [f"\x1b[{COLOURS.get(tone, '0')}m{line}\x1b[0m" for line, tone in shown[-room:]]
        print(HOME + "".join(f"{line}\x1b[K\n" for line in frame) + "\x1b[J", end="", flush=True)

    def close(self) -> None:
        if self.live:
            print(SHOW, end="", flush=True)
            self.live = False


def bars(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars from zero to the largest of them."""
    shown = [v for v in values if math.isfinite(v)][-width:]
    most = max(shown, default=0.0) or 1.0
    return "".join(BARS[min(8, max(0, math.ceil(v / most * 8)))] for v in shown)


def wrapped(text: str, width: int, indent: int = 9) -> list[str]:
    """Lines of at most `width` columns, broken at blanks where there are any."""
    lines = []
    while len(text) > width:
        at = text.rfind(" ", indent + 1, width + 1)
        at = width if at < 0 else at
        lines.append(text[:at])
        text = " " * indent + text[at:].lstrip()
    return [*lines, text]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; a row that would pass WIDTH is printed as a list instead."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if sum(widths) + 2 * (len(widths) - 1) <= WIDTH:
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        )
    label = max(map(len, head))
    return "\n\n".join(
        "\n".join(
            line
            for name, cell in zip(head, row, strict=True)
            for line in wrapped(f"{name:<{label}}  {cell}", WIDTH, label + 2)
        )
        for row in rows
    )
