"""One snapshot a tick: ties the sources to the metrics, and says how soon to look again.

Owns which sources are read and which two readings make an interval. Must not know a rule, a knob or the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuned_spec.globs import is_glob, matches, split
from tuned_spec.model import Observation
from tuned_spec.sense import metrics
from tuned_spec.sense.metrics import METRICS, Kind, Metric
from tuned_spec.sense.rates import compute
from tuned_spec.sense.reading import Reading, Rows, Want
from tuned_spec.sense.sources import Source, open_source

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
_PULSE = ("cpu.busy", "cpu.ctxt_per_s")
# In every observation: `pace` and `stirs` need them. Disks only where a rule reads them.
ALWAYS = frozenset((*_BUSY_AT, *_PULSE)) - {"disk.util"}
STIRS_BUSY = 0.15  # share of all CPUs
STIRS_TIMES, STIRS_MORE = 2.0, 500.0  # context switches a second, over the calm
# CPU time is counted in ticks of 10 ms: over less than ten of them a share means little.
MIN_WINDOW_S = 0.1


class Sense:
    """Reads what the `wanted` metrics (None: all without an instance) and the pressure of `cgroups` need, and
    what `pace` needs. What is not wanted costs nothing: its source is not opened, its code not imported.

    `cgroups` are paths below the root of cgroup2. A wanted metric may have an instance, or a glob: then an
    observation holds the instances that are there at that moment, by their names.
    """

    def __init__(self, root: Path, cgroups: Sequence[str] = (), wanted: frozenset[str] | None = None) -> None:
        self._refused = [path for path in cgroups if metrics.cgroup_path(path) is None]
        if wanted is None:
            wanted = frozenset(name for name, metric in METRICS.items() if metric.alone)
        own = (metrics.of_cgroup(path) for path in filter(None, map(metrics.cgroup_path, cgroups)))
        self._root, self._own = root, frozenset[str]().union(*own)
        self._glanced: Reading | None = None  # /proc/stat alone, at the last look of either kind
        self._calm_per_s = 0.0  # context switches at the last full look
        self._old: Reading | None = None
        self._older: Reading | None = None
        self._wants: dict[str, Want] = {}
        self._sources: list[Source] = []
        self.want(wanted)

    def want(self, wanted: frozenset[str]) -> None:
        """These from now on. A source that has to be read otherwise than before begins anew: rates of its
        figures are unknown for one look."""
        self._wanted = wanted | self._own
        names = sorted(self._wanted | ALWAYS)
        found = {name: metric for name in names if (metric := metrics.find(name))}
        self._table = {name: metric for name, metric in found.items() if metric.kind is not Kind.REPORTED}
        before, self._wants = self._wants, _wants(self._table, self._root)
        groups = {name for name in before.keys() | self._wants.keys() if name.startswith(metrics.CGROUP2)}
        anew = {
            name for name in before.keys() | self._wants.keys() if before.get(name) != self._wants.get(name)
        }
        anew |= groups if groups & anew else set()  # those are read by one walk
        for source in self._sources:
            if source.name in anew:
                source.close()
        kept = [source for source in self._sources if source.name not in anew]
        self._sources = kept + _open({name: want for name, want in self._wants.items() if name in anew})
        self._stat = next(source for source in self._sources if source.name == metrics.STAT)
        self._old, self._older, self._glanced = (
            Reading(r.t, {name: rows for name, rows in r.sources.items() if name not in anew}) if r else None
            for r in (self._old, self._older, self._glanced)
        )

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
        values = compute({name: METRICS[name] for name in _PULSE}, before, self._glanced)
        switches = values.get("cpu.ctxt_per_s", 0.0)
        return (
            values.get("cpu.busy", 0.0) > STIRS_BUSY or switches > STIRS_TIMES * self._calm_per_s + STIRS_MORE
        )

    def absent(self) -> dict[str, str]:
        """Wanted metric -> why this host cannot deliver it now. Reads the files afresh."""
        sources = self._read(self._old.t if self._old else float("-inf")).sources
        whys = {source.name: source.why for source in self._sources}
        reasons = {
            f"cgroup {path}": "not the path of a cgroup below the root of cgroup2" for path in self._refused
        }
        for name in sorted(self._wanted):
            metric = metrics.find(name)
            if metric is None:
                reasons[name] = _unknown(name)
            elif metric.kind is not Kind.REPORTED and (why := _lacking(name, metric, sources, whys)):
                reasons[name] = why
        return reasons

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _read(self, t: float) -> Reading:
        read = ((source.name, source.read(t)) for source in self._sources)
        return Reading(t, {name: rows for name, rows in read if rows is not None})


def _wants(table: Mapping[str, Metric], root: Path) -> dict[str, Want]:
    """Source -> what all these metrics together need of it."""
    fields: dict[str, set[str]] = {}
    rows: dict[str, set[str]] = {}
    for name, metric in table.items():
        parts = [(metric.source, metric.fields), (metric.over_source or metric.source, metric.over)]
        for source, used in parts:
            fields.setdefault(source, set()).update(used)
            if instance := split(name)[1]:
                rows.setdefault(source, set()).add(instance)
    return {
        source: Want(tuple(sorted(used)), tuple(sorted(rows.get(source, ()))), root)
        for source, used in sorted(fields.items())
    }


def _open(wants: Mapping[str, Want]) -> list[Source]:
    groups = {name: want for name, want in wants.items() if name.startswith(metrics.CGROUP2)}
    sources: list[Source] = [open_source(name, want) for name, want in wants.items() if name not in groups]
    if groups:
        from tuned_spec.sense.cgroups import open_cgroups  # late: most policies name none

        sources += open_cgroups(groups, next(iter(groups.values())).root)
    return sources


_MISSING = {"speed": "the link does not say its speed: it is down, or virtual"}


def _unknown(name: str) -> str:
    base, instance = split(name)
    metric = METRICS.get(base)
    if metric is None:
        return "there is no metric of this name"
    if not metric.per:
        return f"{base} has no instances: write it without @{instance}"
    what, example = metrics.PER[metric.per]
    return f"not the name of a {metric.per}: write {base}@ and {example}" if instance else f"{base}: {what}"


def _lacking(name: str, metric: Metric, sources: Mapping[str, Rows], whys: Mapping[str, str]) -> str:
    """Why this metric cannot be had from these figures; "" if it can, or could if an instance came."""
    instance = split(name)[1]
    parts = [(metric.source, metric.fields), (metric.over_source or metric.source, metric.over)]
    for source, fields in parts:
        if source not in sources:
            return whys[source]
        if source == metrics.SOCK_DIAG:
            return ""  # what no connection shows now, another will
        rows = sources[source]
        if instance:
            rows = {row: rows[row] for row in rows if row and matches(instance, row)}
        if not rows and is_glob(instance):
            return whys[source]
        if not rows:
            nothing = f"{source} does not list {instance or 'what counts here (whole disks, hardware, CPUs)'}"
            return whys[source] or nothing
        if fields and not any(field in row for row in rows.values() for field in fields):
            if source.startswith(metrics.CGROUP2) and fields == ("0",):
                return f"{source}: no limit is set"
            return f"{source}: " + (
                _MISSING.get(fields[0]) or f"this kernel does not show {' or '.join(fields)}"
            )
    if metric.over == ("SwapTotal",) and not any(row["SwapTotal"] for row in rows.values()):
        return "this host has no swap"
    return ""


def pace(observation: Observation) -> float:
    """Seconds to the next tick: IDLE_S on an idle host, BUSY_S on a busy one or one not known to be idle."""
    known = [
        observation.values[name] / level for name, level in _BUSY_AT.items() if name in observation.values
    ]
    return IDLE_S - (IDLE_S - BUSY_S) * min(1.0, max(known, default=1.0))
