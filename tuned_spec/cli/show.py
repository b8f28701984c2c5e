"""How the commands print: tables, times, numbers, colours, JSON. Knows nothing of tuning."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import msgspec

from tuned_spec.errors import UsageError

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
UNITS_S = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def paint(text: str, colour: str) -> str:
    """Coloured on a terminal, plain elsewhere and where NO_COLOR asks for it (no-color.org)."""
    if not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{CODES[colour]}m{text}\x1b[0m"


def heading(text: str) -> str:
    return paint(text, "bold")


def width() -> int:
    """Of the terminal, at least 60; without end where there is none: `grep` wants whole lines.

    As shutil.get_terminal_size, whose import would cost more than all else here.
    """
    if not sys.stdout.isatty():
        return sys.maxsize
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        columns = 100
    return max(60, columns)


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = (), indent: int = 0) -> str:
    """Columns aligned; where they are wider than the terminal the widest wrap, but never the first, nor
    a word: names and paths can be searched for and copied."""
    lines = [tuple(map(str, row)) for row in ([head] if head else []) + list(rows)]
    if not lines:
        return ""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    least[-1] = 0  # behind it stands nothing: one long word that sticks out must not draw all lines with it
    spare = [room - max(12, word) for room, word in zip(widths, least, strict=True)]
    spare[0] = 0
    over = indent + sum(widths) + 2 * (len(widths) - 1) - width()
    while over > 0 and max(spare) > 0:
        widest = max((i for i, s in enumerate(spare) if s > 0), key=widths.__getitem__)
        widths[widest] -= 1
        spare[widest] -= 1
        over -= 1
    out = []
    for number, line in enumerate(lines):
        cells = [_fold(cell, w) for cell, w in zip(line, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            text = "  ".join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip()
            out.append(" " * indent + (heading(text) if head and number == 0 else text))
    return "\n".join(out)


def _fold(cell: str, room: int) -> list[str]:
    if len(cell) <= room:
        return [cell]
    return textwrap.wrap(cell, room, break_on_hyphens=False, break_long_words=False)


def wrapped(text: str, indent: int = 0) -> str:
    """Filled to the terminal (to 100 columns: longer lines are hard to read), all but the first indented."""
    columns = width()
    return textwrap.fill(
        text,
        min(columns, 100) if columns < sys.maxsize else columns,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def json_out(document: object) -> None:
    """One JSON document on stdout, indented: people read it too."""
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


# ------------------------------------------------------------------------- words


def safe(text: object) -> str:
    """Foreign words on one line, with nothing in them that a terminal would obey or hide."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def value(v: object) -> str:
    """A knob's value as one types it: tuples with spaces."""
    if isinstance(v, (list, tuple)):
        return " ".join(str(part) for part in v)
    return str(v)


def writes(pairs: object) -> str:
    """`[{"knob": k, "value": v}, ...]` as `k = v, ...`."""
    if not isinstance(pairs, (list, tuple)):
        return ""
    return ", ".join(f"{w['knob']} = {value(w['value'])}" for w in pairs if isinstance(w, Mapping))


def moves(knobs: object) -> str:
    """`[{"knob": k, "old": v, "new": w}, ...]` as `k v -> w, ...`."""
    if not isinstance(knobs, (list, tuple)):
        return ""
    pairs = [m for m in knobs if isinstance(m, Mapping)]
    return ", ".join(f"{m['knob']} {value(m['old'])} -> {value(m['new'])}" for m in pairs)


def number(x: object) -> str:
    """Three or four digits that matter."""
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        return str(x)
    if isinstance(x, int) or (abs(x) < 1e9 and x == int(x)):
        return str(int(x))
    return f"{x:.4g}"


def count(n: int, one: str, many: str = "") -> str:
    """`1 rule`, `2 rules`."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def percent(x: object) -> str:
    return f"{x * 100:+.1f}%" if isinstance(x, (int, float)) else "?"


def span(seconds: float) -> str:
    """A duration, two units at most: `43s`, `2min 5s`, `3h 10min`, `12d`."""
    s = max(0.0, seconds)
    if s < 10:
        return f"{s:.1f}s"
    s = int(s)
    for big, small, of in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if s >= of:
            rest = s % of // {"h": 3600, "min": 60, "s": 1}[small]
            return f"{s // of}{big}" + (f" {rest}{small}" if rest else "")
    return f"{s}s"


def when(wall: float, now: float) -> str:
    """A moment by the local clock: the time today, the date and time before."""
    then = time.localtime(wall)
    today = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d", time.localtime(now))
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)


def seconds(text: str, flag: str) -> float:
    """`90`, `60s`, `5min`, `1h`, `2d` in seconds; UsageError naming the flag."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :] or "s"
    try:
        result = float(digits) * UNITS_S[unit]
        if not 0 < result < 1e9:
            raise ValueError
    except (ValueError, KeyError):
        raise UsageError(
            f"{flag} {text}: not a time; write a number and a unit, as in 60s, 5min, 1h, 2d"
        ) from None
    return result
