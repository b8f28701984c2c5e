"""Disks and memory over one window, in the words of the metrics.

Owns which figures are shown; `sense` reads and computes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuned_spec.globs import split
from tuned_spec.probes.answer import WINDOW_S, Unanswered, answer, figure
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sensor import Sense

_DISK = tuple(name for name, metric in METRICS.items() if metric.per == "disk")
_MEMORY = tuple(name for name in METRICS if name.startswith(("mem.", "vm.", "psi.memory.")))
# lines of /proc/meminfo that say where the memory is
_MEMINFO = (
    "MemTotal MemFree MemAvailable Buffers Cached SwapCached Active(anon) Inactive(anon) Active(file) "
    "Inactive(file) Unevictable Dirty Writeback AnonPages Mapped Shmem KReclaimable SUnreclaim KernelStack "
    "PageTables SwapTotal SwapFree Zswap CommitLimit Committed_AS AnonHugePages HugePages_Total "
    "HugePages_Free Hugetlb"
)


def observed(names: Iterable[str], root: Path) -> tuple[dict[str, float], float]:
    """These metrics over one window, and its seconds."""
    sense = Sense(root, wanted=frozenset(names))
    try:
        began = time.monotonic()
        sense.observe(began)
        time.sleep(WINDOW_S)
        end = time.monotonic()
        return sense.observe(end).values, end - began
    finally:
        sense.close()


def disks(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """The busiest first; figures of nothing are left out."""
    values, seconds = observed((f"{name}@*" for name in _DISK), root)
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        metric, disk = split(name)
        if disk and metric in _DISK:
            found.setdefault(disk, {})[metric.removeprefix("disk.")] = value
    if not found:
        raise Unanswered("disks: this host shows none")
    busiest = sorted(found, key=lambda disk: -found[disk].get("util", 0.0))
    rows = [
        {"disk": disk, **{name: figure(value) for name, value in found[disk].items() if value}}
        for disk in busiest
    ]
    return answer({"over_s": figure(seconds)}, {"disks": rows})


def memory(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """Figures of nothing are left out."""
    values, seconds = observed(_MEMORY, root)
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise Unanswered(f"memory: {error}") from error
    words = {line.partition(":")[0]: line.split() for line in lines}
    kib = {name: int(words[name][1]) for name in _MEMINFO.split() if name in words and len(words[name]) > 2}
    moved = {name: figure(values[name]) for name in _MEMORY if values.get(name)}
    return answer({"over_s": figure(seconds), "KiB": {n: v for n, v in kib.items() if v}, "metrics": moved})
