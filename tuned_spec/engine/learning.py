"""What the engine learns: which workload this is, what helped under it, how often each rule was right.

Decides when something is remembered; what it means is `speculate`'s. Changes nothing on the host.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tuned_spec.engine.events import Note, Remember
from tuned_spec.engine.state import Trial
from tuned_spec.engine.turn import Turn
from tuned_spec.model import Record, Writes
from tuned_spec.speculate import prior, selection
from tuned_spec.speculate.prior import Fate, Judged, Lesson
from tuned_spec.speculate.signature import mean, signature, watch

replace = msgspec.structs.replace


class Learning(Turn):
    @property
    def wall(self) -> float:
        """Seconds since the epoch: what is remembered outlives the boot."""
        return self.t + self.state.wall_offset

    def workload_age(self) -> float | None:
        """Seconds since this workload began; None before anything was recognised."""
        watched = self.state.learned.watched
        return self.t - watched.since if watched.recent else None

    def recognise(self, values: Mapping[str, float]) -> bool:
        """Takes in what the host shows; True when another workload has begun."""
        learned = self.state.learned
        seen = signature(values, self.state.setup.cpus)
        watched, changed = watch(learned.watched, seen, self.t)
        tried = "" if changed else learned.tried
        workloads = learned.workloads + changed
        known = replace(learned, watched=watched, tried=tried, workloads=workloads)
        self.state = replace(self.state, learned=known)
        if changed:
            self.do(Note(Record("workload", self.t, data={"what": "another one began"})))
        return changed

    def learn(
        self, trial: Trial, fate: Fate | None, writes: Writes, gain: float | None, by: str = ""
    ) -> None:
        """What a judged trial teaches; `fate` None: nobody judged it in time."""
        learned, rule = self.state.learned, trial.proposal.rule
        # A guess may come with the first sign of a workload; what it looks like is known by arm A.
        seen = mean(trial.untuned) if trial.untuned else trial.signature
        record = selection.judged(learned.record, rule, fate is Fate.CONFIRMED, gain, seen, self.wall)
        priors = learned.priors
        if seen is not None and fate is not None:
            lesson = Lesson(
                trial=trial.id,
                fate=fate,
                signature=seen,
                writes=writes,
                rule=rule,
                expect=trial.proposal.expect,
                guard=trial.proposal.guard,
                gain=gain or 0.0,
                by=by,
            )
            priors = prior.learn(priors, lesson, self.wall)
        # What was answered from memory is no judgement of its own: it must not keep itself alive.
        if fate is not None and "memory" not in by:
            one = Judged(trial.id, rule, writes, fate, self.wall, by, gain, seen)
            priors = prior.judged(priors, one)
        self.state = replace(self.state, learned=replace(learned, record=record, priors=priors))
        self.do(Remember(priors, record, learned.foresight))
