"""Which knobs a policy's words mean, where it gives a model the choice. Pure.

`vm.*`, `net.ipv4.tcp_rmem`, `block.read_ahead_kb@nvme*`. Left out is what no model may touch: what is for a
person to change, what has no way back, what is a deed; tasks, of which there is no end; and whatever has no
range or choice that could be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tuned_spec.globs import matches, split
from tuned_spec.model import Knob, KnobType, Risk

MOST_OPTIONS = 24  # a prompt has to hold them
TYPES = (KnobType.INT, KnobType.INTS, KnobType.CHOICE, KnobType.BOOL)


def entries(pattern: str, catalogue: Mapping[str, Knob]) -> tuple[str, ...]:
    """The entries that a pattern means, of those that a model may be offered."""
    glob, instance = split(pattern)
    return tuple(
        name
        for name in catalogue
        if matches(glob, name) and bool(instance) == bool(catalogue[name].per) and may_offer(catalogue[name])
    )


def may_offer(entry: Knob) -> bool:
    untouchable = entry.risk is Risk.HIGH or entry.irreversible_when or entry.stateless or entry.per == "task"
    words = entry.type is not KnobType.CHOICE or entry.choices or entry.choices_from
    return entry.type in TYPES and bool(words) and not untouchable


def meant(
    patterns: Iterable[str], catalogue: Mapping[str, Knob], instances: Callable[[str], tuple[str, ...]]
) -> tuple[str, ...]:
    """The knobs here that the patterns mean, each once, in their order."""
    found: dict[str, None] = {}
    for pattern in patterns:
        for name in entries(pattern, catalogue):
            here = instances(f"{name}@{split(pattern)[1]}") if catalogue[name].per else ()
            found |= dict.fromkeys([f"{name}@{one}" for one in here] if catalogue[name].per else [name])
    return tuple(found)
