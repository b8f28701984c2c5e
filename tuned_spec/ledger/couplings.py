"""Which knobs belong together: those that a write of one changes, and the order in which they go back.

Pure, over the catalogue; must not know rows, writes or the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuned_spec.model import CouplingKind, Knob, entry_of


class Couplings:
    """Who is coupled with a knob, from either side: an entry names its partners, not those that name it."""

    def __init__(self, catalogue: Mapping[str, Knob]) -> None:
        self._catalogue = catalogue
        self._named_by: dict[str, list[str]] = {}
        for entry in catalogue.values():
            for c in entry.coupled:
                self._named_by.setdefault(c.partner, []).append(entry.id)
        self._coupled = {entry.id for entry in catalogue.values() if entry.coupled} | self._named_by.keys()
        self._known: dict[str, dict[str, CouplingKind]] = {}
        self._places: dict[str, tuple[str, int]] = {}

    def of(self, knob: str) -> Mapping[str, CouplingKind]:
        """partner -> kind; nothing for a knob that this version's catalogue does not have."""
        if not self._coupled & {knob, entry_of(knob)}:
            return {}  # and nothing to remember: tasks come and go
        if knob not in self._known:
            self._known[knob] = self._found(knob) if knob in self._catalogue else {}
        return self._known[knob]

    def place(self, knob: str) -> tuple[str, int]:
        """Group, rank. A group is what cannot be restored apart (ORDERED knobs can); low ranks come first"""
        if not self.of(knob):
            return knob, 0
        if knob not in self._places:
            self._places[knob] = self._placed(knob)
        return self._places[knob]

    def _placed(self, knob: str) -> tuple[str, int]:
        group, ranks, edge = {knob}, {knob: 0}, [knob]
        while edge:
            here = edge.pop()
            for partner, kind in self.of(here).items():
                if kind is not CouplingKind.ORDERED and partner not in group:
                    group.add(partner)
                    edge.append(partner)
        for _ in group:  # a chain of resets is no longer than the group
            for here in group:
                for c in self._catalogue[here].coupled if here in self._catalogue else ():
                    if c.kind is CouplingKind.RESETS and c.partner in group:
                        ranks[c.partner] = max(ranks.get(c.partner, 0), ranks.get(here, 0) + 1)
        return min(group), ranks[knob]

    def _found(self, knob: str) -> dict[str, CouplingKind]:
        found = {c.partner: c.kind for c in self._catalogue[knob].coupled}
        name, at, instance = knob.partition("@")
        for entry in self._named_by.get(name, ()):
            same = at and self._catalogue[entry].per == self._catalogue[name].per
            other = self._catalogue[f"{entry}@{instance}" if same else entry]
            for c in other.coupled:
                if c.partner == knob:
                    found.setdefault(other.id, c.kind)
        return found
