"""Knobs of tasks: from a selector to the tasks that it means now, and to where each of them is reached.

Owns the names: `task.nice@exe=redis-server` is a selector, `task.nice@TID.STARTTIME` one of its members; an
entry's target is `{}/ATTRIBUTE`. What a selector means and how a task is read is reach/task.py's. Must not
know of the journal. Selectors are not enumerated: which ones there are is the policy's to say.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container
from pathlib import Path

import msgspec

from ..errors import KnobRefused
from ..model import Knob, entry_of
from .reach import task


def address(root: Path, knob: Knob) -> str:
    """`task:TID/ATTRIBUTE`; of a selector `task:SELECTOR/ATTRIBUTE`, which nothing can be read from."""
    if is_member(knob):
        return f"task:{knob.instance.partition('.')[0]}/{attribute_of(knob)}"
    _selector(knob)
    return f"task:{knob.instance}/{attribute_of(knob)}"


def identity(root: Path, knob: Knob) -> str:
    """`start:STARTTIME@TID`; of a selector "": it is a question, not a thing."""
    tid, _, start = knob.instance.partition(".")
    return f"start:{start}@{tid}" if is_member(knob) else ""


def is_member(knob: Knob) -> bool:
    tid, _, start = knob.instance.partition(".")
    return tid.isdigit() and start.isdigit()


def tid_of(member: str) -> int:
    """Of `task.nice@TID.STARTTIME`."""
    return int(member.partition("@")[2].partition(".")[0])


def members(
    root: Path, knob: Knob, among: Collection[int] | None = None, known: Container[int] = ()
) -> tuple[Knob, ...]:
    """The tasks that a selector means now (or those of `among` these processes), each as a knob of its own,
    but for those of `known` TIDs.

    Not those the knob does not apply to: real-time tasks have no slice, and a policy that somebody gave
    them is no guess's to take; what a whole process shares is its main thread's. KnobRefused: no selector.
    """
    if is_member(knob):
        return (knob,)
    attribute = attribute_of(knob)
    found = task.matching(_selector(knob), among, known, os.fspath(root / "proc"))
    if attribute in task.OF_PROCESS:
        found = [t for t in found if t.tid == t.tgid]
    return tuple(member(knob, t) for t in found if attribute not in task.OF_FAIR or task.is_fair(t.tid))


def member(knob: Knob, one: task.Task) -> Knob:
    """The knob of one task, of the same entry as a selector's."""
    instance = f"{one.tid}.{one.start}"
    target = f"{instance}/{attribute_of(knob)}"
    return msgspec.structs.replace(
        knob, id=f"{entry_of(knob.id)}@{instance}", instance=instance, target=target
    )


def attribute_of(knob: Knob) -> str:
    return knob.target.rpartition("/")[2]


def _selector(knob: Knob) -> task.Selector:
    try:
        return task.selector(knob.instance)
    except ValueError as error:
        hint = f"write {entry_of(knob.id)}@exe=NAME or @cgroup=PATH"
        raise KnobRefused(knob.id, "probe", str(error), hint=hint) from error
