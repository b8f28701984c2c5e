"""The loop's one brain: `step(state, event) -> (state, commands)`, pure and total.

It decides what is guessed, allowed, tried, measured, kept and put back; it never touches the host, and
knows no time but the one an event carries. What holds whatever comes, in whichever order:

- nothing is commanded that the envelope has not allowed;
- an applied change is provisional and has a deadline, after which it goes back, verdict or none;
- an open trial ends confirmed, overwritten, reverted or foreign;
- in `observe` nothing is written, in `lossless` only what the actor asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import assert_never

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.events import (
    ActorChanged,
    ActorSaid,
    Applied,
    Apply,
    ApplyFailed,
    Ask,
    Command,
    Event,
    ForeignFound,
    Hold,
    JournalChanged,
    Look,
    Looked,
    Note,
    Observed,
    Pause,
    Planned,
    Resume,
    Revert,
    RevertAll,
    Reverted,
    SenseNow,
    Stop,
    TakeUp,
    Tell,
    Ticked,
)
from tuned_spec.engine.state import HISTORY, Foreign, Held, Phase, State, Trial, Window, situation
from tuned_spec.errors import KnobAbsent
from tuned_spec.model import (
    Arm,
    Cancel,
    Case,
    Effect,
    Measure,
    Measurement,
    Mode,
    Observation,
    Probe,
    Proposal,
    Record,
    Refusal,
    Rule,
    Value,
    Verdict,
    VerdictKind,
    Writes,
)
from tuned_spec.speculate import rules as speculator

WINDOW_METRICS = 32  # in one measurement, beside those that the rule names
WINDOW_SAMPLES = 512  # of one metric in one measurement; more would not fit the door
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # a revert that the kernel refused is tried again, for ever
FOLD_S = 60.0  # stray verdicts are written down once in this time
CASES_A_TRIAL = 2  # how often a case is sent: once, and once more to an actor started anew

replace = msgspec.structs.replace


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What the engine makes of one event. Never raises; an event that no longer fits changes nothing."""
    turn = Turn(state, event.t)
    match event:
        case Observed():
            turn.observed(event)
        case Ticked():
            turn.ticked()
        case Looked():
            turn.looked(event)
        case Applied():
            turn.applied(event)
        case ApplyFailed():
            turn.apply_failed(event)
        case Reverted():
            turn.reverted(event)
        case ForeignFound():
            turn.foreign_found(event)
        case ActorSaid():
            turn.actor_said(event.message)
        case ActorChanged():
            turn.actor_changed(event)
        case JournalChanged():
            turn.journal_changed(event)
        case Pause():
            turn.pause(event)
        case Resume():
            turn.resume(event)
        case Planned():
            turn.planned(event)
        case Stop():
            turn.stop(event)
        case _:
            assert_never(event)
    turn.time_passes()
    return turn.state, tuple(turn.commands)


def next_wake(state: State) -> float | None:
    """When something falls due although nothing happens: the loop may sleep until then."""
    due = [speculator.next_check(state.rules, state.t)]
    for trial in state.trials.values():
        due.append(trial.retry_at if trial.phase is Phase.REVERTING else trial.deadline)
        if trial.window and trial.phase is Phase.JUDGING:
            due.append(trial.window.closes if trial.window.opened else trial.window.opens)
    return min((t for t in due if t is not None), default=None)


class Turn:
    """One step under way: the state as it becomes, the commands as they come up. Lives for one call."""

    def __init__(self, state: State, t: float) -> None:
        # Time never runs backwards here: an event that was queued before another keeps the later time.
        self.t = max(t, state.t)
        self.state = replace(state, t=self.t)
        self.commands: list[Command] = []

    # ------------------------------------------------------------------------ small parts

    def do(self, command: Command) -> None:
        self.commands.append(command)

    def note(self, kind: str, trial: Trial | None = None, /, **data: object) -> None:
        if trial is None:
            self.do(Note(Record(kind, self.t, data=data)))
        else:
            rule = trial.proposal.rule
            self.do(Note(Record(kind, self.t, trial.id, rule, trial.knobs, data)))

    def put(self, trial: Trial) -> Trial:
        self.state = replace(self.state, trials={**self.state.trials, trial.id: trial})
        return trial

    def drop(self, trial: Trial) -> None:
        trials = {k: v for k, v in self.state.trials.items() if k != trial.id}
        self.state = replace(self.state, trials=trials)

    def rest(self, trial: Trial) -> None:
        rest_s = self.state.setup.policy.rest_s
        memory = envelope.rested(self.state.envelope, trial.proposal.rule, rest_s, self.t)
        self.state = replace(self.state, envelope=memory)

    # ---------------------------------------------------------------- sensing, guessing

    def observed(self, event: Observed) -> None:
        latest = dict(self.state.latest)
        for name, value in event.values.items():
            latest[name] = (*latest.get(name, ())[-HISTORY + 1 :], value)
        self.state = replace(self.state, latest=latest)
        for trial in tuple(self.state.trials.values()):
            if trial.window and trial.phase is Phase.JUDGING:
                self.put(replace(trial, window=self.collect(trial, trial.window, event)))
        self.guess(Observation(self.t, event.values))

    def ticked(self) -> None:
        """A rule's `for` may end although nothing new was seen."""
        due = speculator.next_check(self.state.rules, self.t)
        if due is not None and due <= self.t:
            self.guess(Observation(self.t, {}))

    def collect(self, trial: Trial, window: Window, event: Observed) -> Window:
        """A measurement takes what was seen while it was open."""
        if not window.opened:
            return window
        if event.host and window.skip_host:
            return replace(window, skip_host=False)
        samples = dict(window.samples)
        for name in event.values:
            # What other gauges programs send may show a tail that the expected one hides (p99 beside p95).
            wanted = name in trial.metrics or (name.startswith("app.") and len(samples) < WINDOW_METRICS)
            if not wanted or not math.isfinite(event.values[name]):
                continue
            samples[name] = (*samples.get(name, ()), event.values[name])[-WINDOW_SAMPLES:]
        return replace(window, samples=samples)

    def guess(self, observation: Observation) -> None:
        setup = self.state.setup
        memory, fired = speculator.advance(setup.rules, self.state.rules, observation, setup.stale_s)
        self.state = replace(self.state, rules=memory)
        busy = {trial.proposal.rule for trial in self.state.trials.values()}  # their own guess is out already
        for rule in fired:
            if rule.id in self.state.looking or rule.id in busy:
                continue
            knobs = tuple(dict.fromkeys(action.knob for action in rule.do))
            randomised = all(setup.catalogue[k].alternable for k in knobs if k in setup.catalogue)
            now = situation(self.state, self.t)
            metric = rule.expect.metric
            refusal = envelope.gate(rule.id, knobs, metric, randomised, rule.cooldown_s, now)
            if refusal:
                self.refuse(rule, refusal)
            else:
                self.state = replace(self.state, looking=self.state.looking | {rule.id})
                beside = envelope.partners(knobs, setup.catalogue) - set(knobs)
                self.do(Look(rule.id, knobs, tuple(sorted(beside))))

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

    def looked(self, event: Looked) -> None:
        """The knobs' values are known: make the proposal, ask the envelope, open the trial."""
        if event.rule not in self.state.looking:
            return
        self.state = replace(self.state, looking=self.state.looking - {event.rule})
        rule = self.state.setup.rule(event.rule)
        if rule is None:
            return
        if event.refusal:
            self.refuse(rule, event.refusal)
            return
        setup, live = self.state.setup, event.live
        originals = {**live, **{k: v for k, v in self.state.originals.items() if k in live}}
        guess = speculator.propose(
            rule,
            setup.catalogue,
            setup.limits,
            _reader(live),
            _reader(originals),
            self.seen(rule),
        )
        if isinstance(guess, Proposal):
            refusal = envelope.judge(guess, live, originals, situation(self.state, self.t))
            if refusal is None:
                self.open_trial(guess, live)
                return
        else:
            refusal = guess
        self.refuse(rule, refusal)

    def seen(self, rule: Rule) -> dict[str, float]:
        latest = self.state.latest
        return {name: latest[name][-1] for name in speculator.metrics(rule) if name in latest}

    def open_trial(self, guess: Proposal, live: dict[str, Value]) -> None:
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
            deadline=self.t + guess.lease_s,
        )
        rule = self.state.setup.rule(guess.rule)
        facts = {
            "writes": guess.writes,
            "before": before,
            "reason": guess.reason,
            "seen": guess.seen,
            "expect": guess.expect,
            "guard": guess.guard,
            "confidence": guess.confidence,
            "lease_s": guess.lease_s,
            "source": rule.source if rule else "",
            "origin": rule.origin if rule else "",
        }
        match self.state.mode:
            case Mode.OBSERVE:
                self.note("would", trial, **facts)
            case Mode.LOSSY:
                self.note("proposed", trial, **facts)
                self.put(trial)
                self.do(Apply(trial.id, guess.rule, guess.writes))
            case Mode.LOSSLESS:
                self.note("proposed", trial, **facts)
                self.send_case(self.put(replace(trial, phase=Phase.JUDGING, arm=Arm.A)))
            case _:
                assert_never(self.state.mode)

    # ------------------------------------------------------------------ the life of a trial

    def send_case(self, trial: Trial) -> None:
        setup, guess = self.state.setup, trial.proposal
        knobs = tuple(setup.catalogue[k] for k in trial.knobs)
        originals = {w.knob: self.state.originals.get(w.knob, w.value) for w in trial.before}
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
            allowed=tuple(
                envelope.allowed(k, envelope.limit_of(setup.limits, k.id), originals[k.id]) for k in knobs
            ),
            settle_s=guess.settle_s,
            dwell_s=guess.dwell_s,
            alternable=all(k.alternable for k in knobs),
            fresh_instances=any(k.effect not in (Effect.AT_ONCE, Effect.SLOWLY) for k in knobs),
            lease_s=trial.deadline - self.t,
            alpha=setup.policy.alpha,
            max_pairs=setup.policy.max_pairs,
            history={name: self.state.latest.get(name, ()) for name in trial.metrics},
        )
        self.put(replace(trial, cases_sent=trial.cases_sent + 1, window=None))
        self.do(Tell(case))

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
                    self.rest_on_a(self.put(replace(trial, phase=Phase.JUDGING)))
                    return
                opens = self.t + trial.window.ask.settle_s
                window = replace(trial.window, opens=opens, closes=opens + trial.window.ask.dwell_s)
                self.put(replace(trial, phase=Phase.JUDGING, window=window))
            case Phase.KEEPING:
                self.keep(trial, event.after)
            case Phase.JUDGING | Phase.REVERTING:
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
                self.drop(trial)
            case Phase.SWITCHING | Phase.KEEPING | Phase.JUDGING:
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
        """After RevertAll: trials with every knob back are over; the others are tried again by themselves."""
        over = [t for t in self.state.trials.values() if t.phase is Phase.REVERTING and set(t.knobs) <= gone]
        for trial in over:
            self.drop(trial)
        if event.outcomes:
            knobs = tuple(o.knob for o in event.outcomes)
            trials = tuple(t.id for t in over)
            data: dict[str, object] = {"why": event.why, "outcomes": event.outcomes, "trials": trials}
            self.do(Note(Record("reverted", self.t, knobs=knobs, data=data)))

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

    def actor_said(self, message: Measure | Probe | Verdict) -> None:
        trial = self.state.trials.get(message.case)
        match message:
            case Measure():
                self.measure(trial, message)
            case Probe():
                self.do(Ask(message))
            case Verdict():
                self.verdict(trial, message)
            case _:
                assert_never(message)

    def measure(self, trial: Trial | None, ask: Measure) -> None:
        """Hold an arm and collect, or say why not."""

        def refused(what: str) -> None:
            self.do(Tell(Measurement(ask.case, ask.seq, ask.arm, {}, what)))

        if trial is None or trial.phase is not Phase.JUDGING or trial.window:
            return refused("no such open case, or it is busy with another measurement")
        if not (ask.settle_s >= 0 and ask.dwell_s > 0) or (
            self.t + ask.settle_s + ask.dwell_s > trial.deadline
        ):
            return refused("it would last longer than the lease")
        if not envelope.may_toggle(self.state.envelope, self.state.setup.policy, self.t):
            return refused("budget: too many switches a minute")
        writes = {Arm.A: trial.before, Arm.B: trial.after, Arm.C: ask.writes}[ask.arm]
        refusal = self.judge_actor_writes(trial, writes)
        if refusal:
            return refused(f"{refusal.code}: {refusal.knob}: {refusal.what}")
        window = Window(ask=ask)
        memory = envelope.toggled(self.state.envelope, self.t)
        self.state = replace(self.state, envelope=memory)
        if ask.arm == trial.arm and ask.arm is not Arm.C:
            opens = self.t + ask.settle_s
            self.put(replace(trial, window=replace(window, opens=opens, closes=opens + ask.dwell_s)))
        else:
            self.put(replace(trial, window=window, arm=ask.arm, phase=Phase.SWITCHING))
            self.do(Apply(trial.id, trial.proposal.rule, writes))
        return None

    def judge_actor_writes(self, trial: Trial, writes: Writes) -> Refusal | None:
        """An actor's values pass the same type, range and bound as a rule's, on the case's own knobs."""
        setup = self.state.setup
        if tuple(w.knob for w in writes) != trial.knobs:
            return Refusal("type", trial.knobs[0], f"a value for each of {', '.join(trial.knobs)}, in order")
        original = {w.knob: self.state.originals.get(w.knob, w.value) for w in trial.before}
        before = {w.knob: w.value for w in trial.before}
        for write in writes:
            if write.value == before[write.knob]:
                continue  # where the host stood may lie outside a policy's range; going back is always right
            knob, limit = setup.catalogue[write.knob], envelope.limit_of(setup.limits, write.knob)
            refusal = envelope.judge_value(knob, limit, write.value, original[write.knob])
            if refusal:
                return refusal
        return None

    def verdict(self, trial: Trial | None, verdict: Verdict) -> None:
        if trial is None or trial.phase is not Phase.JUDGING:
            # Folded: whoever floods with verdicts shall not push what happened out of the history.
            if self.t >= self.state.ignored_until:
                self.state = replace(self.state, ignored_until=self.t + FOLD_S)
                self.note("ignored", trial, what=f"verdict for {verdict.case[:64]}, which is not open")
            return
        writes = verdict.writes if verdict.kind is VerdictKind.OVERWRITE else trial.after
        if verdict.kind is not VerdictKind.REJECT:
            refusal = self.judge_actor_writes(trial, writes)
            if refusal:
                what = f"{verdict.kind.value}: {refusal.code}: {refusal.knob}: {refusal.what}"
                self.note("ignored", trial, what=what)
                return  # silence: the lease will end it
        self.note("verdict", trial, **msgspec.to_builtins(verdict))
        match verdict.kind:
            case VerdictKind.REJECT:
                self.rest(trial)
                self.revert(trial, f"rejected: {verdict.reason}", tell=False)
            case VerdictKind.CONFIRM | VerdictKind.OVERWRITE:
                kept = "confirmed" if verdict.kind is VerdictKind.CONFIRM else "overwritten"
                self.put(replace(trial, phase=Phase.KEEPING, kept=kept, keep=writes, window=None))
                self.do(Apply(trial.id, trial.proposal.rule, writes))
            case _:
                assert_never(verdict.kind)

    def actor_changed(self, event: ActorChanged) -> None:
        self.state = replace(self.state, actor_alive=event.alive)
        self.note("actor", what=event.what)
        for trial in tuple(self.state.trials.values()):
            if trial.phase not in (Phase.JUDGING, Phase.SWITCHING):
                continue
            if not event.alive:
                # Its windows died with it. The change itself stays until its lease ends.
                trial = self.put(replace(trial, window=None))
                if trial.phase is Phase.JUDGING:
                    self.rest_on_a(trial)
            elif trial.phase is Phase.JUDGING and trial.cases_sent < CASES_A_TRIAL:
                self.send_case(trial)

    # ------------------------------------------------------------------- owners and faults

    def yield_knob(self, name: str, ours: Value, found: Value, writer: str) -> None:
        foreign = {**self.state.foreign, name: Foreign(ours, found, writer, self.t)}
        held = {k: v for k, v in self.state.held.items() if k != name}
        originals = {k: v for k, v in self.state.originals.items() if k != name}
        self.state = replace(self.state, foreign=foreign, held=held, originals=originals)
        data: dict[str, object] = {"ours": ours, "found": found, "writer": writer}
        self.do(Note(Record("foreign", self.t, knobs=(name,), data=data)))

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
        self.state = replace(self.state, paused=False if not event.knobs else self.state.paused)
        if event.knobs:
            self.state = replace(self.state, foreign=foreign)
            self.do(TakeUp(event.knobs))

    def planned(self, event: Planned) -> None:
        """Open trials go on; the rules of what went away are not asked any more."""
        self.state = replace(self.state, setup=replace(self.state.setup, rules=event.rules))

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
                self.revert(trial, "lease: no verdict in time")
            elif trial.phase is Phase.JUDGING and trial.window:
                self.turn_window(trial, trial.window)

    def turn_window(self, trial: Trial, window: Window) -> None:
        if window.opens is None or window.closes is None:
            return
        uses_host = any(not name.startswith("app.") for name in trial.metrics)
        if not window.opened and self.t >= window.opens:
            trial = self.put(replace(trial, window=replace(window, opened=True)))
            if uses_host:
                self.do(SenseNow())  # so that the first rate taken begins with the window
        elif window.opened and self.t >= window.closes:
            if uses_host and not window.closing:
                self.put(replace(trial, window=replace(window, closing=True)))
                self.do(SenseNow())
                return
            self.close_window(trial, window)

    def close_window(self, trial: Trial, window: Window) -> None:
        ask = window.ask
        trial = self.put(replace(trial, window=None, measured=trial.measured + 1))
        self.do(Tell(Measurement(ask.case, ask.seq, ask.arm, dict(window.samples))))
        self.rest_on_a(trial)

    def rest_on_a(self, trial: Trial) -> None:
        """In lossless nothing stays changed while the actor thinks: the window was all it asked for."""
        if self.state.mode is Mode.LOSSLESS and trial.arm is not Arm.A:
            self.put(replace(trial, arm=Arm.A, phase=Phase.SWITCHING))
            self.do(Apply(trial.id, trial.proposal.rule, trial.before))


def _reader(values: Mapping[str, Value]) -> Callable[[str], Value]:
    def read(knob: str) -> Value:
        if knob not in values:
            raise KnobAbsent(knob, "read", "its value is not known")
        return values[knob]

    return read
