"""A daemon's engine and an actor's reviews in virtual time: a recorded trace end to end, hours in seconds.

The engine, the envelope, the trial and the review are the real ones; the host is on paper: values in a
dictionary, observations from the trace. What a change does is assumed (`Effect`) and laid over the trace. A
model is a function from a question to a reply, which comes `thinks_s` later. Owns the order of events; must
not know what is counted.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never

import msgspec

from tuned_spec import engine
from tuned_spec.actor import review
from tuned_spec.actor.flow import Answer, Asked, Consult, Reply, Review, Silence
from tuned_spec.engine import events as ev
from tuned_spec.engine.state import Learned
from tuned_spec.model import (
    Cancel,
    Case,
    Consulted,
    Measure,
    Measurement,
    Mode,
    Observation,
    Outcome,
    Policy,
    Probe,
    ProbeAnswer,
    Record,
    Refusal,
    Rule,
    ToActor,
    Value,
    Verdict,
    Way,
    Write,
)
from tuned_spec.policy.replay import Paper
from tuned_spec.speculate.prior import Priors
from tuned_spec.speculate.rules import RulesMemory
from tuned_spec.speculate.selection import Record as GuessRecord

WALL = 1.8e9  # seconds since the epoch when a day begins
Model = Callable[[Consult], Reply]


@dataclass(frozen=True)
class Effect:
    """While one of these knobs is not as it was, this metric is so much better: 0.4 is 40% less, or more."""

    knobs: frozenset[str]
    metric: str
    way: Way
    gain: float

    def on(self, value: float) -> float:
        return value * (1 - self.gain if self.way is Way.DOWN else 1 + self.gain)


def effects_of(rules: Iterable[Rule], gain: float) -> tuple[Effect, ...]:
    return tuple(
        Effect(frozenset(action.knob for action in rule.do), rule.expect.metric, rule.expect.way, gain)
        for rule in rules
    )


@dataclass
class Judged:
    """One case that was sent, and what came of it."""

    case: Case
    t: float
    consults: list[tuple[Consult, Reply]] = field(default_factory=list)
    verdict: Verdict | None = None
    silence: str = ""

    @property
    def how(self) -> str:
        """Who answered: "model", "memory", "trial", or "nobody" (cancelled, or silence)."""
        if self.verdict is None:
            return "nobody"
        if self.consults:
            return "model"
        return "memory" if "memory" in self.verdict.by else "trial"


@dataclass
class _Open:
    flow: Review
    judged: Judged
    waits_for: int = -1  # seq of a question to the daemon


class Day:
    """Feed it observations; `judged` and `notes` are what happened."""

    def __init__(
        self,
        policy: Policy,
        rules: tuple[Rule, ...],
        catalogue: Paper,
        values: Mapping[str, Value],
        effects: Sequence[Effect],
        model: Model,
        *,
        settings: review.Settings,
        cpus: int,
        thinks_s: float = 5.0,
        review_s: float = 180.0,
        learned: Learned | None = None,
        seed: int = 1,
    ) -> None:
        self.values, self.originals = dict(values), dict(values)
        self.effects, self.model, self.settings = effects, model, settings
        self.thinks_s, self.review_s, self.chance = thinks_s, review_s, random.Random(seed)
        self.setup = engine.Setup.of(policy, catalogue, rules, cpus)
        self.judged: list[Judged] = []
        self.notes: list[Record] = []
        self.latest: dict[str, float] = {}
        self.t, self.starts = 0.0, 0
        self.learned = learned or Learned()
        self._open: dict[str, _Open] = {}
        self._due: list[tuple[float, int, str, Reply]] = []  # replies of the model on their way
        self._numbers = count()
        self._events: list[ev.Event] = []
        self.start()

    # -------------------------------------------------------------------------------- time

    def start(self) -> None:
        """A daemon starts: knobs are as they were, what was learned is there."""
        for running in self._open.values():
            running.flow.close()
        self._open.clear()
        self._due.clear()
        self.values = dict(self.originals)
        self.starts += 1
        self.state = engine.State(
            setup=self.setup,
            mode=Mode.LOSSY,
            rules=RulesMemory(),
            learned=self.learned,
            wall_offset=WALL,
            prefix=f"d{self.starts}.",
            t=self.t,
        )
        self.feed(ev.ActorChanged(self.t, True, "on paper", self.review_s))

    def observe(self, observation: Observation) -> None:
        """Everything that falls due before it, and then what it shows."""
        while (due := self._next()) is not None and due < observation.t:
            self.t = max(self.t, due)
            if self._due and self._due[0][0] <= self.t:
                _, _, case, reply = heapq.heappop(self._due)
                self._advance(case, reply)
                self.feed(ev.Ticked(self.t))
            else:
                self.feed(ev.Ticked(self.t))
        self.t = observation.t
        self.latest = observation.values
        self.feed(ev.Observed(self.t, self.shown()))

    def _next(self) -> float | None:
        wake = engine.next_wake(self.state)
        if wake is not None and wake <= self.t:
            wake = self.t + 0.01  # it was due and is not done: time goes on
        times = [t for t in (wake, self._due[0][0] if self._due else None) if t is not None]
        return min(times, default=None)

    def shown(self) -> dict[str, float]:
        """The trace, with what our changes are assumed to do."""
        values = dict(self.latest)
        for metric, effect in {e.metric: e for e in self.effects if self.is_on(e)}.items():
            if metric in values:
                values[metric] = effect.on(values[metric])
        return values

    def is_on(self, effect: Effect) -> bool:
        return any(self.values.get(knob) != self.originals.get(knob) for knob in effect.knobs)

    def feed(self, event: ev.Event) -> None:
        self._events.append(event)
        while self._events:
            self.state, commands = engine.step(self.state, self._events.pop(0))
            for command in commands:
                self._carry_out(command)

    # -------------------------------------------------------------------------------- host

    def _carry_out(self, command: ev.Command) -> None:
        t = self.t
        match command:
            case ev.Look():
                known = {k: self.values[k] for k in command.knobs + command.beside if k in self.values}
                missing = next((k for k in command.knobs if k not in known), None)
                refusal = Refusal("absent", missing, "not on this host") if missing else None
                self._events.append(ev.Looked(t, command.rule, known, refusal))
            case ev.Apply():
                before = tuple(Write(w.knob, self.values[w.knob]) for w in command.writes)
                self.values |= {w.knob: w.value for w in command.writes}
                self._events.append(ev.Applied(t, command.trial, before, command.writes))
            case ev.Revert():
                outcomes = self._back(command.restore)
                self.values |= {w.knob: w.value for w in command.hold}
                self._events.append(ev.Reverted(t, command.trial, outcomes, command.why))
            case ev.RevertAll():
                outcomes = self._back(command.knobs or tuple(self.values))
                self._events.append(ev.Reverted(t, "", outcomes, command.why))
            case ev.SenseNow():
                self._events.append(ev.Observed(t, self.shown()))
            case ev.Note():
                self.notes.append(command.record)
            case ev.Remember():
                self._remember(command.priors, command.record)
            case ev.Tell():
                self._tell(command.message)
            case ev.Hold() | ev.TakeUp() | ev.RunProbe() | ev.Answer():
                pass
            case _:
                assert_never(command)

    def _back(self, knobs: Iterable[str]) -> tuple[Outcome, ...]:
        found = {knob: str(self.values[knob]) for knob in knobs}
        self.values |= {knob: self.originals[knob] for knob in found}
        return tuple(Outcome(k, was, str(self.originals[k]), "restored") for k, was in found.items())

    def _remember(self, priors: Priors, record: GuessRecord) -> None:
        self.learned = Learned(priors=priors, record=record)

    # ------------------------------------------------------------------------------- actor

    def _tell(self, message: ToActor) -> None:
        match message:
            case Case():
                judged = Judged(message, self.t)
                self.judged.append(judged)
                rng = random.Random(self.chance.getrandbits(64))
                self._open[message.id] = _Open(review.judge(message, rng, self.settings), judged)
                self._advance(message.id, None)
            case Measurement() | ProbeAnswer():
                running = self._open.get(message.case)
                if running and running.waits_for == message.seq:
                    self._advance(message.case, message)
            case Cancel():
                if running := self._open.pop(message.case, None):
                    running.flow.close()

    def _advance(self, id: str, answer: Answer) -> None:
        running = self._open.get(id)
        if running is None:
            return
        try:
            while True:
                asked: Asked = running.flow.send(answer)
                match asked:
                    case Measure():
                        running.waits_for = asked.seq
                        self._events.append(ev.ActorSaid(self.t, asked))
                        return
                    case Probe():
                        answer = ProbeAnswer(asked.case, asked.seq, "", "not on paper")
                    case Consult():
                        reply = self.model(asked)
                        running.judged.consults.append((asked, reply))
                        heapq.heappush(self._due, (self.t + self.thinks_s, next(self._numbers), id, reply))
                        return
                    case Consulted():
                        self._events.append(ev.ActorSaid(self.t, asked))
                        answer = None
        except StopIteration as end:
            running.judged.verdict = end.value
            self._events.append(ev.ActorSaid(self.t, end.value))
        except Silence as silence:
            running.judged.silence = str(silence)
        self._open.pop(id, None)


def end_to_end(observations: Sequence[Observation], seconds: float) -> Iterator[Observation]:
    """The trace again and again for so long; a second lies between its end and its start."""
    length = observations[-1].t + 1.0
    for visit in count():
        for one in observations:
            t = visit * length + one.t
            if t > seconds:
                return
            yield msgspec.structs.replace(one, t=t)
