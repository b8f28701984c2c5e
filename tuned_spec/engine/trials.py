"""The life of a trial: opened, applied, judged, kept or taken back; and whoever may interfere.

Owns what an event means for open trials and held values; must not know where guesses come from.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.advised import Advised
from tuned_spec.engine.events import (
    ActorChanged,
    Applied,
    Apply,
    ApplyFailed,
    ForeignFound,
    Hold,
    JournalChanged,
    Note,
    Pause,
    Resume,
    Revert,
    RevertAll,
    Reverted,
    Stop,
    TakeUp,
    Tell,
)
from tuned_spec.engine.state import Foreign, Held, Phase, Trial
from tuned_spec.model import (
    Allowed,
    Arm,
    Cancel,
    Case,
    Consulted,
    Effect,
    Measure,
    Mode,
    Probe,
    Proposal,
    Record,
    Rule,
    Value,
    Verdict,
    VerdictKind,
    Writes,
)
from tuned_spec.speculate import prior
from tuned_spec.speculate.foresight import MEASURE
from tuned_spec.speculate.prior import Fate

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # a revert that the kernel refused is tried again, for ever
FOLD_S = 60.0  # stray verdicts are written down once in this time
IGNORED = 400  # characters of why one could not be
CONSULTED_A_TRIAL = 8  # exchanges with a model that are kept
CASES_A_TRIAL = 2  # how often a case is sent: once, and once more to an actor started anew

replace = msgspec.structs.replace


class Trials(Advised):
    def open_trial(self, guess: Proposal, live: dict[str, Value], rule: Rule) -> None:
        number = self.state.started + 1
        last = {k: v for k, v in self.state.last_refusal.items() if k != guess.rule}
        memory = envelope.changed(self.state.envelope, guess, live, self.t)
        self.state = replace(self.state, started=number, last_refusal=last, envelope=memory)
        before = tuple(replace(w, value=live[w.knob]) for w in guess.writes)
        trial = Trial(
            id=f"{self.state.prefix}{number}",
            proposal=guess,
            phase=Phase.APPLYING,
            arm=Arm.B,
            before=before,
            after=guess.writes,
            deadline=self.t + guess.lease_s + self.state.review_s,
            signature=self.state.learned.watched.usual,
        )
        facts = {
            "writes": guess.writes,
            "before": before,
            "reason": guess.reason,
            "seen": guess.seen,
            "expect": guess.expect,
            "guard": guess.guard,
            "confidence": guess.confidence,
            "lease_s": guess.lease_s,
            "source": rule.source,
            "origin": rule.origin,
        }
        if self.state.mode is Mode.OBSERVE:
            self.note("would", trial, **facts)
        else:
            self.note("proposed", trial, **facts)
            self.begin(trial)

    def begin(self, trial: Trial) -> None:
        """Written first and judged after; or, in lossless, what the actor asks for and nothing else."""
        if self.state.mode is Mode.LOSSLESS:
            self.send_case(self.put(replace(trial, phase=Phase.JUDGING, arm=Arm.A)))
        else:
            self.put(trial)
            self.do(Apply(trial.id, trial.proposal.rule, trial.after))

    def send_case(self, trial: Trial) -> None:
        setup, guess = self.state.setup, trial.proposal
        knobs = tuple(setup.catalogue[k] for k in trial.knobs)
        case = Case(
            id=trial.id,
            mode=self.state.mode,
            rule=guess.rule,
            reason=guess.reason,
            knobs=knobs,
            before=trial.before,
            after=trial.after,
            seen=guess.seen,
            expect=guess.expect,
            guard=guess.guard,
            allowed=self.allowed(trial),
            settle_s=guess.settle_s,
            dwell_s=guess.dwell_s,
            alternable=all(k.alternable for k in knobs),
            fresh_instances=any(k.effect not in (Effect.AT_ONCE, Effect.SLOWLY) for k in knobs),
            lease_s=trial.deadline - self.t,
            alpha=setup.policy.alpha,
            max_pairs=setup.policy.max_pairs,
            history={name: self.state.latest.get(name, ()) for name in trial.metrics},
            workload_age_s=self.workload_age(),
            review_s=self.state.review_s,
            host=setup.host,
            signature=trial.signature.features if trial.signature else {},
            past=prior.past(self.state.learned.priors, trial.knobs, trial.signature, self.wall, trial.after),
        )
        self.put(replace(trial, cases_sent=trial.cases_sent + 1, window=None))
        self.do(Tell(case))

    def allowed(self, trial: Trial) -> tuple[Allowed, ...]:
        """What the actor may choose for each of its knobs."""
        setup = self.state.setup
        originals = {w.knob: self.state.originals.get(w.knob, w.value) for w in trial.before}
        return tuple(
            envelope.allowed(setup.catalogue[k], setup.limit(k, trial.proposal.rule), originals[k])
            for k in trial.knobs
        )

    def applied(self, event: Applied) -> None:
        trial = self.state.trials.get(event.trial)
        if trial is None:
            return
        # A partner that the change zeroed is among what it replaced, and goes back with it.
        originals = {w.knob: w.value for w in (*event.before, *trial.before)}
        self.state = replace(self.state, originals={**originals, **self.state.originals})
        match trial.phase:
            case Phase.APPLYING:
                self.note(
                    "applied",
                    trial,
                    before=trial.before,
                    after=event.after,
                    rounded=event.rounded,
                    seconds=event.seconds,
                )
                trial = replace(trial, phase=Phase.JUDGING, after=event.after)
                self.send_case(self.put(trial))
            case Phase.SWITCHING:
                if trial.window is None:  # back on A, or the actor died while its arm was being written
                    self.rest_between(self.put(replace(trial, phase=Phase.JUDGING)))
                    return
                opens = self.t + trial.window.ask.settle_s
                window = replace(trial.window, opens=opens, closes=opens + trial.window.ask.dwell_s)
                self.put(replace(trial, phase=Phase.JUDGING, window=window))
            case Phase.KEEPING:
                self.keep(trial, event.after)
            case Phase.JUDGING | Phase.CLIMBING | Phase.WAITING | Phase.REVERTING:
                pass
            case _:
                assert_never(trial.phase)

    def apply_failed(self, event: ApplyFailed) -> None:
        trial = self.state.trials.get(event.trial)
        if trial is None:
            return
        self.note("failed", trial, op="write", errno=event.code, what=event.what, knob=event.knob)
        match trial.phase:
            case Phase.APPLYING:
                self.rest(trial)
                if event.left:
                    self.revert(trial, f"{event.knob} could not be written, nor taken back at once")
                else:
                    self.drop(trial)
            case Phase.SWITCHING | Phase.KEEPING | Phase.JUDGING | Phase.CLIMBING | Phase.WAITING:
                self.rest(trial)
                self.revert(trial, f"{event.knob} could not be written")
            case Phase.REVERTING:
                pass
            case _:
                assert_never(trial.phase)

    def revert(self, trial: Trial, why: str, *, tell: bool = True) -> None:
        """Take a trial back: to what was confirmed before it, else to the original."""
        if trial.phase is Phase.REVERTING:
            return
        if tell and trial.cases_sent:
            self.do(Tell(Cancel(trial.id, why)))
        trial = self.put(replace(trial, phase=Phase.REVERTING, why=why, window=None, retry_at=None))
        self.send_revert(trial)

    def send_revert(self, trial: Trial) -> None:
        knobs = [k for k in trial.knobs if k not in self.state.foreign]
        held = {k: self.state.held[k] for k in knobs if k in self.state.held}
        restore = tuple(k for k in knobs if k not in held)
        back = tuple(w for w in trial.before if w.knob in held)
        self.do(Revert(trial.id, restore, back, trial.proposal.rule, trial.why))

    def reverted(self, event: Reverted) -> None:
        gone = {o.knob for o in event.outcomes if o.status in ("restored", "unchanged", "void")}
        foreign = {o.knob: o for o in event.outcomes if o.status == "foreign"}
        failed = [o for o in event.outcomes if o.status == "failed"]
        trial = self.state.trials.get(event.trial)
        for name, outcome in foreign.items():
            if name not in self.state.foreign:
                last = self.state.held.get(name)
                ours = last.value if last else self.state.originals.get(name, outcome.original)
                self.yield_knob(name, ours, outcome.found, "unknown")
        originals = {k: v for k, v in self.state.originals.items() if k not in gone | foreign.keys()}
        held = {k: v for k, v in self.state.held.items() if k not in gone | foreign.keys()}
        self.state = replace(self.state, originals=originals, held=held)
        if trial is None:
            self.all_reverted(event, gone | foreign.keys())
            return
        if trial.phase is not Phase.REVERTING:
            return
        if failed:
            delay = RETRY_S[min(trial.tries, len(RETRY_S) - 1)]
            if trial.tries == 0:
                what = "; ".join(f"{o.knob}: {o.why}" for o in failed)
                self.note("fault", trial, what=what, hint="tried again until it succeeds")
            self.put(replace(trial, retry_at=self.t + delay, tries=trial.tries + 1))
            return
        self.note("reverted", trial, why=trial.why, outcomes=event.outcomes)
        self.drop(trial)

    def all_reverted(self, event: Reverted, gone: set[str]) -> None:
        """Of no open trial (all, or what one had kept): trials with every knob back are over; the others
        are tried again by themselves."""
        over = [t for t in self.state.trials.values() if t.phase is Phase.REVERTING and set(t.knobs) <= gone]
        for trial in over:
            self.drop(trial)
        if event.outcomes:
            knobs = tuple(o.knob for o in event.outcomes)
            trials = tuple(t.id for t in over)
            data: dict[str, object] = {"why": event.why, "outcomes": event.outcomes, "trials": trials}
            self.do(Note(Record("reverted", self.t, event.trial, knobs=knobs, data=data)))

    def keep(self, trial: Trial, after: Writes) -> None:
        """The verdict's value is in the kernel: hold it."""
        self.do(Hold(trial.id))
        rule = trial.proposal.rule
        held = {w.knob: Held(w.knob, w.value, trial.id, rule, self.t) for w in after}
        memory = envelope.right(self.state.envelope, rule)
        self.state = replace(self.state, held={**self.state.held, **held}, envelope=memory)
        self.note(trial.kept, trial, writes=after)
        self.drop(trial)

    # ---------------------------------------------------------------------------- the actor

    def actor_said(self, message: Measure | Probe | Consulted | Verdict) -> None:
        trial = self.state.trials.get(message.case)
        match message:
            case Measure():
                self.heard(message.case, MEASURE)
                self.measure(trial, message)
            case Probe():
                self.probe(trial, message)
            case Consulted():
                self.consulted(trial, message)
            case Verdict():
                if trial is not None:
                    self.end_session(trial, with_verdict=True)
                self.verdict(trial, message)
            case _:
                assert_never(message)

    def consulted(self, trial: Trial | None, said: Consulted) -> None:
        """On record, if it is about what is open: nobody fills the history with more."""
        if trial is not None and trial.consulted < CONSULTED_A_TRIAL:
            self.put(replace(trial, consulted=trial.consulted + 1))
            # What it is about and what might be chosen, by our own word: who replays it must know.
            about = {"before": trial.before, "after": trial.after, "allowed": self.allowed(trial)}
            self.note("consulted", trial, **about, **msgspec.to_builtins(said))

    def verdict(self, trial: Trial | None, verdict: Verdict) -> None:
        if trial is None or trial.phase is not Phase.JUDGING:
            # Folded: whoever floods with verdicts shall not push what happened out of the history.
            if self.t >= self.state.ignored_until:
                self.state = replace(self.state, ignored_until=self.t + FOLD_S)
                self.note("ignored", trial, what=f"verdict for {verdict.case[:64]!a}, which is not open")
            return
        writes = verdict.writes if verdict.kind is VerdictKind.OVERWRITE else trial.after
        if verdict.kind is not VerdictKind.REJECT:
            refusal = self.judge_actor_writes(trial, writes)
            if refusal:
                if not trial.ignored:
                    self.put(replace(trial, ignored=True))
                    what = f"{verdict.kind.value}: {refusal.code}: {refusal.knob}: {refusal.what}"
                    self.note("ignored", trial, what=what[:IGNORED])
                return  # silence: the lease will end it
        self.note("verdict", trial, **msgspec.to_builtins(verdict))
        self.advise(trial, verdict)
        self.conclude(trial, verdict)

    def conclude(self, trial: Trial, verdict: Verdict) -> None:
        match verdict.kind:
            case VerdictKind.REJECT:
                self.decline(trial, f"rejected: {verdict.reason}", verdict.effect, verdict.by)
            case VerdictKind.CONFIRM | VerdictKind.OVERWRITE:
                self.accept(trial, verdict)
            case _:
                assert_never(verdict.kind)

    def accept(self, trial: Trial, verdict: Verdict) -> None:
        overwrite = verdict.kind is VerdictKind.OVERWRITE
        kept, writes = ("overwritten", verdict.writes) if overwrite else ("confirmed", trial.after)
        self.learn(trial, Fate.CONFIRMED, writes, verdict.effect, verdict.by)
        self.put(replace(trial, phase=Phase.KEEPING, kept=kept, keep=writes, window=None))
        self.do(Apply(trial.id, trial.proposal.rule, writes))

    def decline(self, trial: Trial, why: str, effect: float | None, by: str = "trial") -> None:
        self.rest(trial)
        self.learn(trial, Fate.REJECTED, trial.after, effect, by)
        self.revert(trial, why, tell=False)

    def actor_changed(self, event: ActorChanged) -> None:
        self.state = replace(self.state, actor_alive=event.alive, review_s=event.review_s)
        self.note("actor", what=event.what)
        for trial in tuple(self.state.trials.values()):
            if trial.phase not in (Phase.JUDGING, Phase.SWITCHING):
                continue
            if not event.alive:
                # Its windows died with it, and its questions. The change itself stays until its lease ends.
                self.forget(trial.id)
                trial = self.put(replace(trial, window=None))
                if trial.phase is Phase.JUDGING:
                    self.rest_between(trial)
            elif trial.phase is Phase.JUDGING and not trial.window and trial.cases_sent < CASES_A_TRIAL:
                self.send_case(trial)  # with a window open it is the same one, who said hello twice

    # ------------------------------------------------------------------- owners and faults

    def yield_knob(self, name: str, ours: Value, found: Value, writer: str) -> None:
        foreign = {**self.state.foreign, name: Foreign(ours, found, writer, self.t)}
        if self.is_one_task(name):  # no rule means it, and there is no end of tasks that set their own nice
            foreign = self.state.foreign
        held = {k: v for k, v in self.state.held.items() if k != name}
        originals = {k: v for k, v in self.state.originals.items() if k != name}
        self.state = replace(self.state, foreign=foreign, held=held, originals=originals)
        data: dict[str, object] = {"ours": ours, "found": found, "writer": writer}
        self.do(Note(Record("foreign", self.t, knobs=(name,), data=data)))

    def is_one_task(self, name: str) -> bool:
        """Of a selector's tasks, not the selector."""
        entry, _, instance = name.partition("@")
        catalogue = self.state.setup.catalogue
        return "=" not in instance and entry in catalogue and catalogue[entry].per == "task"

    def foreign_found(self, event: ForeignFound) -> None:
        """Theirs now. Only that knob yields; a trial that has it ends and its other knobs go back."""
        for write in event.writes:
            self.yield_knob(write.knob, write.ours, write.found, write.writer)
            for trial in tuple(self.state.trials.values()):
                if write.knob in trial.knobs:
                    self.revert(trial, f"{write.knob} was written by somebody else")

    def journal_changed(self, event: JournalChanged) -> None:
        if event.ok != self.state.journal_ok:
            hint = "" if event.ok else "no new changes until it can be written; reverts still work"
            self.note("fault", what=event.what, hint=hint)
        self.state = replace(self.state, journal_ok=event.ok)

    def pause(self, event: Pause) -> None:
        self.state = replace(self.state, paused=True)
        if event.restore:
            self.revert_all("restored by the owner", event.knobs)

    def revert_all(self, why: str, knobs: tuple[str, ...] = ()) -> None:
        # The ledger puts coupled knobs back together.
        catalogue = self.state.setup.catalogue
        touched = envelope.partners(knobs, catalogue)
        for trial in tuple(self.state.trials.values()):
            if not knobs or touched & envelope.partners(trial.knobs, catalogue):
                if trial.cases_sent and trial.phase is not Phase.REVERTING:
                    self.do(Tell(Cancel(trial.id, why)))
                self.put(replace(trial, phase=Phase.REVERTING, why=why, window=None, retry_at=self.t + 1))
        self.do(RevertAll(why, knobs))

    def resume(self, event: Resume) -> None:
        foreign = {k: v for k, v in self.state.foreign.items() if k not in event.knobs}
        if event.advice:
            self.drop_advice()
        else:
            self.state = replace(self.state, paused=bool(event.knobs) and self.state.paused)
        if event.knobs:
            self.state = replace(self.state, foreign=foreign)
            self.do(TakeUp(event.knobs))

    def stop(self, event: Stop) -> None:
        if not self.state.stopping:
            self.state = replace(self.state, stopping=True)
            self.revert_all(event.why)

    # ------------------------------------------------------------------------------- time

    def time_passes(self) -> None:
        """Leases end, windows open and close, failed reverts are tried again."""
        for trial in tuple(self.state.trials.values()):
            if trial.phase is Phase.REVERTING:
                if trial.retry_at is not None and self.t >= trial.retry_at:
                    self.send_revert(self.put(replace(trial, retry_at=None)))
            elif self.t >= trial.deadline:
                self.rest(trial)
                if trial.question is None:  # a person's silence says nothing of the guess
                    self.learn(trial, None, (), None)
                self.revert(trial, self.overdue(trial))
            elif trial.phase in (Phase.JUDGING, Phase.CLIMBING) and trial.window:
                self.turn_window(trial, trial.window)
            elif trial.rest_due is not None and self.t >= trial.rest_due:
                self.rest_on_b(trial)

    def overdue(self, trial: Trial) -> str:
        return "lease: no verdict in time"
