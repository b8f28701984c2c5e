"""`limits`: how far a policy lets one knob go, and how fast."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Knob, KnobType, Limit, entry_of
from tuned_spec.policy import grammar, units
from tuned_spec.policy.document import Node, shown
from tuned_spec.policy.targets import Targets
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.templates import is_glob

LIMIT = ("range", "choices", "step", "bound", "cooldown")


class Limits(Targets):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__(catalogue, facts)
        self.limits: dict[str, Limit] = {}

    def read_limits(self, node: Node) -> None:
        if (table := self.table(node, "limits")) is None:
            return
        for name, value in table.entries.items():
            key, line = f"limits.{shown(name)[1:-1]}", table.lines[name]
            knob, entry = self.knob(name, line, key), self.table(value, key)
            if entry is None:
                continue
            parts = self.known(entry, f"{key}.", LIMIT)
            if knob is None:
                continue
            if is_glob(name):
                hint = f"write {knob.id.partition('@')[0]} for all of them, or one's name behind the @"
                self.problem(line, key, "has a glob", hint)
                continue
            limit = self.limits.get(name) or Limit(name)
            for field, part in parts.items():
                try:
                    limit = self.limit(limit, knob, field, part, f"{key}.{field}")
                except Misfit as error:
                    self.problem(part.line, f"{key}.{field}", error.what, error.hint)
            self.limits[name] = msgspec.structs.replace(limit, origin=f"{self.file}:{line}")

    def limit(self, limit: Limit, knob: Knob, field: str, node: Node, key: str) -> Limit:
        number = knob.type in (KnobType.INT, KnobType.INTS)
        if field in ("range", "step", "bound") and not number:
            raise Misfit(f"a {knob.type} has no {field}", "use choices" if knob.choices else "delete it")
        if field == "choices" and knob.type is not KnobType.CHOICE:
            raise Misfit(f"a knob of type {knob.type} has no choices", "use range")
        change: dict[str, object]
        if field in ("range", "choices"):
            words = [self.text(item, key) for item in self.items(node, key)]
            given = [word for word in words if word is not None]
            if not given or len(given) < len(words):
                return limit
            text = f"[{', '.join(given)}]"
            if field == "choices":
                change = {"choices": tuple(grammar.choice(knob, word) for word in given)}
            elif len(given) != 2:
                raise Misfit("is not two values", "a range is [low, high]")
            else:
                low, high = (self.narrower(knob, word) for word in given)
                if low > high:
                    raise Misfit(f"low {given[0]} is above high {given[1]}", "swap them")
                change = {"low": low, "high": high}
        else:
            if (word := self.text(node, key)) is None:
                return limit
            text = word
            if field == "step":
                change = self.step(knob, word)
            elif field == "bound":
                change = {"bound_ratio": units.factor(word)}
            else:
                change = {"cooldown_s": units.seconds(word)}
        self.place(key, node.line, text)
        return msgspec.structs.replace(limit, **change)

    def step(self, knob: Knob, text: str) -> dict[str, object]:
        """`2x`, `64KiB`, or `2x or 64KiB` (the wider one counts)."""
        found: dict[str, object] = {"step_ratio": None, "step_abs": None}
        for word in text.split(" or "):
            if word.endswith("x"):
                found["step_ratio"] = units.factor(word)
            elif (amount := units.for_knob(word.strip(), knob.unit, self.facts)) > 0:
                found["step_abs"] = amount
            else:
                raise Misfit(f"a step of {word}", "write a step above 0")
        return found

    def inherit(self) -> None:
        """What the limit of one instance leaves open is as its entry's limit says."""
        for name, limit in self.limits.items():
            if name != entry_of(name) and (entry := self.limits.get(entry_of(name))):
                given = {field: value for field, value in _fields(limit).items() if value != _NOTHING[field]}
                self.limits[name] = msgspec.structs.replace(entry, knob=name, **given)


def _fields(limit: Limit) -> dict[str, object]:
    """Without the knob."""
    return {field: value for field, value in msgspec.structs.asdict(limit).items() if field != "knob"}


_NOTHING = _fields(Limit(""))
