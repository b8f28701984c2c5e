"""What every part of a policy that speaks of knobs needs: which knob is meant, and what a number of it is.

Owns knobs' names (an entry, one of its instances, a glob) and the policy's narrower view of their ranges.
Must not know limits, rules or searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuned_spec.globs import is_glob
from tuned_spec.knobs.caps import Facts
from tuned_spec.knobs.instances import misnamed
from tuned_spec.knobs.reach import task
from tuned_spec.model import CouplingKind, Knob, entry_of
from tuned_spec.policy import grammar, units
from tuned_spec.policy.reader import Reader
from tuned_spec.policy.units import Misfit

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of a policy, rule or search
SELECTOR = "write {0}@exe=NAME, {0}@cgroup=PATH, or both: {0}@exe=NAME,cgroup=PATH"
WHY_REQUIRED = {
    "id": "name the rule: it is what `why` and `history` say",
    "reason": "say in one sentence why this should help",
    "source": "say where the idea is from",
    "when": "say when to make this guess, like `- psi.cpu.some > 20% for 3s clear 10%`",
    "do": "say what to write, like `net.core.somaxconn: multiply 2`",
    "expect": "say which metric must move for the change to be kept, like `app.p95_ms falls by 5%`",
    "over": "say what to search over, like `{vm.swappiness: [0, 100]}`",
}


class Targets(Reader):
    def __init__(self, catalogue: Mapping[str, Knob], facts: Facts) -> None:
        super().__init__()
        self.catalogue, self.facts = catalogue, facts

    def knob(self, name: str, line: int, key: str) -> Knob | None:
        if (knob := self.catalogue.get(name)) is None:
            plain, at, _ = name.partition("@")
            hint = self.close(plain, self.catalogue) or "`tuned-spec knobs` lists them"
            if at and plain in self.catalogue:
                hint = f"write {plain}: there is one on the host"
            self.problem(line, key, "unknown knob", hint)
        return knob

    def one_knob(self, name: str, line: int, key: str, *, globs: bool = True) -> Knob | None:
        """A knob that can be written: of a template, the one of an instance, or of each that a glob means
        (where `globs` may stand)."""
        if (knob := self.knob(name, line, key)) is None or not knob.per:
            return knob
        entry, what = entry_of(name), ""
        if not knob.instance:
            what = f"there is one for each {knob.per}"
            hint = f"write {entry}@NAME" + (f", or {entry}@* for each of them" if globs else "")
        elif what := misnamed(knob):
            hint = f"`tuned-spec knobs {entry}` lists those that are here"
        if what:
            self.problem(line, key, what, SELECTOR.format(entry) if knob.per == "task" else hint)
            return None
        if knob.per == "task" and is_glob(task.selector(knob.instance).cgroup):
            hint = "name the cgroup itself: all below it is meant"
            self.problem(line, key, "cgroup= is a path and takes no glob", hint)
            return None
        return knob

    def narrower(self, knob: Knob, word: str) -> int:
        try:
            return grammar.number(knob, word, self.facts)
        except Misfit as error:
            if "outside" in error.what:
                raise Misfit(error.what, "a policy narrows the catalogue's range, never widens it") from None
            raise

    def coupled(self, knobs: Iterable[str]) -> list[tuple[str, str, CouplingKind]]:
        """(knob, partner, how) for every pair among `knobs` of which one write changes the other."""
        among = set(knobs)
        found: dict[frozenset[str], tuple[str, str, CouplingKind]] = {}
        for name in sorted(among):
            for coupling in self.catalogue[name].coupled:
                if coupling.partner in among and coupling.kind is not CouplingKind.ORDERED:
                    found.setdefault(
                        frozenset((name, coupling.partner)), (name, coupling.partner, coupling.kind)
                    )
        return list(found.values())


def some_time(text: str) -> float:
    if (seconds := units.seconds(text)) == 0:
        raise Misfit("leaves no time to judge", "write a time like 2s or 5m")
    return seconds


def confidence(text: str) -> float:
    if (likely := units.share(text)) > 1:
        raise Misfit(f"{text} is above 100%", "write 50% for a guess")
    return likely
