"""Signatures: what kind of work the host does, in figures that do not depend on how much of it there is.

Owns the features, their distance, and the watch for a change of workload. Pure: memory in, memory out; must
not know a rule, a knob or what a signature is good for.

A feature weighs two amounts against each other, as the base-2 logarithm of their ratio: 1 is twice as much.
Both get FLOOR of the work (CPU time busy or waiting for a disk) added, in units in which a host that does
little else shows about 1: what is negligible beside the work weighs nothing, and twice the load is the same
signature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from tuned_spec.model import Frozen

FLOOR = 1 / 8
LIMIT = 4.0  # no feature is further from balance than this
KNOWN = 1.4  # two signatures further apart are of two workloads: by leave-one-out, docs/measurements.md
OWN = 20
IDLE_CPUS = 0.1  # CPUs at work; with less there is nothing to recognise
LEAST_SHARED = 0.75  # of the features must be known on both sides, or two signatures cannot be compared


class Feature(Frozen, frozen=True):
    """`part` (metrics, added up, in `part_unit`) against `over` (likewise). `scatter` is its standard
    deviation within one workload, as `workloads.signature_bench` measured it."""

    doc: str
    part: tuple[str, ...]
    scatter: float
    over: tuple[str, ...] = ("cpu.busy",)
    part_unit: float = 1.0
    over_unit: float = 1.0


# The units: what one fully busy host of the bench shows in a second under the load that does most of it.
FEATURES: dict[str, Feature] = {
    "kernel": Feature("time in the kernel against time in programs", ("cpu.system",), 0.88, ("cpu.user",)),
    "softirq": Feature("time in interrupts and softirqs", ("cpu.softirq",), 0.42),
    "iowait": Feature("waiting for disks", ("cpu.iowait",), 0.84),
    "switches": Feature("context switches", ("cpu.ctxt_per_s",), 0.75, part_unit=1e4),
    "interrupts": Feature("interrupts", ("cpu.irq_per_s",), 0.87, part_unit=3e3),
    "forks": Feature("processes made", ("cpu.forks_per_s",), 1.14, part_unit=100),
    "faults": Feature("page faults", ("vm.pgfault_per_s",), 1.08, part_unit=3e4),
    "reclaim": Feature(
        "pages read again, scanned or faulted in from disk",
        ("vm.refault_per_s", "vm.pgmajfault_per_s", "vm.pgscan_direct_per_s", "vm.pgscan_kswapd_per_s"),
        1.86,
        part_unit=1e3,
    ),
    "tcp": Feature("TCP segments", ("tcp.out_segs_per_s",), 0.44, part_unit=3e4),
    "opens": Feature(
        "TCP connections made, against segments",
        ("tcp.active_opens_per_s", "tcp.passive_opens_per_s"),
        0.30,
        ("tcp.out_segs_per_s",),
        part_unit=3e3,
        over_unit=3e4,
    ),
    "losses": Feature(
        "SYNs sent again and those that a listener dropped",
        ("tcp.syn_retrans_per_s", "tcp.listen_drops_per_s"),
        0.35,
        part_unit=100,
    ),
    "udp": Feature("UDP datagrams", ("udp.in_datagrams_per_s",), 0.47, part_unit=1e4),
    "packet": Feature(
        "bytes a packet",
        ("ip.in_bytes_per_s",),
        0.33,
        ("tcp.out_segs_per_s", "udp.in_datagrams_per_s"),
        part_unit=3e6,
        over_unit=1e4,
    ),
    "disk": Feature("disk requests", ("disk.reads_per_s", "disk.writes_per_s"), 1.06, part_unit=1e3),
    "reads": Feature(
        "bytes read from disk against bytes written",
        ("disk.read_bytes_per_s",),
        1.11,
        ("disk.write_bytes_per_s",),
        part_unit=1e7,
        over_unit=1e7,
    ),
    "request": Feature(
        "bytes a disk request",
        ("disk.read_bytes_per_s", "disk.write_bytes_per_s"),
        0.52,
        ("disk.reads_per_s", "disk.writes_per_s"),
        part_unit=3e7,
        over_unit=1e3,
    ),
    "queue": Feature("tasks waiting for a CPU", ("psi.cpu.some",), 0.65),
    "stall": Feature("tasks waiting for disks or memory", ("psi.io.some", "psi.memory.some"), 0.90),
}

NEEDS = frozenset(name for feature in FEATURES.values() for name in (*feature.part, *feature.over))
_WORK = ("cpu.busy", "cpu.iowait")


class Signature(Frozen, frozen=True):
    """Feature -> balance, where it is known: the mean of `n` observations, `spread` their variance."""

    features: dict[str, float]
    spread: dict[str, float] = msgspec.field(default_factory=dict)
    n: int = 1


def signature(values: Mapping[str, float], cpus: int = 1) -> Signature | None:
    """What one observation says of the work; None where the host idles or too little is known.

    A feature is unknown where none of the metrics on one of its sides is known.
    """
    if "cpu.busy" not in values:
        return None
    work = sum(values.get(name, 0.0) for name in _WORK)
    if not work * cpus >= IDLE_CPUS:  # also for nan
        return None
    features = {}
    for name, feature in FEATURES.items():
        part, over = _amount(values, feature.part), _amount(values, feature.over)
        if part is not None and over is not None:
            balance = math.log2(
                (part / feature.part_unit + FLOOR * work) / (over / feature.over_unit + FLOOR * work)
            )
            features[name] = round(min(max(balance, -LIMIT), LIMIT), 3)
    return Signature(features) if len(features) >= LEAST_SHARED * len(FEATURES) else None


def _amount(values: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    known = [values[name] for name in names if math.isfinite(values.get(name, math.nan))]
    return sum(known) if known else None


def mean(signatures: Sequence[Signature]) -> Signature:
    """All their observations as one signature. Needs one at least."""
    features, spread = {}, {}
    for name in FEATURES:
        known = [s for s in signatures if name in s.features]
        if n := sum(s.n for s in known):
            middle = sum(s.features[name] * s.n for s in known) / n
            square = (
                sum((s.spread.get(name, 0.0) + (s.features[name] - middle) ** 2) * s.n for s in known) / n
            )
            features[name], spread[name] = round(middle, 3), round(square, 4)
    return Signature(features, spread, sum(s.n for s in signatures))


def differences(a: Signature, b: Signature) -> dict[str, float]:
    """How far apart they are in each feature that both know, in units of its scatter within one workload.

    Where they stand for many observations, and those lie closer together than is usual, that counts instead
    (the feature's own weighs as OWN observations). They never make it wider: a workload seen while much else
    went on must not be mistaken for everything.
    """
    found = {}
    for name, feature in FEATURES.items():
        if name in a.features and name in b.features:
            square = feature.scatter**2 * OWN + sum(s.spread.get(name, 0.0) * (s.n - 1) for s in (a, b))
            scatter = min(feature.scatter, math.sqrt(square / (OWN + a.n + b.n - 2)))
            found[name] = abs(a.features[name] - b.features[name]) / scatter
    return found


def distance(a: Signature, b: Signature) -> float:
    """The largest of their differences: two workloads are the same only if no feature tells them apart.

    Infinite where too few features are known on both sides. One that is known on one side only says nothing,
    so the others must be enough.
    """
    found = differences(a, b)
    return max(found.values()) if len(found) >= LEAST_SHARED * len(FEATURES) else math.inf


# ------------------------------------------------------------------------ changes of workload

KEEP = 8  # observations of the present workload that are kept: what is older is forgotten
JUMP = 7.0  # one observation this far from the usual begins another workload
DRIFT = 5.0  # so do two in a row this far


class Watched(Frozen, frozen=True):
    """What `watch` remembers: the present workload's latest observations, oldest first, and since when."""

    recent: tuple[Signature, ...] = ()
    strange: Signature | None = None  # the last observation, if it was past DRIFT
    since: float = -math.inf

    @property
    def usual(self) -> Signature | None:
        """Their mean: what to learn. None before anything was seen."""
        return mean(self.recent) if self.recent else None


def watch(memory: Watched, seen: Signature | None, t: float) -> tuple[Watched, bool]:
    """Takes in one observation's signature (None: the host idles); says whether another workload began.

    An idle host is no other workload: what comes after is compared with what was before. The observation in
    which a change falls shows some of both, so the first of a workload counts only until there is a second.

    How many changes are seen and how many alarms are false: docs/measurements.md.
    """
    if seen is None:
        return memory, False
    usual = memory.usual
    if usual is None:
        return Watched((seen,), None, t), False
    off = distance(seen, usual)
    if off <= DRIFT:
        return Watched((*memory.recent, seen)[-KEEP:], None, memory.since), False
    if len(memory.recent) == 1:  # that one was mixed
        return Watched((seen,), None, memory.since), False
    if off > JUMP:
        return Watched((seen,), None, t), True
    if memory.strange is not None:
        return Watched((memory.strange, seen), None, t), True
    return Watched(memory.recent, seen, memory.since), False
