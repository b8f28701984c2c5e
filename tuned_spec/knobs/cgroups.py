"""Knobs of cgroup v2, one of each for every cgroup: where they are, and who must be asked to change them.

Owns the names of instances (a path below the cgroup root; with a disk, `PATH:vda`), and the question whose a
cgroup is. systemd writes the files of its units' cgroups itself, at each daemon-reload and restart: those
knobs are reached through its own properties. Below a unit with Delegate=yes, and without systemd, the files
are the knobs. Must not know how either is read or written (reach.unit, reach.cgroup).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..errors import KnobAbsent
from ..model import Knob
from ..paths import cgroup2_root
from .reach import unit

MOST = 20_000  # cgroups looked at in one walk

# File (and key) of a cgroup -> the property by which systemd writes it. It leaves the others alone.
PROPERTY = {
    "cpu.idle": "CPUIdle",
    "cpu.weight": "CPUWeight",
    "cpu.max": "CPUQuota",
    "cpuset.cpus": "AllowedCPUs",
    "cpuset.mems": "AllowedMemoryNodes",
    "io.latency/target": "IODeviceLatency",
    "io.max/rbps": "IOReadBandwidthMax",
    "io.max/riops": "IOReadIOPSMax",
    "io.max/wbps": "IOWriteBandwidthMax",
    "io.max/wiops": "IOWriteIOPSMax",
    "io.weight": "IOWeight",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "memory.zswap.max": "MemoryZSwapMax",
    "pids.max": "TasksMax",
}
# Files that systemd writes at each reload, from what cannot be set at run time -> what to do instead
UNIT_FILE_ONLY = {"memory.oom.group": "set OOMPolicy=kill there"}
# Files whose form is reach.cgroup's; each other is one plain number.
FORMED = ("cpu.uclamp.", "cpuset.", "io.", "memory.reclaim")
# Properties that came after the controllers' first: asked for, never taken from a version.
LATE = ("MemoryZSwapMax",)
_NO_KERNEL = "this kernel does not offer it"
UNITS = (".service", ".slice", ".scope", ".mount", ".socket", ".swap")


def address(root: Path, knob: Knob) -> str:
    """Where the knob is. KnobAbsent says what this host lacks."""
    place, file, path, disk = _placed(root, knob)
    directory, (name, _, key) = place / path, file.partition("/")
    if not directory.is_dir():
        raise KnobAbsent(knob.id, "probe", f"there is no cgroup {directory}", hint="what was in it has ended")
    owner = unit_of(root, place, path)
    if owner and name in UNIT_FILE_ONLY:
        what = f"systemd itself writes {name} of {owner}, and only from its unit file"
        raise KnobAbsent(knob.id, "probe", what, hint=UNIT_FILE_ONLY[name])
    if owner and _by_systemd(file):
        if _is_lacking(directory, name):
            raise KnobAbsent(knob.id, "probe", f"{directory / name} is not there", hint=_NO_KERNEL)
        return f"unit:{owner}/{PROPERTY[file]}" + (f"/{disk}" if disk else "")
    if not (directory / name).exists():
        hint = _NO_KERNEL
        if not _is_enabled(directory, name):
            hint = f"echo +{name.partition('.')[0]} > {directory.parent / 'cgroup.subtree_control'}"
        raise KnobAbsent(knob.id, "probe", f"{directory / name} is not there", hint=hint)
    if key:
        return f"cgroup:{directory / name}/{_number(root, knob, disk)}/{key}"
    return f"cgroup:{directory / name}" if name.startswith(FORMED) else str(directory / name)


def identity(root: Path, knob: Knob) -> str:
    """The inode of the cgroup's directory: the name may come back. "" for a setting of systemd's, which is
    the unit's and not the cgroup's: it outlives a restart, and so must the way back."""
    if address(root, knob).startswith("unit:"):
        return ""
    place, _, path, _ = _placed(root, knob)
    return f"inode:{(place / path).stat().st_ino}@{place / path}"


def instances(root: Path, entry: Knob) -> tuple[str, ...]:
    """The cgroups with a process in them or below that have the knob, sorted; or with each disk."""
    place, file = cgroup2_root(root), _file(entry)
    name, _, key = file.partition("/")
    if place is None or name.partition(".")[0] not in _words(place / "cgroup.controllers"):
        return ()
    found = [
        path
        for path in _populated(place)
        if (place / path / name).exists()
        or (unit_of(root, place, path) and _by_systemd(file) and not _is_lacking(place / path, name))
    ]
    if key:
        return tuple(sorted(f"{path}:{disk}" for path in found for disk in _disks(root)))
    return tuple(sorted(found))


def unit_of(root: Path, place: Path, path: str) -> str:
    """The unit that systemd has this cgroup for, or "": no systemd, below a delegated one, not a unit."""
    if not (root / "run/systemd/system").is_dir():  # sd_booted(3)
        return ""
    name, directory = "", place
    for part in path.split("/"):
        if name and _delegated(directory):
            return ""
        directory, name = directory / part, part.removeprefix("_")  # systemd's escape of kernel's own names
        if not name.endswith(UNITS):
            return ""
    return name


# ----------------------------------------------------------------------------------- the parts


def _file(knob: Knob) -> str:
    """`cpu.weight`, `io.max/rbps`: the target is `{}/` and that."""
    return knob.target.removeprefix(f"{knob.instance or '{}'}/")


def _placed(root: Path, knob: Knob) -> tuple[Path, str, str, str]:
    """cgroup root, file (and key), path below the root, disk."""
    file, path, disk = _file(knob), knob.instance, ""
    if knob.per == "cgroup_disk":
        path, _, disk = path.rpartition(":")
    if not path or {"", ".", ".."} & set(path.split("/")):
        hint = f"name one as `tuned-spec knobs {knob.id.partition('@')[0]}` does"
        raise KnobAbsent(knob.id, "probe", f"{knob.instance!r} names no cgroup", hint=hint)
    place = cgroup2_root(root)
    if place is None:
        hint = "boot with systemd.unified_cgroup_hierarchy=1, or: mount -t cgroup2 none /sys/fs/cgroup"
        raise KnobAbsent(knob.id, "probe", "cgroup2 is not mounted", hint=hint)
    controller = file.partition(".")[0]
    if controller not in _words(place / "cgroup.controllers"):
        what = f"{place} has no {controller} controller"
        hint = (
            "version 1 has it: boot with systemd.unified_cgroup_hierarchy=1"
            if controller in _bound_to_v1(root)
            else "this kernel is built or booted without it"
        )
        raise KnobAbsent(knob.id, "probe", what, hint=hint)
    return place, file, path, disk


def _by_systemd(file: str) -> bool:
    return file in PROPERTY and _systemd_has(PROPERTY[file])


def _is_lacking(directory: Path, name: str) -> bool:
    """Whether the kernel has no such file. systemd turns a controller on when a property needs it, so where
    that is off, nothing can be told; and it writes io.weight to bfq's file too."""
    other = name.replace("io.weight", "io.bfq.weight")
    return _is_enabled(directory, name) and not ((directory / name).exists() or (directory / other).exists())


def _is_enabled(directory: Path, name: str) -> bool:
    return name.partition(".")[0] in _words(directory.parent / "cgroup.subtree_control")


@cache
def _systemd_has(property: str) -> bool:
    if property not in LATE:
        return True
    try:
        return unit.known(property)
    except OSError:
        return True  # it does not answer now: whoever reads the knob is told why


def _delegated(directory: Path) -> bool:
    """systemd marks the cgroup of a unit with Delegate=yes: what is below is the unit's own business."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _populated(place: Path) -> Iterator[str]:
    """Paths of cgroups with a process in them or below, the root's own excepted."""
    waiting = [place]
    for _ in range(MOST):
        if not waiting:
            return
        directory = waiting.pop()
        if directory != place:
            if "populated 1" not in _text(directory / "cgroup.events"):
                continue
            yield str(directory.relative_to(place))
        try:
            with os.scandir(directory) as entries:
                waiting += [directory / e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # gone since


def _disks(root: Path) -> tuple[str, ...]:
    """Whole disks with something in them."""
    block = root / "sys/block"
    if not block.is_dir():
        return ()
    return tuple(sorted(d.name for d in block.iterdir() if _text(d / "size").strip() not in ("", "0")))


def _number(root: Path, knob: Knob, disk: str) -> str:
    number = _text(root / "sys/block" / disk / "dev").strip()
    if not number:
        hint = f"whole disks are in {root / 'sys/block'}"
        raise KnobAbsent(knob.id, "probe", f"there is no disk {disk!r}", hint=hint)
    return number


def _bound_to_v1(root: Path) -> set[str]:
    """Controllers that a version 1 hierarchy has."""
    lines = [line.split() for line in _text(root / "proc/cgroups").splitlines() if line[:1] != "#"]
    return {name.replace("blkio", "io") for name, hierarchy, *_ in lines if hierarchy != "0"}


def _words(path: Path) -> set[str]:
    return set(_text(path).split())


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
