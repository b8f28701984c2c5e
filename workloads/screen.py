"""The demo's live view: one screen as large as the terminal, or plain lines where there is none.

Owns how things look while they happen. Knows what it is handed, and measures nothing.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence

WIDTH, WIDEST = 80, 110  # where there is no terminal, and on the widest one: longer lines read badly
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

    def lines(self, width: int) -> list[str]:
        """All that was said, in its colours."""
        return [
            f"\x1b[{COLOURS.get(tone, '0')}m{line}\x1b[0m"
            for seconds, text, tone in self.said
            for line in wrapped(f"{seconds:5.0f} s  {text}", width)
        ]

    def draw(
        self, seconds: float, phases: str, metric: str, values: Sequence[float], facts: Sequence[str]
    ) -> None:
        """One frame: phases, the metric's last values as bars, facts, and the last things said."""
        if not self.live:
            return
        width, height = columns(), shutil.get_terminal_size().lines
        head = [f"{self.title:<{width - 8}}{seconds:6.0f} s", phases, "", metric, bars(values, width), ""]
        head += [*facts, "", "-" * width]
        room = max(1, height - 1 - len(head))
        frame = [line[:width] for line in head] + self.lines(width)[-room:]
        print(HOME + "".join(f"{line}\x1b[K\n" for line in frame) + "\x1b[J", end="", flush=True)

    def close(self) -> None:
        """Leave the whole story on the terminal: what the last frame had no room for as well."""
        if self.live:
            print(HOME + CLEAR + SHOW + "\n".join(self.lines(columns())), flush=True)
            self.live = False


def columns() -> int:
    return min(WIDEST, shutil.get_terminal_size((WIDTH, 24)).columns)


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
    """Columns as wide as they need; rows that would pass the terminal's width are told in words instead."""
    width = columns()
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        )
    label = max(len(row[0]) for row in rows)
    told: list[str] = []
    for first, *cells in rows:
        words = ", ".join(f"{name} {cell}" for name, cell in zip(head[1:], cells, strict=True))
        told += wrapped(f"{first:<{label}}  {words}", width, label + 2)
    return "\n".join(told)
