"""`approval`: which changes a person must say yes to, when they are asked, and for how long.

`approval: required` is for every change of the policy; a mapping says which, and how, key by key:

    risk: medium                      knobs of this class and above (low: all there are; none: of no class)
    knobs: [vm.*, block.scheduler@*]  and these
    ask: after_trial                  or before_trial
    wait_at: old                      or new
    for: 4h                           nobody answered by then: no

A rule or a search of its own has `approval: required`, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from tuned_spec.globs import matches, split
from tuned_spec.knobs.caps import Facts
from tuned_spec.knobs.instances import many
from tuned_spec.model import Approval, Asking, Knob, Risk, Side, entry_of
from tuned_spec.policy import units
from tuned_spec.policy.document import Node, Text, shown
from tuned_spec.policy.targets import Targets
from tuned_spec.policy.units import Misfit

APPROVAL = ("risk", "knobs", "ask", "wait_at", "for")
REQUIRED = "required"
NO_CLASS = "none"
RISKS = (NO_CLASS, *(risk.value for risk in Risk))
SHORTEST, LONGEST = "10s", "168h"

Change = dict[str, object]  # fields of Approval


def required(text: str) -> bool:
    if text != REQUIRED:
        raise Misfit(f"{shown(text)} is not known", f"write `approval: {REQUIRED}`, or delete the key")
    return True


def _word(field: str, words: type[StrEnum]) -> Callable[[str], Change]:
    def read(text: str) -> Change:
        if text not in list(words):
            raise Misfit(f"{shown(text)} is not known", f"choose {' or '.join(words)}")
        return {field: words(text)}

    return read


def _risk(text: str) -> Change:
    if text not in RISKS:
        raise Misfit(f"{shown(text)} is not a class of risk", f"choose {', '.join(RISKS)}")
    return {"risk": None if text == NO_CLASS else Risk(text)}


def _patience(text: str) -> Change:
    seconds = units.seconds(text)
    if not units.seconds(SHORTEST) <= seconds <= units.seconds(LONGEST):
        raise Misfit(f"{text} is outside {SHORTEST} to {LONGEST}", "choose a time inside")
    return {"for_s": seconds}


# key in the file -> how to read it
READ: dict[str, Callable[[str], Change]] = {
    "risk": _risk,
    "ask": _word("ask", Asking),
    "wait_at": _word("wait_at", Side),
    "for": _patience,
}


def built_in() -> dict[str, str]:
    """The same keys as a file would write what holds where none does."""
    default = Approval()
    return {
        "risk": NO_CLASS,
        "ask": default.ask,
        "wait_at": default.wait_at,
        "for": f"{default.for_s / 3600:g}h",
    }


class Approvals(Targets):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__(catalogue, facts)
        self.approval = Approval()

    def read_approval(self, node: Node) -> None:
        if isinstance(node, Text):
            text = self.text(node, "approval")
            if text and self.understood(node.line, "approval.risk", text, lambda: required(text)):
                self.place("approval.risk", node.line, Risk.LOW)
                self.approval = msgspec.structs.replace(self.approval, risk=Risk.LOW)
            return
        if (table := self.table(node, "approval")) is None:
            return
        parts = self.known(table, "approval.", APPROVAL)
        for name, read in READ.items():
            if change := self.one(parts, "approval", name, read):
                self.approval = msgspec.structs.replace(self.approval, **change)
        if "knobs" in parts:
            globs = self.many(parts, "approval", "knobs", str)
            line = parts["knobs"].line
            named = tuple(glob for glob in globs.values() if self.is_of_knobs(glob, line))
            self.forget("approval.knobs")
            self.place("approval.knobs", line, f"[{', '.join(named)}]")
            self.approval = msgspec.structs.replace(self.approval, knobs=named)

    def is_of_knobs(self, glob: str, line: int) -> bool:
        """Says so if it means none: a misspelt name would ask nobody."""
        name, instance = split(glob)
        entries = [knob for id, knob in self.catalogue.items() if matches(name, entry_of(id))]
        if not entries:
            hint = self.close(name, self.catalogue) or "`tuned-spec knobs` lists them"
            self.problem(line, "approval.knobs", f"{shown(glob)} means no knob", hint)
        elif instance and not any(map(many, entries)):
            what = f"{shown(glob)} means no knob: there is one {name} on the host"
            self.problem(line, "approval.knobs", what, f"write {name}")
        return bool(entries)

    def asking_rules(self) -> tuple[str, ...]:
        """Rules and searches that say it of themselves and have not been replaced since."""
        keys = [key.split(".", 1) for key in self.places if key.endswith(".approval")]
        return tuple(rest.removesuffix(".approval") for top, rest in keys if top in ("rules", "climbs"))
