"""`climbs`: searches over one to four numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Climb, Knob, KnobType, Span
from tuned_spec.policy import grammar, units
from tuned_spec.policy.approval import required
from tuned_spec.policy.document import Items, Node, Table, Text, shown
from tuned_spec.policy.targets import NAME, WHY_REQUIRED, Targets, confidence, some_time
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.templates import is_glob

CLIMB_REQUIRED = ("id", "reason", "source", "over", "expect")
CLIMB_OPTIONAL = ("guard", "every", "step", "recheck", "settle", "dwell", "confidence", "approval")
MOST_SPANS = 4  # numbers that one search moves: more are not found under noise


class Climbs(Targets):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__(catalogue, facts)
        self.climbs: dict[str, Climb] = {}
        self.climb_metrics: list[tuple[str, int, str, str]] = []  # file, line, key, metric

    def read_climbs(self, node: Node) -> None:
        for number, item in enumerate(self.items(node, "climbs")):
            if (table := self.table(item, f"climbs[{number}]")) is None:
                continue
            match table.entries.get("id"):
                case Text(_, text) if re.fullmatch(NAME, text):
                    key = f"climbs.{text}"
                    self.forget(f"{key}.")
                    if (climb := self.read_climb(table, key)) is not None:
                        self.climbs[text] = climb
                case _:
                    hint = "letters, digits, - _ and . only"
                    self.problem(table.line, f"climbs[{number}].id", "is not a search's name", hint)

    def read_climb(self, table: Table, key: str) -> Climb | None:
        before = self.said[self.file]
        parts = self.known(table, f"{key}.", CLIMB_REQUIRED + CLIMB_OPTIONAL)
        for name in CLIMB_REQUIRED:
            if name not in parts:
                self.problem(table.line, f"{key}.{name}", "is missing", WHY_REQUIRED[name])
        words = {name: self.one(parts, key, name, str) or "" for name in ("id", "reason", "source")}
        spans = self.read_over(parts["over"], f"{key}.over") if "over" in parts else ()
        expect = self.one(parts, key, "expect", grammar.expect)
        guards = self.many(parts, key, "guard", grammar.guard)
        given = {
            "every_s": self.one(parts, key, "every", some_time),
            "step": self.one(parts, key, "step", units.factor),
            "recheck_s": self.one(parts, key, "recheck", some_time),
            "settle_s": self.one(parts, key, "settle", units.seconds),
            "dwell_s": self.one(parts, key, "dwell", some_time),
            "confidence": self.one(parts, key, "confidence", confidence),
        }
        self.one(parts, key, "approval", required)
        if self.said[self.file] != before or expect is None:
            return None
        metrics = [("expect", expect.metric), *((label, guard.metric) for label, guard in guards.items())]
        for part, metric in metrics:
            line = self.places[f"{key}.{part}"][1]
            self.climb_metrics.append((self.file, line, f"{key}.{part}", metric))
        climb = Climb(
            id=words["id"],
            spans=spans,
            expect=expect,
            reason=words["reason"],
            source=words["source"],
            guard=tuple(guards.values()),
            origin=f"{self.file}:{table.line}",
        )
        known = {name: value for name, value in given.items() if value is not None}
        return msgspec.structs.replace(climb, **known)

    def read_over(self, node: Node, key: str) -> tuple[Span, ...]:
        """The numbers to search over, each with its range inside the catalogue's."""
        if (table := self.table(node, key)) is None:
            return ()
        found: list[Span] = []
        for target, value in table.entries.items():
            line, label = table.lines[target], f"{key}.{shown(target)[1:-1]}"
            name, bracket, tail = target.partition("[")
            if (knob := self.one_knob(name, line, label, globs=False)) is None:
                continue
            if knob.type not in (KnobType.INT, KnobType.INTS):
                kind = "switch" if knob.type is KnobType.BOOL else knob.type
                self.problem(line, label, f"a {kind} has no range to search", "use a rule")
                continue
            field = knob.fields.index(tail[:-1]) if bracket and tail[:-1] in knob.fields else None
            if (field is None) if bracket else (knob.type is KnobType.INTS):
                fields = f"pick one: {', '.join(f'{name}[{f}]' for f in knob.fields)}"
                self.problem(line, label, "is not one number", fields if knob.fields else "delete the [...]")
                continue
            if not isinstance(value, Items) or len(value.items) != 2:
                self.problem(line, label, "is not two values", "a range is [low, high]")
                continue
            given = [word for item in value.items if (word := self.text(item, label)) is not None]
            if len(given) != 2:
                continue  # said
            try:
                low, high = (self.narrower(knob, word) for word in given)
                if low >= high:
                    raise Misfit(f"low {given[0]} is not below high {given[1]}", "leave room to search")
            except Misfit as error:
                self.problem(line, label, error.what, error.hint)
                continue
            self.place(label, line, f"[{given[0]}, {given[1]}]")
            found.append(Span(knob.id, low, high, field, knob.quantum))
        if not 1 <= (count := len(table.entries)) <= MOST_SPANS:
            what = f"has {count} numbers" if count else "searches over nothing"
            self.problem(table.line, key, what, f"name one to {MOST_SPANS}")
        if any(is_glob(span.knob) for span in found):
            self.problem(table.line, key, "has a glob", "a search is for one instance: name it")
        return tuple(found)
