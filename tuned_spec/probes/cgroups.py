"""Cgroups of version 2: one of them over one window, and those under most pressure.

Owns which files and figures are shown. A cgroup's name is whatever somebody chose.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Mapping
from pathlib import Path

from tuned_spec.globs import split
from tuned_spec.paths import cgroup2_root
from tuned_spec.probes.answer import Unanswered, answer, figure
from tuned_spec.probes.host import observed
from tuned_spec.probes.redact import plain, starred
from tuned_spec.sense.metrics import METRICS

MOST = 2000  # cgroups looked at for the worst
NAME_SHOWN = 160
WORST = 10
_METRICS = tuple(name for name in METRICS if name.startswith("cgroup."))
# what an owner sets, as the kernel shows it: admin-guide/cgroup-v2.rst
_LIMITS = (
    "cpu.weight cpu.weight.nice cpu.idle cpu.max cpu.max.burst cpu.uclamp.min cpu.uclamp.max cpuset.cpus "
    "cpuset.cpus.effective cpuset.mems io.weight io.max io.latency memory.min memory.low memory.high "
    "memory.max memory.swap.high memory.swap.max memory.zswap.max memory.oom.group pids.max cgroup.type "
    "cgroup.freeze"
)
_SHOWN = 200  # characters of one file
_AVERAGE = re.compile(rb"(some|full) avg10=([0-9.]+) avg60=([0-9.]+)")


def _mount(root: Path) -> Path:
    mount = cgroup2_root(root)
    if mount is None:
        raise Unanswered("no cgroup2 file system is mounted on this host")
    return mount


def one(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """`args`: cgroup, its path below the root. Figures of nothing are left out."""
    path = args["cgroup"]
    place = _mount(root) / path
    if not place.is_dir():
        raise Unanswered(f"cgroup: {path}: there is no such cgroup now")
    values, seconds = observed((f"{name}@{path}" for name in _METRICS), root)
    found = {
        split(name)[0].removeprefix("cgroup."): v for name, v in values.items() if split(name)[1] == path
    }
    limits = {}
    for name in _LIMITS.split():
        try:
            limits[name] = "; ".join((place / name).read_text().split("\n")).strip("; ")[:_SHOWN]
        except OSError:
            pass  # its controller is off here, or the kernel does not have it
    return answer(
        {
            "cgroup": path,
            "over_s": figure(seconds),
            "limits": {name: text for name, text in limits.items() if text},
            "metrics": {name: figure(value) for name, value in found.items() if value},
        }
    )


def pressure(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """`args`: by, a resource. A cgroup's pressure is never less than that of one within it, so the worst are
    found by following the worst, without a look at all of them."""
    by, mount = args["by"], _mount(root)
    heap, rows, seen = [_seen(mount, "", by)], list[dict[str, object]](), 1
    while heap and len(rows) < WORST and seen < MOST:
        least, path, averages = heapq.heappop(heap)
        if path and averages:
            if least == 0:
                break
            rows.append({"cgroup": starred(plain(path))[:NAME_SHOWN], **averages})
        try:
            below = [entry.name for entry in os.scandir(mount / path) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # it has gone
        for name in below[: MOST - seen]:
            heapq.heappush(heap, _seen(mount, f"{path}/{name}" if path else name, by))
        seen += len(below)
    facts: dict[str, object] = {"by": by, "unit": "percent of the time, averages"}
    try:
        facts["host"] = _averages((root / "proc/pressure" / by).read_bytes())
    except OSError:
        pass
    if "host" not in facts and not rows:
        raise Unanswered("pressure: stall information is off here (boot with psi=1)")
    if seen >= MOST:
        facts["note"] = f"only {MOST} cgroups were looked at"
    return answer(facts, {"worst": rows})


def _seen(mount: Path, path: str, by: str) -> tuple[float, str, dict[str, float]]:
    """For the heap: the least is the worst. One that shows none may hold some that do."""
    try:
        averages = _averages((mount / path / f"{by}.pressure").read_bytes())
    except OSError:
        return (float("-inf"), path, {})
    return (-averages.get("some_10s", 0.0), path, averages)


def _averages(data: bytes) -> dict[str, float]:
    found = {}
    for which, ten, sixty in _AVERAGE.findall(data):
        found[f"{which.decode()}_10s"], found[f"{which.decode()}_60s"] = float(ten), float(sixty)
    return found
