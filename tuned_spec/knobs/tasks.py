"""Knobs of tasks: from a selector to the tasks that it means now, and to where each of them is reached.

Owns the names: `task.nice@exe=redis-server` is a selector, `task.nice@TID.STARTTIME` one of its members; an
entry's target is `{}/ATTRIBUTE`. What a selector means and how a task is read is reach/task.py's. Must not
know of the journal. Selectors are not enumerated: which ones there are is the policy's to say.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from ..model import Knob
from .reach import task

CAP_SYS_NICE = 23


def address(_root: Path, knob: Knob) -> str:
    """`task:TID/ATTRIBUTE`; of a selector, which nothing can be read from, `task:SELECTOR/ATTRIBUTE`."""
    instance, _, attribute = knob.target.rpartition("/")
    return f"task:{instance.partition('.')[0] if is_member(knob) else instance}/{attribute}"


def instances(_root: Path, _entry: Knob) -> tuple[str, ...]:
    return ()


def identity(_root: Path, knob: Knob) -> str:
    """`start:STARTTIME@TID`; of a selector "": it is a question, not a thing."""
    tid, _, start = knob.instance.partition(".")
    return f"start:{start}@{tid}" if is_member(knob) else ""


def is_member(knob: Knob) -> bool:
    tid, _, start = knob.instance.partition(".")
    return tid.isdigit() and start.isdigit()


def members(root: Path, knob: Knob, among: Collection[int] | None = None) -> tuple[Knob, ...]:
    """The tasks that a selector means now (or those of `among` these processes), each as a knob of its own.

    Not those the knob does not apply to: real-time tasks have no slice, and a policy that somebody gave
    them is no guess's to take; what a whole process shares is its main thread's. ValueError: no selector.
    """
    if is_member(knob):
        return (knob,)
    attribute = attribute_of(knob)
    found = task.matching(task.selector(knob.instance), among, os.fspath(root / "proc"))
    if attribute in task.OF_PROCESS:
        found = [t for t in found if t.tid == t.tgid]
    return tuple(member(knob, t) for t in found if attribute not in task.OF_FAIR or task.is_fair(t.tid))


def member(knob: Knob, one: task.Task) -> Knob:
    """The knob of one task, of the same entry as a selector's."""
    instance = f"{one.tid}.{one.start}"
    entry = knob.id.partition("@")[0]
    return msgspec.structs.replace(
        knob, id=f"{entry}@{instance}", instance=instance, target=f"{instance}/{attribute_of(knob)}"
    )


def attribute_of(knob: Knob) -> str:
    return knob.target.rpartition("/")[2]


def absent(root: Path, knob: Knob) -> str:
    """Why a selector means no task that the knob applies to, or ""."""
    try:
        if members(root, knob):
            return ""
    except ValueError as error:
        return str(error)
    return f"no task matches {knob.instance} now"


def one_way(knob: Knob) -> str:
    """Why what is written could not be taken back, or "".

    Without CAP_SYS_NICE a nice that was raised stays raised, an idle policy idle, and so on. An OOM score
    needs no such thing: the kernel's floor (oom_score_adj_min) moves only with a write by CAP_SYS_RESOURCE,
    so that what was raised without it can be lowered again without it (fs/proc/base.c, __set_oom_adj).
    """
    if attribute_of(knob) == "oom_score_adj" or _effective() & 1 << CAP_SYS_NICE:
        return ""
    return "without CAP_SYS_NICE the kernel may not let it be put back"


def _effective() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
