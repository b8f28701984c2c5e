"""A model as speculator: asked now and then for a change worth trying; what it says goes the outside way.

Owns when it is asked, what it is told, and that its answer is about what it was asked. Its proposals are no
more trusted than anybody's, and one of them is on trial at a time. Must not know models, prompts or sockets.
"""

from __future__ import annotations

import msgspec

from tuned_spec import envelope
from tuned_spec.engine.events import ActorChanged, Look, Looked, Note, Observed, Offered, Tell
from tuned_spec.engine.outside import RULE, Outside
from tuned_spec.engine.trials import CONSULTED_A_TRIAL
from tuned_spec.model import (
    Consulted,
    Measure,
    Offer,
    Option,
    Outlook,
    Probe,
    Record,
    Refusal,
    Suggest,
    Suggestion,
    Value,
    Verdict,
)
from tuned_spec.speculate import prior

MODEL = "model"  # the source of these proposals, and of no other

LOOK = "suggest"  # the name under which its knobs are read
PATIENCE_S = 60.0  # what an answer may take at least
METRICS = 48  # told in one outlook, those that judge among them
LONGEST = 8192  # characters of what is suggested: all that is offered, with values, takes half of it
VALUES = 16  # of each, the latest

replace = msgspec.structs.replace


class Suggesting(Outside):
    def observed(self, event: Observed) -> None:
        since = self.state.learned.watched.since
        super().observed(event)
        if self.state.learned.watched.since != since:
            self.state = replace(self.state, outlook=None)  # what is said of the last workload is too late
        if event.host:
            self.look_out()

    def actor_changed(self, event: ActorChanged) -> None:
        self.state = replace(self.state, speculates=event.alive and event.speculates, outlook=None)
        super().actor_changed(event)

    def look_out(self) -> None:
        """Is it time to ask? A question that was not answered in its time is asked anew."""
        state, suggest = self.state, self.state.setup.policy.suggest
        if suggest is None or not state.setup.options or not (state.speculates and state.actor_alive):
            return
        if self.t < state.outlook_at or state.paused or state.stopping or not state.journal_ok:
            return
        if self.is_busy(RULE + MODEL) or self.is_busy(LOOK):
            return
        asked = state.outlook_at - suggest.every_s
        if state.outlook is not None and self.t < asked + max(state.review_s, PATIENCE_S):
            return
        if not any(expect.metric in state.rules.values for expect in suggest.expect):
            return
        self.state = replace(state, looking=state.looking | {LOOK}, outlook_at=self.t + suggest.every_s)
        self.do(Look(LOOK, (), self.options()))  # one that cannot be read hides no other

    def options(self) -> tuple[str, ...]:
        """The knobs that are free now."""
        catalogue = self.state.setup.catalogue
        taken = {k for trial in self.state.trials.values() for k in trial.knobs} | self.state.foreign.keys()
        return tuple(k for k in self.state.setup.options if not taken & envelope.partners((k,), catalogue))

    def looked(self, event: Looked) -> None:
        suggest = self.state.setup.policy.suggest
        if event.rule != LOOK or LOOK not in self.state.looking:
            super().looked(event)
            return
        self.state = replace(self.state, looking=self.state.looking - {LOOK})
        if suggest is not None and event.live:
            self.ask_model(suggest, event.live)

    def ask_model(self, suggest: Suggest, live: dict[str, Value]) -> None:
        setup, number = self.state.setup, self.state.outlooks + 1
        usual = self.state.learned.watched.usual
        options = tuple(
            Option(
                knob=setup.catalogue[name],
                value=live[name],
                allowed=envelope.allowed(
                    setup.catalogue[name],
                    setup.limit(name, LOOK),
                    self.state.originals.get(name, live[name]),
                ),
            )
            for name in self.options()
            if name in live
        )
        latest = self.state.latest
        told = [name for name in dict.fromkeys((*judged_by(suggest), *latest)) if name in latest]
        outlook = Outlook(
            id=f"{self.state.prefix}o{number}",
            host=setup.host,
            signature=usual.features if usual else {},
            metrics={name: latest[name][-VALUES:] for name in told[:METRICS]},
            options=options,
            expect=tuple(one for one in suggest.expect if one.metric in self.state.rules.values),
            past=prior.past(self.state.learned.priors, [o.knob.id for o in options], usual, self.wall),
        )
        self.state = replace(self.state, outlook=outlook, outlooks=number, outlook_consulted=0)
        self.do(Tell(outlook))

    def actor_said(self, message: Measure | Probe | Consulted | Verdict | Suggestion) -> None:
        outlook = self.state.outlook
        if isinstance(message, Suggestion):
            self.suggested(message)
        elif isinstance(message, Consulted) and outlook is not None and message.case == outlook.id:
            self.heard_out(message)
        else:
            super().actor_said(message)

    def heard_out(self, said: Consulted) -> None:
        """What the model was asked and said, on record; as much of it as of a trial."""
        if self.state.outlook_consulted < CONSULTED_A_TRIAL:
            self.state = replace(self.state, outlook_consulted=self.state.outlook_consulted + 1)
            self.on_record("consulted", said)

    def on_record(self, kind: str, said: Consulted | Suggestion) -> None:
        """Of no trial: there is none yet."""
        self.do(Note(Record(kind, self.t, rule=RULE + MODEL, data=msgspec.to_builtins(said))))

    def suggested(self, said: Suggestion) -> None:
        """An answer to the question that is open, and to no other, becomes a proposal like anybody's."""
        outlook, suggest = self.state.outlook, self.state.setup.policy.suggest
        if outlook is None or suggest is None or said.outlook != outlook.id:
            return
        self.state = replace(self.state, outlook=None)
        knobs = tuple(dict.fromkeys(write.knob for write in said.writes))
        if len(str(said.writes)) > LONGEST:  # no honest one: it shall not fill the history
            said = replace(said, writes=(), reason=f"{len(said.writes)} writes, too long to be taken")
        self.on_record("suggested", said)
        if not said.writes:
            return
        expect = next((one for one in outlook.expect if one.metric == said.metric), None)
        strange = set(knobs) - {option.knob.id for option in outlook.options}
        refusal = None
        if expect is None or strange:
            what = f"{', '.join(sorted(strange))[:200]!a}" if strange else f"{said.metric[:80]!a}"
            refusal = Refusal("not_offered", "", f"{what}: {envelope.CODES['not_offered']}")
        offer = Offer(
            source=MODEL,
            writes=said.writes,
            expect=expect or suggest.expect[0],
            reason=said.reason,
            guard=suggest.guard,
            confidence=min(max(said.confidence, 0.0), 1.0),
        )
        self.offered(Offered(self.t, offer, refusal))


def judged_by(suggest: Suggest) -> tuple[str, ...]:
    """The metrics that its changes would be judged by."""
    return (*(one.metric for one in suggest.expect), *(one.metric for one in suggest.guard))
