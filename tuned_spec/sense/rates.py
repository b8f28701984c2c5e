"""Two raw readings -> metrics. Pure: no file, no clock.

Owns the arithmetic of counters. What cannot be known is left out, never given as zero: a source that
is missing from either reading, a counter that was reset, an interval of no length, a ratio over nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from tuned_spec.globs import is_glob, matches, split
from tuned_spec.sense.metrics import Kind, Metric
from tuned_spec.sense.reading import Fields, Reading, Rows

Pair = tuple[Fields, Fields]  # one row: before, now

# Printed as 32-bit numbers even by 64-bit kernels; milliseconds are 49.7 days of I/O.
_SOFTNET = ("processed", "dropped", "squeezed", "received_rps", "flow_limited")
_CONNTRACK = ("insert_failed", "drop", "early_drop")
_DISK_TIMES = ("read_ms", "write_ms", "flush_ms", "busy_ms", "weighted_ms")
_SOFTIRQS = ("TIMER", "HRTIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "RCU")
_NARROW = frozenset((*_SOFTNET, *_CONNTRACK, *_DISK_TIMES, *_SOFTIRQS))
# The kernel takes back a little of these now and then (proc.rst says so of iowait): no reset.
_DIPS = frozenset({"idle", "iowait"})


def compute(table: Mapping[str, Metric], old: Reading | None, new: Reading) -> dict[str, float]:
    """The metrics of `table` that are known at `new`; levels only without an `old` that is older.

    A name with an instance is about that row; one with a glob gives a value for each row that matches.
    Rates are a second and never negative; a metric whose unit is "share" is within 0..1.
    """
    dt = new.t - old.t if old else 0.0
    before = old.sources if old and dt > 0 else {}  # without a before nothing has grown: no rates
    whole: dict[str, list[Pair]] = {}
    values: dict[str, float] = {}
    for name, metric in table.items():
        now, then = new.sources.get(metric.source), before.get(metric.source, {})
        if not now:
            continue
        instance = split(name)[1]
        if not instance:
            if metric.source not in whole:
                whole[metric.source] = _of_host(then, now)
            other = new.sources.get(metric.over_source)
            over = whole[metric.source] if other is None else _of_host({}, other)
            if (value := _value(metric, whole[metric.source], over, dt)) is not None:
                values[name] = value
            continue
        names = {row: _named(name, row) for row in now} if is_glob(instance) else {instance: name}
        others = new.sources.get(metric.over_source, {}) if metric.over_source else now
        rate = metric.kind is Kind.RATE
        for row, named in names.items():
            if not named or row not in now:
                continue
            if rate and then.get(row) is now[row]:  # nothing moved: not even read again
                values[named] = 0.0
                continue
            pairs = [(then.get(row, {}), now[row])]
            over = pairs if others is now else [({}, others.get(row, {}))]
            if (value := _value(metric, pairs, over, dt)) is not None:
                values[named] = value
    return values


@functools.lru_cache(maxsize=1 << 15)
def _named(name: str, row: str) -> str:
    """The name of one instance that a name with a glob means; "" if it does not mean that one."""
    base, glob = split(name)
    return f"{base}@{row}" if row and matches(glob, row) else ""


def _value(metric: Metric, pairs: list[Pair], over: list[Pair], dt: float) -> float | None:
    part, whole = None, None
    match metric.kind:
        case Kind.RATE:
            part, whole = _growth(metric.fields, pairs), dt
        case Kind.RATIO:
            part, whole = _growth(metric.fields, pairs), _growth(metric.over, over)
        case Kind.LEVEL:
            part, whole = _level(metric.fields, pairs), 1.0
        case Kind.LEVEL_RATIO:
            part, whole = _level(metric.fields, pairs), _level(metric.over, over)
        case Kind.RATE_RATIO:
            part, whole = _growth(metric.fields, pairs), dt * (_level(metric.over, over) or 0.0)
        case Kind.REPORTED:
            return None
    if part is None or not whole:
        return None
    value = part * metric.scale / whole
    return min(max(value, 0.0), 1.0) if metric.unit == "share" else value


def _of_host(before: Rows, now: Rows) -> list[Pair]:
    """The rows to add up for the whole host: the row "" where the source has one, else all of them; of disks
    and NICs only the busiest, by time in use, then bytes, then queue."""
    if "" in now:
        return [(before.get("", {}), now[""])]
    pairs = [(before.get(row, {}), fields) for row, fields in now.items() if not fields.get("aside")]
    if not any("busy_ms" in fields or "rx_bytes" in fields for _, fields in pairs):
        return pairs

    def business(pair: Pair) -> tuple[float, float, float]:
        busy = _growth(("busy_ms",), [pair])
        moved = _growth(("read_sectors", "write_sectors", "rx_bytes", "tx_bytes"), [pair])
        return busy or 0.0, moved or 0.0, pair[1].get("inflight", 0.0)

    return [max(pairs, key=business)]


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
