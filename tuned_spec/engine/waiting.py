"""Changes that wait for a person: asked before a trial begins, or when it is over and before it is kept.

Owns when a person is asked and what an answer does. Whose yes is needed is `approval`'s; how a person hears
of it and answers is the daemon's and the actor's. A question always ends: answered, out of time, or with its
trial.
"""

from __future__ import annotations

import msgspec

from tuned_spec import approval, envelope
from tuned_spec.engine.events import ActorChanged, Apply, Decided, Look, Looked, Tell
from tuned_spec.engine.guessing import Guessing
from tuned_spec.engine.state import Phase, Question, Trial, is_pending, situation
from tuned_spec.engine.telling import notice, question_of
from tuned_spec.model import Approval, Arm, Refusal, Rule, Side, Verdict, VerdictKind

QUESTIONS = 64  # that wait at once: nobody would read more
TOLD = 2  # how often a question is told: once, and once more to an actor started anew
YES = "yes "  # what a look is for that comes before what was said yes to; no rule has a name with a blank

replace = msgspec.structs.replace


class Waiting(Guessing):
    @property
    def approval(self) -> Approval:
        return self.state.setup.policy.approval

    # ------------------------------------------------------------------------------ asking

    def gate(self, rule: Rule) -> Refusal | None:
        refusal = super().gate(rule)
        if refusal is None and sum(1 for trial in self.state.trials.values() if trial.question) >= QUESTIONS:
            knobs = tuple(action.knob for action in rule.do)
            if approval.needed(self.approval, (rule.id,), knobs, self.state.setup.catalogue):
                return Refusal("questions", knobs[0], envelope.CODES["questions"])
        return refusal

    def needs_yes(self, trial: Trial) -> bool:
        """A jump to a known workload's settings is of the rules that they came of."""
        rule = trial.proposal.rule
        known = self.state.learned.known.get(rule)
        rules = {rule} | ({setting.rule for setting in known[1].settings} if known else set())
        return approval.needed(self.approval, rules, trial.knobs, self.state.setup.catalogue)

    def begin(self, trial: Trial) -> None:
        first = approval.before(self.approval, trial.knobs, self.state.setup.catalogue)
        if first and not trial.approved and self.needs_yes(trial):
            self.ask(replace(trial, arm=Arm.A), Question(trial.after, lease_s=trial.deadline - self.t))
        else:
            super().begin(trial)

    def conclude(self, trial: Trial, verdict: Verdict) -> None:
        if self.is_asked_about(trial, verdict) and self.needs_yes(trial):
            writes = verdict.writes if verdict.kind is VerdictKind.OVERWRITE else trial.after
            self.ask(trial, Question(writes, verdict))
        else:
            super().conclude(trial, verdict)

    def is_asked_about(self, trial: Trial, verdict: Verdict) -> bool:
        """What is about to be kept; and what looks better where no trial could show it. There figures from
        before and after are all there is, and a person may know whether the load was the same."""
        if verdict.kind is not VerdictKind.REJECT:
            return not trial.approved
        better = verdict.effect is not None and verdict.effect > 0
        return verdict.claim == "before_after" and verdict.by == "trial" and better

    def ask(self, trial: Trial, question: Question) -> None:
        """The host goes to the safe side, directly from where it is."""
        deadline = self.t + self.approval.for_s
        trial = self.put(replace(trial, question=question, deadline=deadline, window=None))
        said = notice(self.state, trial, question, "pending", question_of(self.state, trial, question))
        self.note("pending", trial, **msgspec.to_builtins(said))
        trial = self.tell(trial, question)
        new = said.waits_at is Side.NEW
        arm = (Arm.B if question.writes == trial.after else Arm.C) if new else Arm.A
        if arm is trial.arm is not Arm.C:
            self.rest_between(trial)
        else:
            self.put(replace(trial, arm=arm, phase=Phase.SWITCHING))
            self.do(Apply(trial.id, trial.proposal.rule, question.writes if new else trial.before))

    def tell(self, trial: Trial, question: Question) -> Trial:
        words = question_of(self.state, trial, question)
        self.do(Tell(notice(self.state, trial, question, "pending", words)))
        return self.put(replace(trial, question=replace(question, told=question.told + 1)))

    def actor_changed(self, event: ActorChanged) -> None:
        """The one that died may not have told anybody."""
        super().actor_changed(event)
        for trial in tuple(self.state.trials.values()) if event.alive else ():
            if trial.question and is_pending(trial) and trial.question.told < TOLD:
                self.tell(trial, trial.question)

    def rest_between(self, trial: Trial) -> None:
        """What is asked about rests where it has been brought."""
        if trial.question is None:
            super().rest_between(trial)
        else:
            self.put(replace(trial, phase=Phase.WAITING))

    # --------------------------------------------------------------------------- answering

    def decided(self, event: Decided) -> None:
        trial = self.state.trials.get(event.trial)
        question = trial.question if trial else None
        if trial is None or question is None or not is_pending(trial):
            return  # it has ended meanwhile
        word = "approved" if event.approve else "rejected"
        what = f"{word} by {event.who} (uid {event.uid})" + (f": {event.remark}" if event.remark else "")
        facts = {"approve": event.approve, "uid": event.uid, "name": event.who, "remark": event.remark}
        self.note("decided", trial, what=what, **facts)
        self.do(Tell(notice(self.state, trial, question, "decided", what)))
        if event.approve:
            self.put(replace(trial, question=replace(question, yes=True)))
            return  # and so it goes on, as soon as it can: see `time_passes`
        effect = question.verdict.effect if question.verdict else None
        self.decline(replace(trial, question=None), what, effect, "person")

    def go_on(self, trial: Trial) -> None:
        """Do what a person said yes to, once nothing stands in the way."""
        question = trial.question
        if question is None or not question.yes or trial.phase is not Phase.WAITING:
            return
        if self.hindrance(trial, question):
            return
        if question.verdict is None:
            # They may have thought for hours: is everything as they were told?
            beside = envelope.partners(trial.knobs, self.state.setup.catalogue) - set(trial.knobs)
            self.do(Look(YES + trial.id, trial.knobs, tuple(sorted(beside))))
            return
        deadline = self.t + trial.proposal.lease_s  # for a write that blocks
        self.accept(replace(trial, question=None, deadline=deadline), replace(question.verdict, by="person"))

    def hindrance(self, trial: Trial, question: Question) -> str:
        """What a yes still waits for, "" for nothing. A trial that begins needs what any needs to begin."""
        if not self.state.journal_ok:
            return envelope.CODES["journal_failed"]
        if question.verdict is not None:
            return ""
        others = {id: one for id, one in self.state.trials.items() if id != trial.id}
        now = situation(replace(self.state, trials=others), self.t)
        if now.paused:
            return envelope.CODES["paused"]
        if not now.actor_alive:
            return envelope.CODES["no_actor"]
        randomised = all(now.catalogue[knob].alternable for knob in trial.knobs)
        refusal = envelope.collision(trial.knobs, trial.proposal.expect.metric, randomised, now)
        return refusal.what if refusal else ""

    def looked(self, event: Looked) -> None:
        if not event.rule.startswith(YES):
            super().looked(event)
            return
        trial = self.state.trials.get(event.rule.removeprefix(YES))
        question = trial.question if trial else None
        if trial is None or question is None or trial.phase is not Phase.WAITING or not question.yes:
            return
        if self.hindrance(trial, question):
            return  # another that was said yes to has begun meanwhile
        moved = [w for w in trial.before if event.live.get(w.knob) != w.value]
        if event.refusal:
            self.revert(trial, f"approved, but {event.refusal.knob}: {event.refusal.what}")
        elif moved:
            knob, then = moved[0].knob, moved[0].value
            self.revert(trial, f"approved, but {knob} is {event.live.get(knob)} by now and was {then} then")
        else:
            phase = Phase.CLIMBING if trial.climb else Phase.APPLYING
            trial = replace(trial, phase=phase, arm=Arm.B, question=None, approved=True)
            self.begin(replace(trial, deadline=self.t + question.lease_s))

    # ------------------------------------------------------------------------------ ending

    def time_passes(self) -> None:
        super().time_passes()
        for trial in tuple(self.state.trials.values()):
            self.go_on(trial)

    def overdue(self, trial: Trial) -> str:
        question = trial.question
        if question is None:
            return super().overdue(trial)
        if question.yes:
            why = self.hindrance(trial, question) or "the time was up"
            return f"approved, but too late: {why}"
        return f"nobody answered in {self.approval.for_s:g} s, which counts as a no"

    def revert(self, trial: Trial, why: str, *, tell: bool = True) -> None:
        if trial.phase is Phase.WAITING and not trial.cases_sent:
            self.note("reverted", trial, why=why, outcomes=())  # nothing has been written
            self.drop(replace(trial, why=why))
        else:
            super().revert(trial, why, tell=tell)

    def drop(self, trial: Trial) -> None:
        if trial.question:
            self.do(Tell(notice(self.state, trial, trial.question, "ended", trial.why)))
        super().drop(trial)
