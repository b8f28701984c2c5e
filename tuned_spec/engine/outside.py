"""Proposals from outside the policy: a person's, another agent's, a model's.

Owns how they come in and how they are answered. They go the way of a rule's guess: gate, look, judgement,
lease, trial, verdict. Unlike a rule's, their values are never brought inside what is allowed: they are
refused, so that what is tried is what was asked for. Must not know who carries a proposal here.
"""

from __future__ import annotations

import msgspec

from tuned_spec import envelope, windows
from tuned_spec.engine.events import Answer, Looked, Offered, Revert, Withdrawn
from tuned_spec.engine.state import Trial, situation
from tuned_spec.engine.waiting import Waiting
from tuned_spec.model import Action, Offer, Op, Proposal, Refusal, Rule, Writes
from tuned_spec.speculate.templates import is_glob

RULE = "outside."  # how the ids of these guesses begin
A_MINUTE = 12  # proposals of one source that are heard
A_MINUTE_OF_ALL = 60
RESTS = 256  # rejected changes from outside that are remembered

replace = msgspec.structs.replace


class Outside(Waiting):
    def offered(self, event: Offered) -> None:
        offer, rule = event.offer, as_rule(event.offer)
        if refusal := self.hear(offer):
            self.turn_down(rule, refusal)
            return
        self.state = replace(self.state, offered=(*self.state.offered, (self.t, offer.source)))
        resting = replace(rule, id=change_of(rule.id, offer.writes, offer.expect.metric))
        refusal = self.unclear(offer) or self.gate(resting) or event.refusal or self.unheard(offer)
        if refusal:
            self.turn_down(rule, refusal)
            return
        self.state = replace(self.state, offers={**self.state.offers, rule.id: offer})
        self.look(rule)

    def hear(self, offer: Offer) -> Refusal | None:
        """A flood is not even looked at, and leaves one line in the history."""
        recent = tuple(one for one in self.state.offered if one[0] > self.t - envelope.MINUTE_S)
        sources = [source for _, source in recent]
        last = {
            rule: code
            for rule, code in self.state.last_refusal.items()
            if not is_outside(rule) or rule.removeprefix(RULE) in sources
        }
        self.state = replace(self.state, offered=recent, last_refusal=last)
        if sources.count(offer.source) >= A_MINUTE:
            return Refusal("flood", "", f"{A_MINUTE} proposals of {offer.source} in the last minute")
        if len(sources) >= A_MINUTE_OF_ALL:
            return Refusal("flood", "", f"{A_MINUTE_OF_ALL} proposals from outside in the last minute")
        return None

    def unclear(self, offer: Offer) -> Refusal | None:
        catalogue = self.state.setup.catalogue
        if not offer.writes:
            return Refusal("no_change", "", "it writes nothing; name a knob and a value")
        for name in (write.knob for write in offer.writes):
            if name in catalogue and (
                is_glob(name) or (catalogue[name].per and not catalogue[name].instance)
            ):
                what = f"there is one for each {catalogue[name].per or 'of many'}; name it"
                return Refusal("unknown_knob", name, what)
        return None

    def unheard(self, offer: Offer) -> Refusal | None:
        """A program's metric has to be there now: else the change would wait out its lease for nothing."""
        metric = offer.expect.metric
        if metric.startswith("app.") and metric not in self.state.rules.values:
            return Refusal("silent", offer.writes[0].knob, f"{metric}: {envelope.CODES['silent']}")
        return None

    def looked(self, event: Looked) -> None:
        offer = self.state.offers.get(event.rule)
        if offer is None:
            super().looked(event)
            return
        offers = {id: one for id, one in self.state.offers.items() if id != event.rule}
        self.state = replace(self.state, offers=offers, looking=self.state.looking - {event.rule})
        rule, live = as_rule(offer), event.live
        guess = self.proposal(rule, offer)
        originals = {**live, **{k: v for k, v in self.state.originals.items() if k in live}}
        refusal = event.refusal or envelope.judge(guess, live, originals, situation(self.state, self.t))
        if refusal:
            self.turn_down(rule, refusal)
            return
        self.open_trial(guess, live, rule)
        self.do(Answer(offer.source, f"{self.state.prefix}{self.state.started}"))

    def proposal(self, rule: Rule, offer: Offer) -> Proposal:
        timing = windows.of(rule, self.state.setup.catalogue)
        return Proposal(
            rule=rule.id,
            writes=offer.writes,
            reason=rule.reason,
            seen=self.seen(rule),
            expect=rule.expect,
            guard=rule.guard,
            lease_s=timing.lease_s,
            cooldown_s=rule.cooldown_s,
            confidence=rule.confidence,
            settle_s=timing.settle_s,
            dwell_s=timing.dwell_s,
        )

    def turn_down(self, rule: Rule, refusal: Refusal) -> None:
        """Each is written down, for each was meant; but a flood's is one."""
        if refusal.code != "flood":
            last = {id: code for id, code in self.state.last_refusal.items() if id != rule.id}
            self.state = replace(self.state, last_refusal=last)
        self.refuse(rule, refusal)
        self.do(Answer(rule.id.removeprefix(RULE), refusal=refusal))

    def withdrawn(self, event: Withdrawn) -> None:
        """Theirs goes back, whether it is still on trial or was confirmed; and with what was kept, a trial
        that began from it: its arms would not be what they are called."""
        rule, why = RULE + event.source, f"withdrawn by {event.source}"
        trial = self.state.trials.get(event.trial)
        held = tuple(h.knob for h in self.state.held.values() if (h.trial, h.rule) == (event.trial, rule))
        if trial is not None and trial.proposal.rule == rule:
            self.revert(trial, why)
        elif held:
            catalogue = self.state.setup.catalogue
            touched = envelope.partners(held, catalogue)
            for later in tuple(self.state.trials.values()):
                if touched & envelope.partners(later.knobs, catalogue):
                    self.revert(later, f"what it began from was {why}")
            self.do(Revert(event.trial, held, (), rule, why))
        else:
            refusal = Refusal("not_yours", "", f"{event.trial}: {envelope.CODES['not_yours']}")
            self.do(Answer(event.source, refusal=refusal))
            return
        self.do(Answer(event.source, event.trial))

    # ------------------------------------------------------------------------------- rests

    def rest(self, trial: Trial) -> None:
        """What rests is the change, not who proposed it: one bad idea silences nobody."""
        if not is_outside(trial.proposal.rule):
            super().rest(trial)
            return
        rest_s = self.state.setup.policy.rest_s
        memory = envelope.rested(self.state.envelope, _change(trial), rest_s, self.t)
        ours = sorted((rest.until, name) for name, rest in memory.rests.items() if is_outside(name))
        gone = {name for _, name in ours[:-RESTS]}
        rests = {name: rest for name, rest in memory.rests.items() if name not in gone}
        self.state = replace(self.state, envelope=replace(memory, rests=rests))

    def keep(self, trial: Trial, after: Writes) -> None:
        super().keep(trial, after)
        if is_outside(trial.proposal.rule):
            memory = envelope.right(self.state.envelope, _change(trial))
            self.state = replace(self.state, envelope=memory)


def is_outside(rule: str) -> bool:
    return rule.startswith(RULE)


def as_rule(offer: Offer) -> Rule:
    """The proposal as a rule that holds now, and only now."""
    return Rule(
        id=RULE + offer.source,
        when=(),
        do=tuple(Action(write.knob, Op.SET, write.value) for write in offer.writes),
        expect=offer.expect,
        reason=offer.reason,
        source=f"proposed by {offer.source}",
        guard=offer.guard,
        confidence=offer.confidence,
    )


def change_of(rule: str, writes: Writes, metric: str) -> str:
    """What rests once it was rejected: this change, for this metric, by this source."""
    return f"{rule} {' '.join(f'{w.knob}={w.value}' for w in writes)} {metric}"


def _change(trial: Trial) -> str:
    return change_of(trial.proposal.rule, trial.proposal.writes, trial.proposal.expect.metric)
