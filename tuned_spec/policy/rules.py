"""`rules`: one guess each, checked as far as one rule alone can be."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping

import msgspec

from tuned_spec import windows
from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Action, Condition, CouplingKind, Knob, Rule
from tuned_spec.policy import grammar, units
from tuned_spec.policy.approval import required
from tuned_spec.policy.document import Node, Table, Text, shown
from tuned_spec.policy.targets import NAME, WHY_REQUIRED, Targets, confidence, some_time

RULE_REQUIRED = ("id", "reason", "source", "when", "do", "expect")
RULE_OPTIONAL = ("guard", "cooldown", "settle", "dwell", "lease", "confidence", "approval")


class Draft(msgspec.Struct):
    """A rule as far as it was understood: a broken one takes part in the checks across files too."""

    file: str
    line: int
    key: str
    metrics: list[tuple[int, str, str]] = []  # line, key, metric
    knobs: tuple[str, ...] = ()
    rule: Rule | None = None


class Rules(Targets):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__(catalogue, facts)
        self.drafts: dict[str, Draft] = {}  # by rule id

    def read_rules(self, node: Node) -> None:
        seen: dict[str, int] = {}
        for number, item in enumerate(self.items(node, "rules")):
            key = f"rules[{number}]"
            if (table := self.table(item, key)) is None:
                continue
            name = f"{self.file} {key}"  # of a rule without a good id of its own
            match table.entries.get("id"):
                case Text(line, text) if re.fullmatch(NAME, text):
                    key, name = f"rules.{text}", text
                    if first := seen.get(text):
                        what = f"a second rule of that id, the first is in line {first}"
                        self.problem(line, key, what, "rename one")
                        continue
                    seen[text] = line
                case Text(line, text) if text.strip():
                    self.problem(line, f"{key}.id", "is not a rule's name", "letters, digits, - _ and . only")
            if name in self.drafts:
                self.forget(f"{key}.")  # what the rule that this one replaces has written
            self.drafts[name] = self.read_rule(table, key)

    def read_rule(self, table: Table, key: str) -> Draft:
        before = self.said[self.file]
        draft = Draft(self.file, table.line, key)
        parts = self.known(table, f"{key}.", RULE_REQUIRED + RULE_OPTIONAL)
        for name in RULE_REQUIRED:
            if name not in parts:
                self.problem(table.line, f"{key}.{name}", "is missing", WHY_REQUIRED[name])
        words = {name: self.one(parts, key, name, str) or "" for name in ("id", "reason", "source")}
        when = self.many(parts, key, "when", grammar.condition)
        do = self.read_do(parts["do"], f"{key}.do", draft) if "do" in parts else ()
        expect = self.one(parts, key, "expect", grammar.expect)
        guards = self.many(parts, key, "guard", grammar.guard)
        times = {
            "cooldown_s": self.one(parts, key, "cooldown", units.seconds),
            "settle_s": self.one(parts, key, "settle", units.seconds),
            "dwell_s": self.one(parts, key, "dwell", some_time),
            "lease_s": self.one(parts, key, "lease", some_time),
            "confidence": self.one(parts, key, "confidence", confidence),
        }
        self.one(parts, key, "approval", required)
        used = [(label, metric) for label, condition in when.items() for metric in _names(condition)]
        used += [("expect", expect.metric)] if expect else []
        used += [(label, guard.metric) for label, guard in guards.items()]
        draft.metrics = [(self.places[f"{key}.{part}"][1], f"{key}.{part}", metric) for part, metric in used]
        if self.said[self.file] == before and expect is not None:
            rule = Rule(
                id=words["id"],
                when=tuple(when.values()),
                do=do,
                expect=expect,
                reason=words["reason"],
                source=words["source"],
                guard=tuple(guards.values()),
                origin=f"{self.file}:{table.line}",
            )
            given = {name: value for name, value in times.items() if value is not None}
            draft.rule = msgspec.structs.replace(rule, **given)
            self.check_lease(draft.rule, key)
        return draft

    def check_lease(self, rule: Rule, key: str) -> None:
        """A lease that holds too few pairs of windows could only ever run out."""
        timing = windows.of(rule, self.catalogue)
        if rule.lease_s is None or timing.pairs >= windows.LEAST_PAIRS:
            return
        need = math.ceil(timing.lease_for(windows.LEAST_PAIRS))
        what = (
            f"holds {timing.pairs} pairs of windows of {timing.pair_s:.3g} s; "
            f"a verdict takes {windows.LEAST_PAIRS} at least"
        )
        line = self.places[f"{key}.lease"][1]
        self.problem(line, f"{key}.lease", what, f"leave it out, or write {need}s or more")

    def read_do(self, node: Node, key: str, draft: Draft) -> tuple[Action, ...]:
        if (table := self.table(node, key)) is None:
            return ()
        if not table.entries:
            self.problem(table.line, key, "does nothing", "write `KNOB: multiply 2` or the like")
        found: list[Action] = []
        for target, value in table.entries.items():
            line, label = table.lines[target], f"{key}.{shown(target)[1:-1]}"
            name, bracket, tail = target.partition("[")
            text = self.text(value, label)
            if (knob := self.one_knob(name, line, label)) is None or text is None:
                continue
            field: int | None = None
            if bracket:
                if (field_name := tail.removesuffix("]")) not in knob.fields:
                    fields = (
                        f"fields are {', '.join(knob.fields)}"
                        if knob.fields
                        else "it is one value: delete the [...]"
                    )
                    hint = self.close(field_name, knob.fields) or fields
                    self.problem(line, label, f"{knob.id} has no field {shown(field_name)}", hint)
                    continue
                field = knob.fields.index(field_name)
            read = functools.partial(grammar.action, knob, field, text, self.facts)
            if (action := self.understood(value.line, label, text, read)) is None:
                continue
            if any(other.knob == name and (other.field is None or field is None) for other in found):
                self.problem(line, label, "is written whole and by field", "write it once")
            found.append(action)
        lines = {target.partition("[")[0]: line for target, line in table.lines.items()}
        draft.knobs = tuple(name for name in lines if name in self.catalogue)
        self.check_partners(draft.knobs, lines, key)
        return tuple(found)

    def check_partners(self, order: tuple[str, ...], lines: Mapping[str, int], key: str) -> None:
        """Coupled knobs within one transaction."""
        for first, second, kind in self.coupled(order):
            if kind is CouplingKind.ZEROES:
                what = f"the kernel zeroes {first} when {second} is written"
                self.problem(lines[second], f"{key}.{second}", what, "write one of the two")
            elif order.index(first) > order.index(second):
                what = f"is undone by {first}, which resets it"
                self.problem(lines[second], f"{key}.{second}", what, f"write {first} first")


def _names(condition: Condition) -> list[str]:
    rest = _names(condition.fallback) if condition.fallback else []
    return [condition.metric, *rest]
