"""One snapshot a tick: ties the sources to the metrics, and says how soon to look again.

Owns which files are read and which two readings make an interval. Must not know a rule, a knob or the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuned_spec.model import Observation
from tuned_spec.sense import metrics
from tuned_spec.sense.metrics import Kind, Metric
from tuned_spec.sense.rates import compute
from tuned_spec.sense.sources import Reading, cgroup2_root, open_source

# Read in any case: `pace` needs them.
_ALWAYS = frozenset({metrics.STAT, metrics.PSI_CPU, metrics.PSI_MEMORY, metrics.PSI_IO})
STIRS_BUSY = 0.15  # share of all CPUs
STIRS_TIMES, STIRS_MORE = 2.0, 500.0  # context switches a second, over the calm
# CPU time is counted in ticks of 10 ms: over less than ten of them a share means little.
MIN_WINDOW_S = 0.1


class Sense:
    """Reads what the `wanted` metrics (None: all) and the pressure of `cgroups` need, and what `pace` needs.

    `cgroups` are paths below the root of cgroup2. An observation holds every metric of the files that are
    read, wanted or not: they come for nothing.
    """

    def __init__(self, root: Path, cgroups: Sequence[str] = (), wanted: frozenset[str] | None = None) -> None:
        self._refused = [path for path in cgroups if metrics.cgroup_path(path) is None]
        own = {
            name
            for path in filter(None, map(metrics.cgroup_path, cgroups))
            for name in metrics.of_cgroup(path)
        }
        self._wanted = frozenset(metrics.METRICS if wanted is None else wanted) | own
        table = dict(metrics.METRICS)
        for path in metrics.cgroups_in(self._wanted):
            table |= metrics.of_cgroup(path)
        sources = {table[name].source for name in self._wanted if name in table} | _ALWAYS
        self._table = {name: metric for name, metric in table.items() if metric.source in sources}
        cgroup2 = cgroup2_root(root)
        self._sources = [
            open_source(source, _fields(source, self._table), root, cgroup2) for source in sorted(sources)
        ]
        self._stat = next(source for source in self._sources if source.name == metrics.STAT)
        self._glanced: Reading | None = None  # /proc/stat alone, at the last look of either kind
        self._calm_per_s = 0.0  # context switches at the last full look
        self._old: Reading | None = None
        self._older: Reading | None = None

    def observe(self, t: float) -> Observation:
        """The metrics at `t` (seconds, CLOCK_BOOTTIME). The first call gives levels only.

        Rates are over the time since the last call that was at least MIN_WINDOW_S ago.
        """
        new = self._read(t)
        if self._old and t < self._old.t:
            self._old = self._older = None  # another clock: start over
        base = self._old
        if base and t - base.t < MIN_WINDOW_S:
            base = self._older
        else:
            self._older, self._old = self._old, new
        values = compute(self._table, base, new)
        self._glanced = Reading(t, {k: v for k, v in new.sources.items() if k == metrics.STAT})
        self._calm_per_s = values.get("cpu.ctxt_per_s", 0.0)
        return Observation(t, values)

    def stirs(self, t: float) -> bool:
        """Whether an idle host has begun to work since the last look: one file, cheap every second.

        Nothing goes on without context switches; what is calm for this host is what the last full look saw.
        """
        rows = self._stat.read(t)
        if rows is None:
            return False
        before, self._glanced = self._glanced, Reading(t, {metrics.STAT: rows})
        pulse = {name: metrics.METRICS[name] for name in ("cpu.busy", "cpu.ctxt_per_s")}
        values = compute(pulse, before, self._glanced)
        switches = values.get("cpu.ctxt_per_s", 0.0)
        return (
            values.get("cpu.busy", 0.0) > STIRS_BUSY or switches > STIRS_TIMES * self._calm_per_s + STIRS_MORE
        )

    def absent(self) -> dict[str, str]:
        """Wanted metric -> why this host cannot deliver it now. Reads the files afresh."""
        sources = self._read(self._old.t if self._old else float("-inf")).sources
        whys = {source.name: source.why for source in self._sources}
        reasons = {
            f"cgroup.{path}": "not the path of a cgroup below the root of cgroup2" for path in self._refused
        }
        for name in sorted(self._wanted):
            metric = self._table.get(name) or metrics.find(name)
            if metric is None:
                reasons[name] = "there is no metric of this name"
            elif metric.kind is not Kind.REPORTED and (why := _lacking(metric, sources, whys)):
                reasons[name] = why
        return reasons

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _read(self, t: float) -> Reading:
        read = ((source.name, source.read(t)) for source in self._sources)
        return Reading(t, {name: rows for name, rows in read if rows is not None})


def _fields(source: str, table: dict[str, Metric]) -> list[str]:
    used = (metric for metric in table.values() if metric.source == source)
    return sorted({field for metric in used for field in (*metric.fields, *metric.over)})


def _lacking(metric: Metric, sources: dict[str, dict[str, dict[str, float]]], whys: dict[str, str]) -> str:
    """Why this metric cannot be had from these figures; "" if it can."""
    if metric.source not in sources:
        return whys[metric.source]
    rows = sources[metric.source].values()
    if not rows:
        return f"{metric.source} lists nothing that counts here (whole disks, CPUs)"
    for fields in (metric.fields, metric.over):
        if fields and not any(field in row for row in rows for field in fields):
            return f"{metric.source}: this kernel does not show {' or '.join(fields)}"
    if metric.over == ("SwapTotal",) and not any(row["SwapTotal"] for row in rows):
        return "this host has no swap"
    return ""


# metric -> the level at which the host counts as fully busy
_BUSY_AT = {
    "cpu.busy": 0.3,
    "cpu.iowait": 0.1,
    "disk.util": 0.3,
    "psi.cpu.some": 0.05,
    "psi.memory.some": 0.01,
    "psi.io.some": 0.05,
}
BUSY_S, IDLE_S = 1.0, 5.0


def pace(observation: Observation) -> float:
    """Seconds to the next tick: IDLE_S on an idle host, BUSY_S on a busy one or one not known to be idle."""
    known = [
        observation.values[name] / level for name, level in _BUSY_AT.items() if name in observation.values
    ]
    return IDLE_S - (IDLE_S - BUSY_S) * min(1.0, max(known, default=1.0))
