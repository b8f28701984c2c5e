"""A search under way: one trial that moves its knobs window by window, and ends with a case for the actor.

Owns how `speculate.climb` meets ledger and envelope: every move is provisional, inside range and bound, and
counted among the toggles; the whole search has a deadline. What to try next is the search's own affair.
"""

from __future__ import annotations

import msgspec

from tuned_spec import envelope, windows
from tuned_spec.engine.events import Applied, Apply
from tuned_spec.engine.state import Phase, Trial, Window
from tuned_spec.engine.trials import Trials
from tuned_spec.model import Arm, Climb, Measure, Proposal, Value, Write
from tuned_spec.speculate import climb as search
from tuned_spec.speculate.climb import as_rule

LEASE_WINDOWS = 60  # a search that has not ended in so many windows, and as many for each knob, goes back

replace = msgspec.structs.replace


class Climbing(Trials):
    def open_climb(self, climb: Climb, live: dict[str, Value]) -> None:
        """Begin where the host is. KnobError: there is no number to move."""
        number = self.state.started + 1
        room = replace(climb, spans=self.narrowed(climb.spans))
        start = search.begin(room, live, self.t, seed=number)
        timing = windows.of(as_rule(climb), self.state.setup.catalogue)
        guess = Proposal(
            rule=climb.id,
            writes=start.values,
            reason=climb.reason,
            seen={},
            expect=climb.expect,
            guard=climb.guard,
            lease_s=timing.lease_s,
            cooldown_s=0.0,
            confidence=climb.confidence,
            settle_s=timing.settle_s,
            dwell_s=timing.dwell_s,
        )
        window_s = timing.settle_s + max(climb.every_s, climb.dwell_s or 0.0) + windows.TURN_S
        trial = Trial(
            id=f"{self.state.prefix}{number}",
            proposal=guess,
            phase=Phase.CLIMBING,
            arm=Arm.B,
            before=tuple(Write(w.knob, live[w.knob]) for w in start.values),
            after=start.values,
            deadline=self.t + LEASE_WINDOWS * (1 + len(climb.spans)) * window_s,
            signature=self.state.learned.watched.usual,
            climb=start,
        )
        memory = envelope.changed(self.state.envelope, guess, live, self.t)
        self.state = replace(self.state, started=number, envelope=memory)
        self.note(
            "proposed",
            trial,
            writes=guess.writes,
            before=trial.before,
            reason=climb.reason,
            seen={},
            expect=climb.expect,
            guard=climb.guard,
            confidence=climb.confidence,
            lease_s=guess.lease_s,
            source=climb.source,
            origin=climb.origin,
        )
        self.begin(trial)

    def applied(self, event: Applied) -> None:
        super().applied(event)
        trial = self.state.trials.get(event.trial)
        if trial is not None and trial.phase is Phase.CLIMBING and trial.climb is not None:
            values = {write.knob: write.value for write in event.after}
            self.open_window(self.put(replace(trial, climb=search.wrote(trial.climb, values))))

    def open_window(self, trial: Trial) -> None:
        climb = self.state.setup.climb(trial.proposal.rule)
        if climb is None:
            self.revert(trial, "its search is not in the policy any more", tell=False)
            return
        settle_s = trial.proposal.settle_s
        dwell_s = max(climb.every_s, climb.dwell_s or 0.0)
        ask = Measure(trial.id, trial.measured, Arm.B, settle_s, dwell_s)
        opens = self.t + settle_s
        self.put(replace(trial, window=Window(ask=ask, opens=opens, closes=opens + dwell_s)))

    def close_window(self, trial: Trial, window: Window) -> None:
        if trial.phase is not Phase.CLIMBING:
            super().close_window(trial, window)
            return
        climb = self.state.setup.climb(trial.proposal.rule)
        trial = self.put(replace(trial, window=None, measured=trial.measured + 1))
        if climb is None or trial.climb is None:
            self.open_window(trial)  # which takes it back
            return
        memory, move = search.advance(climb, trial.climb, window.samples, self.t)
        if isinstance(move, search.Rest):
            self.end_climb(trial, memory, move)
        elif not self.may_move():
            self.open_window(trial)  # one more look at where it is
        elif refusal := self.judge_actor_writes(trial, move.writes):
            self.rest(trial)
            self.revert(trial, f"the search wants {refusal.knob}: {refusal.code}: {refusal.what}", tell=False)
        else:
            toggles = envelope.toggled(self.state.envelope, self.t)
            self.state = replace(self.state, envelope=toggles)
            self.put(replace(trial, climb=memory))
            self.do(Apply(trial.id, climb.id, move.writes))

    def may_move(self) -> bool:
        """A search is no measurement that was asked for: each of its moves is a new change."""
        state = self.state
        allowed = state.journal_ok and not state.paused
        return allowed and envelope.may_toggle(state.envelope, state.setup.policy, self.t)

    def end_climb(self, trial: Trial, memory: search.ClimbMemory, rest: search.Rest) -> None:
        """At its best: the actor judges it against where the search began."""
        self.note("climbed", trial, writes=rest.writes, what=rest.why, windows=memory.count)
        if memory.silent or rest.writes == trial.before:
            self.rest(trial)
            self.revert(trial, f"the search found nothing better: {rest.why}", tell=False)
            return
        guess = replace(trial.proposal, writes=rest.writes)
        trial = replace(trial, phase=Phase.JUDGING, proposal=guess, after=rest.writes, climb=None)
        self.send_case(self.put(replace(trial, deadline=self.t + guess.lease_s + self.state.review_s)))

    def restart_climbs(self) -> None:
        """Another workload began: what was measured under the last one says nothing."""
        for trial in tuple(self.state.trials.values()):
            climb = self.state.setup.climb(trial.proposal.rule)
            if trial.phase is Phase.CLIMBING and climb is not None and trial.climb is not None:
                self.put(replace(trial, climb=search.restarted(climb, trial.climb, self.t)))
