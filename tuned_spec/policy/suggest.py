"""`suggest`: which knobs a model may propose values for, and by what they would be judged."""

from __future__ import annotations

from collections.abc import Mapping

from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Knob, Suggest
from tuned_spec.policy import grammar, units
from tuned_spec.policy.document import Node, shown
from tuned_spec.policy.targets import Targets
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.options import MOST_OPTIONS, entries

SUGGEST_REQUIRED = ("knobs", "expect")
SUGGEST_OPTIONAL = ("guard", "every")
LEAST_EVERY_S = 10.0
WHY = {
    "knobs": "say what it may propose changes of, like `[vm.*, block.read_ahead_kb@*]`",
    "expect": "say by what its changes are judged, like `- app.p95_ms falls by 5%`",
}


class Suggests(Targets):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__(catalogue, facts)
        self.suggest: Suggest | None = None
        self.suggest_metrics: list[tuple[str, int, str, str]] = []  # file, line, key, metric

    def read_suggest(self, node: Node) -> None:
        """A later file's section replaces an earlier one's whole."""
        before = self.said[self.file]
        if (table := self.table(node, "suggest")) is None:
            return
        self.forget("suggest.")
        parts = self.known(table, "suggest.", SUGGEST_REQUIRED + SUGGEST_OPTIONAL)
        for name in SUGGEST_REQUIRED:
            if name not in parts:
                self.problem(table.line, f"suggest.{name}", "is missing", WHY[name])
        patterns = self.many(parts, "suggest", "knobs", self.pattern)
        expect = self.many(parts, "suggest", "expect", grammar.expect)
        guards = self.many(parts, "suggest", "guard", grammar.guard)
        every_s = self.one(parts, "suggest", "every", pace)
        entry_count = len({name for one in patterns.values() for name in entries(one, self.catalogue)})
        if entry_count > MOST_OPTIONS:
            what = f"means {entry_count} knobs; a model can be asked about {MOST_OPTIONS}"
            self.problem(parts["knobs"].line, "suggest.knobs", what, "name fewer")
        judged = [(label, one.metric) for found in (expect, guards) for label, one in found.items()]
        self.suggest_metrics = [
            (self.file, self.places[f"suggest.{label}"][1], f"suggest.{label}", metric)
            for label, metric in judged
        ]
        if self.said[self.file] == before:
            self.suggest = Suggest(
                knobs=tuple(patterns.values()),
                expect=tuple(expect.values()),
                guard=tuple(guards.values()),
                every_s=Suggest((), ()).every_s if every_s is None else every_s,
                origin=f"{self.file}:{table.line}",
            )

    def pattern(self, text: str) -> str:
        if not entries(text, self.catalogue):
            plain = text.partition("@")[0]
            if plain in self.catalogue and entries(f"{plain}@*", self.catalogue):
                raise Misfit(f"{shown(text)} is one for each {self.catalogue[plain].per}", f"write {plain}@*")
            hint = "a task's, a high-risk or a one-way knob is never offered; `tuned-spec knobs` lists all"
            raise Misfit(f"{shown(text)} means no knob that a model may be offered", hint)
        return text


def pace(text: str) -> float:
    if (seconds := units.seconds(text)) < LEAST_EVERY_S:
        raise Misfit(f"{text} is too often", f"write {LEAST_EVERY_S:g}s or more")
    return seconds
