"""The catalogue as this host has it: entries, and the concrete knobs of entries that are templates.

Owns what `ENTRY@INSTANCE` means. Asks the adapters which instances are here and which words they offer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from ..globs import is_glob, matches
from ..model import Knob
from .adapters import Adapter, offering
from .namespaces import PREFIX, SCOPE
from .reach import task

MOST_CONCRETE = 4096  # concrete knobs that are kept made: far more than a host's rules mean


def many(entry: Knob) -> str:
    """What there is one such knob of each, "" for one in all. A network namespace need not be named."""
    return entry.per or ("netns" if entry.scope == "netns" else "")


def concrete(entry: Knob, name: str, per_of: Mapping[str, Knob]) -> Knob:
    """The entry's knob of one instance. Partners that there are as many of are those of the same instance."""
    coupled = []
    for c in entry.coupled:
        if c.partner in per_of and many(per_of[c.partner]) == many(entry):
            coupled.append(msgspec.structs.replace(c, partner=f"{c.partner}@{name}"))
        elif entry.per:  # a namespace of another name does not move what is the host's
            coupled.append(c)
    return msgspec.structs.replace(
        entry,
        id=f"{entry.id}@{name}",
        instance=name,
        target=entry.target.replace("{}", name),
        choices_from=entry.choices_from.replace("{}", name),
        coupled=tuple(coupled),
    )


def misnamed(knob: Knob) -> str:
    """Why no host has an instance of that name, "" if one might."""
    if knob.per == "task":
        try:
            task.selector(knob.instance)
        except ValueError as error:
            return str(error)
    elif knob.instance and {"", ".", ".."} & set(knob.instance.removeprefix(PREFIX).split("/")):
        return f"{knob.instance!a} leads out of where {many(knob)} names are looked up"
    return ""


class Catalogue(Mapping[str, Knob]):
    """Every entry by its id, and by `ENTRY@INSTANCE` any concrete knob, made when it is asked for.

    Iterating gives the entries. The choices of a concrete knob are those that it offers.
    """

    def __init__(self, entries: Mapping[str, Knob], access: Mapping[str, Adapter]) -> None:
        self._entries = {
            id: entry if entry.per else offering(entry, access[entry.adapter])
            for id, entry in entries.items()
        }
        self._access = access
        self._concrete: dict[str, Knob] = {}

    def __getitem__(self, id: str) -> Knob:
        if found := self._entries.get(id) or self._concrete.get(id):
            return found
        name, at, instance = id.partition("@")
        entry = self._entries[name]
        if not at or not instance or "\0" in instance or not (entry.per or _is_named(entry, instance)):
            raise KeyError(id)  # no name on a host has a zero byte in it, and no system call takes one
        if len(self._concrete) >= MOST_CONCRETE:
            self.forget()
        knob = concrete(entry, instance, self._entries)
        if not is_glob(instance):
            knob = self._concrete[id] = offering(knob, self._access[knob.adapter])
        return knob

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def instances(self, id: str) -> tuple[str, ...]:
        """The instances here now that `ENTRY@GLOB` (or `ENTRY`: all) means; none of an entry without any."""
        name, _, pattern = id.partition("@")
        entry = self._entries[name]
        if not (entry.per or _is_named(entry, pattern)):
            return ()
        return tuple(
            instance
            for instance in self._access[entry.adapter].instances(entry)
            if matches(pattern or "**", instance)
        )

    def forget(self) -> None:
        """Make concrete knobs anew: what went away may come back under its name with other choices."""
        self._concrete.clear()


def _is_named(entry: Knob, instance: str) -> bool:
    """Whether it is the knob of a network namespace by name; without one it is that of our own."""
    return entry.scope == SCOPE and instance.startswith(PREFIX)
