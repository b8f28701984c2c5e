"""Two raw readings -> metrics. Pure: no file, no clock.

Owns the arithmetic of counters. What cannot be known is left out, never given as zero: a source that
is missing from either reading, a counter that was reset, an interval of no length, a ratio over nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuned_spec.sense.metrics import DISKSTATS, Kind, Metric
from tuned_spec.sense.sources import Fields, Reading, Rows

Pair = tuple[Fields, Fields]  # one row: before, now

# Printed by 64-bit kernels as 32-bit numbers: softnet_stat, and diskstats' milliseconds (49.7 days of I/O).
_NARROW = frozenset({"dropped", "squeezed", "read_ms", "write_ms", "busy_ms"})
# The kernel takes back a little of these now and then (proc.rst says so of iowait): no reset.
_DIPS = frozenset({"idle", "iowait"})


def compute(table: Mapping[str, Metric], old: Reading | None, new: Reading) -> dict[str, float]:
    """The metrics of `table` that are known at `new`; levels only without an `old` that is older.

    Rates are a second and never negative; a metric whose unit is "share" is within 0..1.
    """
    dt = new.t - old.t if old else 0.0
    before = old.sources if old and dt > 0 else {}  # without a before nothing has grown: no rates
    rows = {name: _pairs(name, before.get(name, {}), now) for name, now in new.sources.items()}
    values = {}
    for name, metric in table.items():
        if pairs := rows.get(metric.source):
            value = _value(metric, pairs, dt)
            if value is not None:
                values[name] = min(max(value, 0.0), 1.0) if metric.unit == "share" else value
    return values


def _value(metric: Metric, pairs: list[Pair], dt: float) -> float | None:
    match metric.kind:
        case Kind.RATE:
            growth = _growth(metric.fields, pairs)
            return growth * metric.scale / dt if growth is not None else None
        case Kind.RATIO:
            part, whole = _growth(metric.fields, pairs), _growth(metric.over, pairs)
            return part / whole if part is not None and whole else None
        case Kind.LEVEL:
            level = _level(metric.fields, pairs)
            return level * metric.scale if level is not None else None
        case Kind.LEVEL_RATIO:
            part, whole = _level(metric.fields, pairs), _level(metric.over, pairs)
            return part / whole if part is not None and whole else None
        case Kind.REPORTED:
            return None


def _pairs(source: str, before: Rows, now: Rows) -> list[Pair]:
    """The rows to add up; of disks only the busiest, by time in use, then bytes, then queue."""
    pairs = [(before.get(row, {}), fields) for row, fields in now.items()]
    if source != DISKSTATS:
        return pairs

    def business(pair: Pair) -> tuple[float, float, float]:
        busy = _growth(("busy_ms",), [pair])
        moved = _growth(("read_sectors", "write_sectors"), [pair])
        return busy or 0.0, moved or 0.0, pair[1].get("inflight", 0.0)

    return [max(pairs, key=business)] if pairs else []


def _growth(fields: Iterable[str], pairs: list[Pair]) -> float | None:
    """How much the fields grew together. None if there is none of them, or one was reset."""
    total: float | None = None
    for before, now in pairs:
        for field in fields:
            if field in before and field in now:
                grown = delta(field, before[field], now[field])
                if grown is None:
                    return None
                total = (total or 0) + grown
    return total


def _level(fields: Iterable[str], pairs: list[Pair]) -> float | None:
    there = [now[field] for _, now in pairs for field in fields if field in now]
    return sum(there) if there else None


def delta(field: str, before: float, now: float) -> float | None:
    """How much a counter grew. A smaller one has wrapped if it went from the top quarter of its width
    to the bottom quarter, and is None (reset, unknown) otherwise."""
    if now >= before:
        return now - before
    if field in _DIPS:
        return 0
    top = 2**32 if field in _NARROW else 2**64
    wrapped = top * 3 // 4 <= before < top and now < top // 4
    return now + top - before if wrapped else None
