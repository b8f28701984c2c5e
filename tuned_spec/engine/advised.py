"""Advice in force: what verdicts ask of the next guesses, taken within bounds and put to use.

Owns when it is taken, told and dropped; the bounds are `speculate.advice`'s. It lives in this state alone: a
restart forgets it.
"""

from __future__ import annotations

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.events import Note
from tuned_spec.engine.probing import Probing
from tuned_spec.engine.state import Trial, concerned, in_force
from tuned_spec.model import Narrow, Prefer, Record, Span, Strategy, Verdict
from tuned_spec.speculate import advice
from tuned_spec.speculate.advice import A_VERDICT, Given, Known
from tuned_spec.speculate.signature import mean

replace = msgspec.structs.replace


class Advised(Probing):
    def advise(self, trial: Trial, verdict: Verdict) -> None:
        """Take what the verdict advises, as far as it is sound; the verdict stands either way."""
        if not verdict.strategy:
            return
        seen = mean(trial.untuned) if trial.untuned else trial.signature
        seen = seen and replace(seen, spread={})
        known, taken, refused = self.known(), list[dict[str, object]](), list[str]()
        for number, item in enumerate(verdict.strategy[: A_VERDICT + 1]):
            what = advice.words(item)[: advice.WORDS]
            if number == A_VERDICT:
                rest = len(verdict.strategy) - A_VERDICT
                refused.append(f"advice not taken: {rest} more, of which a verdict may give {A_VERDICT}")
                break
            new = Given(item, self.t, self.t, verdict.by[:40], trial.id, seen)
            found = advice.take(self.state.advice, new, known, self.room(item))
            if isinstance(found, str):
                refused.append(f"advice not taken: {what}: {found}")
                continue
            self.state = replace(self.state, advice=found)
            until = round(found[-1].until + self.state.wall_offset, 1)
            taken.append({"what": what, "until": until, "item": msgspec.to_builtins(found[-1].item)})
        given = [one.item for one in self.state.advice if one.trial == trial.id]
        about = [knob for item in given for knob in concerned(self.state, item)]
        knobs = tuple(dict.fromkeys((*trial.knobs, *about)))
        data: dict[str, object] = {"by": verdict.by[:40], "taken": taken, "not_taken": refused}
        self.do(Note(Record("advised", self.t, trial.id, trial.proposal.rule, knobs, data)))

    def known(self) -> Known:
        setup = self.state.setup
        rules = {r.id for r in setup.rules} | {c.id for c in setup.climbs} | self.state.learned.known.keys()
        return Known(
            rules=frozenset(rules),
            spans=tuple(span for climb in setup.climbs for span in climb.spans),
            moved=frozenset(action.knob for rule in setup.rules for action in rule.do),
        )

    def room(self, item: Strategy) -> tuple[int | None, int | None]:
        """What catalogue and policy allow for the knob of a Narrow."""
        catalogue = self.state.setup.catalogue
        if not isinstance(item, Narrow) or item.knob not in catalogue:
            return None, None
        limit = envelope.limit_of(self.state.setup.limits, item.knob)
        allowed = envelope.allowed(catalogue[item.knob], limit, self.state.originals.get(item.knob, ""))
        return allowed.low, allowed.high

    def narrowed(self, spans: tuple[Span, ...]) -> tuple[Span, ...]:
        """A search's room, as far as advice leaves it."""
        items = [one.item for one in in_force(self.state, self.t)]
        return tuple(advice.narrowed(span, items) for span in spans)

    def preferred(self) -> frozenset[str]:
        """Rules whose guesses come first."""
        knobs = {one.item.knob for one in in_force(self.state, self.t) if isinstance(one.item, Prefer)}
        rules = self.state.setup.rules if knobs else ()
        return frozenset(rule.id for rule in rules if knobs & {action.knob for action in rule.do})

    def drop_advice(self) -> None:
        """The owner's word."""
        dropped = [advice.words(one.item) for one in self.state.advice if self.t < one.until]
        self.state = replace(self.state, advice=())
        self.note("advised", by="owner", taken=(), not_taken=(), dropped=dropped)
