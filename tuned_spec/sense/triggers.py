"""PSI triggers: descriptors that become ready (EPOLLPRI) when tasks wait for CPU, memory or I/O.

Owns what is asked of the kernel and the falling back when it refuses. Must not wait, nor know what for.
From the kernel's Documentation/accounting/psi.rst: a trigger lives as long as its descriptor, fires at most
once a window, and windows that are no multiple of 2 s need CAP_SYS_RESOURCE (as does each of them before
Linux 6.5). A privileged trigger costs a kernel thread per monitored group, hence MAX_CGROUPS.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tuned_spec.globs import is_glob, split
from tuned_spec.paths import cgroup2_root
from tuned_spec.sense import metrics
from tuned_spec.sense.sources import HINTS

MAX_CGROUPS = 16
WINDOWS_S = (0.5, 2.0)  # the first that the kernel takes
# What is armed where no rule asks for another level: the share of the window that some task waited.
THRESHOLDS = {"psi.cpu.some": 0.20, "psi.memory.some": 0.05, "psi.io.some": 0.10}


class Trigger(msgspec.Struct, frozen=True):
    """Poll `fd` for EPOLLPRI; EPOLLERR means that its cgroup is gone: unregister and close it.

    When it fires, the metric `name` (`psi.cpu.some`, `cgroup.psi.io.full@<path>`) was at least `share` over
    the last `window_s` seconds. That is news even where the interval since the last tick is too long to show
    it: take the greater of `share` and what `Sense` observes. Close `fd` to disarm.
    """

    fd: int
    name: str
    window_s: float
    share: float


def open_triggers(
    root: Path, cgroups: Sequence[str] = (), levels: Mapping[str, float] | None = None
) -> tuple[list[Trigger], list[str]]:
    """Arms what can be armed on the host and on cgroups, `levels`' too; what cannot be comes as a reason.

    `levels`: pressure metric -> the lowest level that a rule compares it with. Its trigger is armed a little
    above, so that what it reports is past the level and not on it.
    """
    cgroup2 = cgroup2_root(root)
    levels = levels or {}
    named = (metrics.cgroup_path(path) or path for path in cgroups)
    groups = list(dict.fromkeys((*named, *metrics.cgroups_in(levels))))
    single = [group for group in groups if not is_glob(group)]
    watched = single[:MAX_CGROUPS]
    shares = dict(THRESHOLDS)
    for group in watched:
        shares |= {f"cgroup.{name}@{group}": share for name, share in THRESHOLDS.items()}
    reasons = [
        f"cgroup {group}: no trigger, only {MAX_CGROUPS} cgroups get one" for group in single[MAX_CGROUPS:]
    ]
    reasons += [
        f"cgroup {group}: no trigger, the cgroups that a glob means come and go"
        for group in groups
        if is_glob(group)
    ]
    for name, level in levels.items():
        if set(metrics.cgroups_in([name])) <= set(watched):
            shares[name] = min(max(level * 1.05, 0.01), 0.95)
    triggers: list[Trigger] = []
    for name, share in shares.items():
        metric = metrics.find(name)
        if metric is None or metric.fields[0] not in ("some", "full"):
            reasons.append(f"{name}: not a pressure metric that can wake us")
        elif (path := _file(name, metric.source, root, cgroup2)) is None:
            reasons.append(f"{name}: no cgroup2 file system is mounted on this host")
        elif isinstance(opened := _arm(path, name, metric.fields[0], share), Trigger):
            triggers.append(opened)
        else:
            reasons.append(f"{name}: {_explain(opened, path, metric.source)}")
    return triggers, reasons


def _file(name: str, source: str, root: Path, cgroup2: Path | None) -> Path | None:
    """The pressure file of a metric; None for a cgroup's while there is no cgroup2."""
    if not source.startswith(metrics.CGROUP2):
        return root / source.lstrip("/")
    return cgroup2 / split(name)[1] / source.removeprefix(metrics.CGROUP2) if cgroup2 else None


def _arm(path: Path, name: str, which: str, share: float) -> Trigger | OSError:
    """One trigger with the shortest window that the kernel takes, or the last refusal."""
    refusal = OSError(errno.EINVAL, "no window was tried")
    for window_s in WINDOWS_S:
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            return error
        try:
            _must_be_pollable(fd)
            # The kernel overwrites the last byte with NUL, so it has to be one that we can spare.
            os.write(fd, f"{which} {share * window_s * 1e6:.0f} {window_s * 1e6:.0f}\0".encode())
        except OSError as error:
            os.close(fd)
            refusal = error
        else:
            return Trigger(fd, name, window_s, share)
    return refusal


def _must_be_pollable(fd: int) -> None:
    """Raises EPERM for a regular file: below a root that is not the kernel's, nothing may be overwritten."""
    with select.epoll() as probe:
        probe.register(fd, select.EPOLLPRI)


def _explain(error: OSError, path: Path, source: str) -> str:
    hint = {
        errno.EPERM: "the kernel lets only CAP_SYS_RESOURCE set triggers (any, before Linux 6.5)",
        errno.EACCES: "may not be opened for writing: run as root, with CAP_SYS_RESOURCE for fast ones",
        errno.EINVAL: f"the kernel takes no window of {WINDOWS_S} s",
    }.get(error.errno or 0)
    hint = hint or next((text for start, text in HINTS.items() if source.startswith(start)), "")
    return f"{path}: {os.strerror(error.errno or 0)}; {hint}"
