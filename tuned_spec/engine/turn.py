"""One step under way: the state as it becomes and the commands as they come up.

Owns the small parts that every other part of the engine is made of; decides nothing.
"""

from __future__ import annotations

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.events import Apply, Command, Hold, Note, Revert, RevertAll, TakeUp
from tuned_spec.engine.state import State, Trial
from tuned_spec.model import Record

DEEDS = (Apply, Revert, RevertAll, Hold, TakeUp)  # what the ledger is told to do

replace = msgspec.structs.replace


class Turn:
    """Lives for one call of `step`."""

    def __init__(self, state: State, t: float) -> None:
        # Time never runs backwards here: an event that was queued before another keeps the later time.
        self.t = max(t, state.t)
        self.state = replace(state, t=self.t)
        self.commands: list[Command] = []

    def do(self, command: Command) -> None:
        if isinstance(command, DEEDS):
            self.deed()
        self.commands.append(command)

    def deed(self) -> None:
        """The ledger does something, or has: what was read before is not what would be read now."""
        self.state = replace(self.state, deeds=self.state.deeds + 1)

    def note(self, kind: str, trial: Trial | None = None, /, **data: object) -> None:
        if trial is None:
            self.do(Note(Record(kind, self.t, data=data)))
        else:
            rule = trial.proposal.rule
            self.do(Note(Record(kind, self.t, trial.id, rule, trial.knobs, data)))

    def put(self, trial: Trial) -> Trial:
        if (old := self.state.trials.get(trial.id)) is None or old.phase is not trial.phase:
            self.deed()  # which trials are open is a question, too
        self.state = replace(self.state, trials={**self.state.trials, trial.id: trial})
        return trial

    def drop(self, trial: Trial) -> None:
        self.deed()
        trials = {k: v for k, v in self.state.trials.items() if k != trial.id}
        self.state = replace(self.state, trials=trials)

    def rest(self, trial: Trial) -> None:
        rest_s = self.state.setup.policy.rest_s
        memory = envelope.rested(self.state.envelope, trial.proposal.rule, rest_s, self.t)
        self.state = replace(self.state, envelope=memory)
