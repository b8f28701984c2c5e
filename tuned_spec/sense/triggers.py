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
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tuned_spec.sense import metrics
from tuned_spec.sense.sources import HINTS, cgroup2_root, locate

MAX_CGROUPS = 16
WINDOWS_S = (0.5, 2.0)  # the first that the kernel takes
# resource -> the share of the window that some task must have waited
THRESHOLDS = {"cpu": 0.20, "memory": 0.05, "io": 0.10}


class Trigger(msgspec.Struct, frozen=True):
    """Poll `fd` for EPOLLPRI; EPOLLERR means that its cgroup is gone: unregister and close it.

    `name` is the metric it watches, `psi.cpu.some` or `cgroup.<path>.psi.cpu.some`. Close `fd` to disarm.
    """

    fd: int
    name: str
    window_s: float


def open_triggers(root: Path, cgroups: Sequence[str] = ()) -> tuple[list[Trigger], list[str]]:
    """Arms what can be armed on the host and these cgroups; each that cannot be comes with its reason."""
    cgroup2 = cgroup2_root(root)
    names = [f"psi.{what}.some" for what in metrics.RESOURCES]
    names += [
        f"cgroup.{path}.psi.{what}.some" for path in cgroups[:MAX_CGROUPS] for what in metrics.RESOURCES
    ]
    triggers: list[Trigger] = []
    reasons = [
        f"cgroup.{path}: no trigger, only {MAX_CGROUPS} cgroups get one" for path in cgroups[MAX_CGROUPS:]
    ]
    for name in names:
        metric = metrics.find(name)
        path = locate(metric.source, root, cgroup2) if metric else None
        if metric is None or path is None:
            reasons.append(f"{name}: " + ("no cgroup2 is mounted" if metric else "not the path of a cgroup"))
            continue
        share = THRESHOLDS[name.split(".")[-2]]
        opened = _arm(path, name, share)
        if isinstance(opened, Trigger):
            triggers.append(opened)
        else:
            reasons.append(f"{name}: {_explain(opened, path, metric.source)}")
    return triggers, reasons


def _arm(path: Path, name: str, share: float) -> Trigger | OSError:
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
            os.write(fd, f"some {share * window_s * 1e6:.0f} {window_s * 1e6:.0f}\0".encode())
        except OSError as error:
            os.close(fd)
            refusal = error
            if error.errno not in (errno.EINVAL, errno.EPERM):
                break
        else:
            return Trigger(fd, name, window_s)
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
