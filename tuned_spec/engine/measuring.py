"""Measurements: an arm is held while a window is open, and what was seen in it is told to the actor.

Owns windows and what an actor may ask for one; must not know why a trial is open or how it ends.
"""

from __future__ import annotations

import math

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.events import Apply, Observed, SenseNow, Tell
from tuned_spec.engine.learning import Learning
from tuned_spec.engine.state import Phase, Trial, Window
from tuned_spec.model import Arm, Measure, Measurement, Mode, Refusal, Writes
from tuned_spec.speculate.signature import signature

WINDOW_METRICS = 32  # in one measurement, beside those that the rule names
SOON_S = 0.5  # an actor that measures asks for its next window within milliseconds
UNTUNED = 8  # looks at the host as it was: what its workload is known by
WINDOW_SAMPLES = 512  # of one metric in one measurement; more would not fit the door

replace = msgspec.structs.replace


class Measuring(Learning):
    def collect(self, trial: Trial, window: Window, event: Observed) -> Trial:
        """A measurement takes what was seen while it was open; arm A also shows the host untuned."""
        if not window.opened:
            return trial
        if event.host and window.skip_host:
            return replace(trial, window=replace(window, skip_host=False))
        if event.host and trial.arm is Arm.A and (seen := signature(event.values, self.state.setup.cpus)):
            trial = replace(trial, untuned=(*trial.untuned, seen)[-UNTUNED:])
        samples = dict(window.samples)
        for name in event.values:
            # What other gauges programs send may show a tail that the expected one hides (p99 beside p95).
            wanted = name in trial.metrics or (name.startswith("app.") and len(samples) < WINDOW_METRICS)
            if not wanted or not math.isfinite(event.values[name]):
                continue
            samples[name] = (*samples.get(name, ()), event.values[name])[-WINDOW_SAMPLES:]
        return replace(trial, window=replace(window, samples=samples))

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
            window = replace(window, opens=opens, closes=opens + ask.dwell_s)
            self.put(replace(trial, window=window, rest_at=None))
        else:
            self.put(replace(trial, window=window, rest_at=None, arm=ask.arm, phase=Phase.SWITCHING))
            self.do(Apply(trial.id, trial.proposal.rule, writes))
        return None

    def judge_actor_writes(self, trial: Trial, writes: Writes) -> Refusal | None:
        """An actor's values pass the same type, range and bound as a rule's, on the case's own knobs."""
        setup = self.state.setup
        searches = setup.climb(trial.proposal.rule) is not None
        if tuple(w.knob for w in writes) != trial.knobs:
            return Refusal("type", trial.knobs[0], f"a value for each of {', '.join(trial.knobs)}, in order")
        original = {w.knob: self.state.originals.get(w.knob, w.value) for w in trial.before}
        before = {w.knob: w.value for w in trial.before}
        for write in writes:
            if write.value == before[write.knob]:
                continue  # where the host stood may lie outside a policy's range; going back is always right
            if trial.approved and not searches and write not in trial.after:
                return Refusal("unapproved", write.knob, envelope.CODES["unapproved"])
            knob, limit = setup.catalogue[write.knob], setup.limit(write.knob, trial.proposal.rule)
            refusal = envelope.judge_value(knob, limit, write.value, original[write.knob])
            if refusal:
                return refusal
        return None

    def turn_window(self, trial: Trial, window: Window) -> None:
        if window.opens is None or window.closes is None:
            return
        uses_host = any(not name.startswith("app.") for name in trial.metrics) or (
            trial.arm is Arm.A and len(trial.untuned) < UNTUNED
        )
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
        self.rest_between(trial)

    def rest_between(self, trial: Trial) -> None:
        """Between windows. In lossless nothing stays changed: the window was all that the actor asked for. In
        lossy the change is in force, but where the next window comes soon there is nothing to be switched."""
        if self.state.mode is Mode.LOSSLESS:
            if trial.arm is not Arm.A:
                self.put(replace(trial, arm=Arm.A, phase=Phase.SWITCHING))
                self.do(Apply(trial.id, trial.proposal.rule, trial.before))
        elif trial.arm is not Arm.B:
            self.put(replace(trial, rest_at=self.t + SOON_S))

    def rest_on_b(self, trial: Trial) -> None:
        """The actor thinks: who knows for how long."""
        trial = self.put(replace(trial, rest_at=None))
        if self.state.journal_ok:
            self.put(replace(trial, arm=Arm.B, phase=Phase.SWITCHING))
            self.do(Apply(trial.id, trial.proposal.rule, trial.after))
