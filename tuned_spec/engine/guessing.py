"""Where trials come from: rules that hold, searches that are due, workloads that are known.

Owns the order of asking: the envelope's gate, the selection, a look at the knobs, the envelope's judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.climbing import Climbing
from tuned_spec.engine.events import Look, Looked, Note, Observed, Planned
from tuned_spec.engine.state import HISTORY, Phase, Trial, situation
from tuned_spec.errors import KnobAbsent, KnobError
from tuned_spec.model import Climb, Knob, Mode, Observation, Proposal, Record, Refusal, Rule, Value, Writes
from tuned_spec.speculate import prior, selection
from tuned_spec.speculate import rules as speculator
from tuned_spec.speculate.climb import as_rule

ROOM = 16  # trials that one round may open; the envelope's budget of changes a minute is the tighter one

replace = msgspec.structs.replace


class Guessing(Climbing):
    def observed(self, event: Observed) -> None:
        latest = dict(self.state.latest)
        for name, value in event.values.items():
            latest[name] = (*latest.get(name, ())[-HISTORY + 1 :], value)
        self.state = replace(self.state, latest=latest)
        for trial in tuple(self.state.trials.values()):
            if trial.window and trial.phase in (Phase.JUDGING, Phase.CLIMBING):
                self.put(self.collect(trial, trial.window, event))
        if event.host and self.recognise(event.values):
            self.restart_climbs()
        self.recall()
        self.guess(Observation(self.t, event.values))
        self.climb()

    def ticked(self) -> None:
        """A rule's `for` may end although nothing new was seen."""
        due = speculator.next_check(self.state.rules, self.t)
        if due is not None and due <= self.t:
            self.guess(Observation(self.t, {}))

    def planned(self, event: Planned) -> None:
        """Open trials go on; the rules of what went away are not asked any more, and nothing of them is kept:
        there is no end of cgroups that come and go. (A rest is kept: what was wrong may come back.)"""
        gone = {rule.id for rule in self.state.setup.rules} - {rule.id for rule in event.rules}
        last = {rule: code for rule, code in self.state.last_refusal.items() if rule not in gone}
        heard = self.state.rules.values  # lately
        latest = {name: all for name, all in self.state.latest.items() if "@" not in name or name in heard}
        setup = replace(self.state.setup, rules=event.rules, options=event.options)
        self.state = replace(self.state, setup=setup, last_refusal=last, latest=latest)

    # --------------------------------------------------------------------------- who may ask

    def guess(self, observation: Observation) -> None:
        """The rules that hold: those that the envelope lets through are weighed against each other."""
        setup, learned = self.state.setup, self.state.learned
        memory, fired = speculator.advance(setup.rules, self.state.rules, observation, setup.stale_s)
        self.state = replace(self.state, rules=memory)
        asking: dict[str, tuple[Rule, selection.Candidate]] = {}
        for rule in fired:
            if self.is_busy(rule.id):
                continue
            if refusal := self.gate(rule):
                self.refuse(rule, refusal)
            else:
                # High risk gets through the gate only if a person is asked first.
                asking[rule.id] = rule, replace(selection.candidate(rule, setup.catalogue), asked=True)
        if not asking:
            return
        candidates = [candidate for _, candidate in asking.values()]
        chosen = selection.choose(
            candidates, learned.record, learned.watched.usual, self.wall, ROOM, preferred=self.preferred()
        )
        for id in chosen.launch:
            self.look(asking[id][0])
        for id, why in chosen.skip.items():
            code = "not_worth" if chosen.worth[id] < 0 else "knob_busy"
            self.refuse(asking[id][0], Refusal(code, "", why))

    def recall(self) -> None:
        """A known workload is back: jump to what helped under it, once a visit."""
        learned = self.state.learned
        found = prior.recall(learned.priors, learned.watched.recent, self.wall)
        if isinstance(found, prior.Unknown) or found.workload == learned.tried:
            return
        rule = prior.as_rule(found, self.state.setup.catalogue, self.state.foreign)
        if isinstance(rule, Refusal) or self.is_busy(rule.id):
            return
        known = {**learned.known, rule.id: (rule, found)}
        if refusal := self.gate(rule):
            self.state = replace(self.state, learned=replace(learned, known=known))
            self.refuse(rule, refusal)
            return
        self.state = replace(self.state, learned=replace(learned, known=known, tried=found.workload))
        self.look(rule)

    def climb(self) -> None:
        """Searches whose objective is heard. They try as they go: only where writing first is allowed."""
        if self.state.mode is not Mode.LOSSY:
            return
        for climb in self.state.setup.climbs:
            if climb.expect.metric not in self.state.rules.values or self.is_busy(climb.id):
                continue
            rule = self.due(climb)
            if refusal := self.gate(rule):
                self.refuse(rule, refusal)
            else:
                self.look(rule)

    def due(self, climb: Climb) -> Rule:
        """The search as a rule that asks: one answer a workload is enough for a while, another asks anew."""
        last = self.state.envelope.last
        moved = [last[span.knob].t for span in climb.spans if span.knob in last]
        rested = not moved or self.state.learned.watched.since > max(moved)
        return replace(as_rule(climb), cooldown_s=0.0 if rested else self.state.setup.policy.rest_s)

    def is_busy(self, rule: str) -> bool:
        """Its own guess is out already, or its knobs are being read."""
        return rule in self.state.looking or any(
            trial.proposal.rule == rule for trial in self.state.trials.values()
        )

    def gate(self, rule: Rule) -> Refusal | None:
        catalogue = self.state.setup.catalogue
        knobs = knobs_of(rule)
        randomised = all(catalogue[k].alternable for k in knobs if k in catalogue)
        now = situation(self.state, self.t)
        return envelope.gate(rule.id, knobs, rule.expect.metric, randomised, rule.cooldown_s, now)

    def look(self, rule: Rule) -> None:
        self.state = replace(self.state, looking=self.state.looking | {rule.id})
        self.do(look_at(rule, self.state.setup.catalogue))

    def refuse(self, rule: Rule, refusal: Refusal) -> None:
        """Count it and write it down, but only the first of a row of the same: a busy rule is no flood."""
        if self.state.last_refusal.get(rule.id) != refusal.code:
            counts = {**self.state.refusals, refusal.code: self.state.refusals.get(refusal.code, 0) + 1}
            self.state = replace(self.state, refusals=counts)
            data: dict[str, object] = {"code": refusal.code, "what": refusal.what}
            knobs = (refusal.knob,) if refusal.knob else ()
            self.do(Note(Record("refused", self.t, rule=rule.id, knobs=knobs, data=data)))
        last = {**self.state.last_refusal, rule.id: refusal.code}
        self.state = replace(self.state, last_refusal=last)

    # ---------------------------------------------------------------------- what comes of it

    def looked(self, event: Looked) -> None:
        """The knobs' values are known: make the proposal, ask the envelope, open the trial."""
        if event.rule not in self.state.looking:
            return
        self.state = replace(self.state, looking=self.state.looking - {event.rule})
        setup = self.state.setup
        known = self.state.learned.known.get(event.rule)
        climb = setup.climb(event.rule)
        rule = known[0] if known else as_rule(climb) if climb else setup.rule(event.rule)
        if rule is None:
            return
        if event.refusal:
            self.refuse(rule, event.refusal)
            return
        if climb is not None:
            if refusal := self.gate(rule):  # a rule that asked with it may have got the knob
                self.refuse(rule, refusal)
                return
            try:
                self.open_climb(climb, event.live)
            except KnobError as error:
                self.refuse(rule, Refusal("unreadable", error.knob, str(error)))
            return
        live = event.live
        originals = {**live, **{k: v for k, v in self.state.originals.items() if k in live}}
        reading = setup.catalogue, setup.limits, reader(live), reader(originals), self.seen(rule)
        guess = prior.propose(rule, known[1], *reading) if known else speculator.propose(rule, *reading)
        if isinstance(guess, Proposal):
            now = situation(self.state, self.t)
            refusal = envelope.judge(guess, live, originals, now, free_step=known is not None)
            if refusal is None:
                self.open_trial(guess, live, rule)
                return
        else:
            refusal = guess
        self.refuse(rule, refusal)

    def seen(self, rule: Rule) -> dict[str, float]:
        latest = self.state.latest
        return {name: latest[name][-1] for name in speculator.metrics(rule) if name in latest}

    # ------------------------------------------------------------------------ one step ahead

    def send_case(self, trial: Trial) -> None:
        """While the actor deliberates: which of the guesses that wait for it come next if it confirms."""
        super().send_case(trial)
        setup, learned = self.state.setup, self.state.learned
        opened, states = setup.rule(trial.proposal.rule), self.state.rules.states
        if opened is None:
            return
        waiting = [
            rule
            for rule in setup.rules
            if rule.id in states and states[rule.id].active and not self.is_busy(rule.id) and self.gate(rule)
        ]
        chosen = selection.ahead(
            selection.candidate(opened, setup.catalogue),
            [selection.candidate(rule, setup.catalogue) for rule in waiting],
            learned.record,
            learned.watched.usual,
            self.wall,
            ROOM,
        )
        self.state = replace(self.state, prepared={**self.state.prepared, trial.id: chosen.launch})

    def drop(self, trial: Trial) -> None:
        super().drop(trial)
        prepared = {id: rules for id, rules in self.state.prepared.items() if id != trial.id}
        self.state = replace(self.state, prepared=prepared)

    def keep(self, trial: Trial, after: Writes) -> None:
        """What waited for this verdict need not wait for the next tick, too."""
        ready = self.state.prepared.get(trial.id, ())
        super().keep(trial, after)
        for name in ready:
            rule, state = self.state.setup.rule(name), self.state.rules.states.get(name)
            if rule and state and state.active and not self.is_busy(name) and self.gate(rule) is None:
                self.look(rule)


def knobs_of(rule: Rule) -> tuple[str, ...]:
    return tuple(dict.fromkeys(action.knob for action in rule.do))


def look_at(rule: Rule, catalogue: Mapping[str, Knob]) -> Look:
    knobs = knobs_of(rule)
    return Look(rule.id, knobs, tuple(sorted(envelope.partners(knobs, catalogue) - set(knobs))))


def reader(values: Mapping[str, Value]) -> Callable[[str], Value]:
    def read(knob: str) -> Value:
        if knob not in values:
            raise KnobAbsent(knob, "read", "its value is not known")
        return values[knob]

    return read
