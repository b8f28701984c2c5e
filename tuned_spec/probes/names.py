"""Which probes there are, what each may be asked with, and how long its answer holds.

Data and its check only: read by the actor (what may be asked), the engine (what may be served from before)
and whoever answers. Must not know how anything is read.

An *exact* answer is a function of what the ledger has done: it is true until the ledger's next deed. A
*sampled* one is true of its moment, and may be served while it is not older than `max_age_s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from tuned_spec.model import Frozen

ANSWER_LIMIT = 4096  # bytes of one answer
LONGEST = 1024  # characters of one argument


class Arg(StrEnum):
    """What an argument may be: words of these shapes, never a path or a command."""

    METRIC = "metric"  # a metric's name, NAME or NAME@INSTANCE
    KNOB = "knob"  # a knob's id
    CGROUP = "cgroup"  # as systemd names it below the root: `system.slice/nginx.service`
    UNIT = "unit"  # `nginx.service`
    RESOURCE = "resource"  # one of RESOURCES


RESOURCES = ("cpu", "memory", "io")

SHAPES = {
    Arg.METRIC: re.compile(r"[a-z][A-Za-z0-9_.-]{0,63}(@[A-Za-z0-9_.:/@-]{1,128})?"),
    Arg.KNOB: re.compile(r"[a-z][A-Za-z0-9_.-]{0,63}(@[A-Za-z0-9_.:/@=,*-]{1,128})?"),
    Arg.CGROUP: re.compile(r"(?!.*\.\.)[A-Za-z0-9@_-][A-Za-z0-9@_.:\\-]*(/[A-Za-z0-9@_.:\\-]+){0,8}"),
    Arg.UNIT: re.compile(r"[A-Za-z0-9@_.:\\-]{1,128}\.(service|slice|scope|socket|timer|mount)"),
    Arg.RESOURCE: re.compile("|".join(RESOURCES)),
}


class ProbeKind(Frozen, frozen=True):
    """`args`: all of them must be given. `foreign`: the answer holds text that anybody on the host may have
    written (a process's name, a log line)."""

    doc: str
    args: dict[str, Arg] = {}  # noqa: RUF012 (msgspec copies it)
    exact: bool = False
    max_age_s: float = 10.0
    foreign: bool = False


PROBES: dict[str, ProbeKind] = {
    "metric_history": ProbeKind("the last 60 values of a metric, oldest first", {"metric": Arg.METRIC}),
    "knob": ProbeKind(
        "a knob's entry in the catalogue and its value now", {"knob": Arg.KNOB}, exact=True, foreign=True
    ),
    "changes": ProbeKind(
        "what tuned-spec holds changed now, and which trials are open", exact=True, foreign=True
    ),
    "top_processes": ProbeKind(
        "the ten processes that use most of it, over one second", {"by": Arg.RESOURCE}, foreign=True
    ),
    "sockets": ProbeKind("sockets by state, listen queues, retransmissions"),
    "disks": ProbeKind("requests, bytes, latency and use of each disk, over one second"),
    "memory": ProbeKind("where the memory is, reclaim and swap traffic over one second"),
    "pressure": ProbeKind("the cgroups under most pressure", {"by": Arg.RESOURCE}, foreign=True),
    "cgroup": ProbeKind("limits, use and pressure of one cgroup", {"cgroup": Arg.CGROUP}),
    "kernel_log": ProbeKind("the latest lines of the kernel's log", foreign=True),
    "unit": ProbeKind("what systemd is told of one unit: limits, weights, state", {"unit": Arg.UNIT}),
}


def wrong_with(name: str, args: Mapping[str, str]) -> str:
    """Why this question cannot be asked, or ""."""
    kind = PROBES.get(name)
    if kind is None:
        return f"{name[:40]!a} is no probe; there are {', '.join(PROBES)}"
    if set(args) != set(kind.args):
        return f"{name} takes {', '.join(kind.args) or 'no arguments'}, not {', '.join(sorted(args))[:80]!a}"
    for arg, shape in kind.args.items():
        if len(args[arg]) > LONGEST:
            return f"{name}: {arg} is longer than {LONGEST} characters"
        if not SHAPES[shape].fullmatch(args[arg]):
            return f"{name}: {arg} is not the name of a {shape.value}: {args[arg][:60]!a}"
    return ""
