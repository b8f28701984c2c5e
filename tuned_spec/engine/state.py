"""What the engine knows: the frozen state that `step` carries from event to event, and questions to it.

Owns no decisions. `Setup` is what never changes while a policy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from tuned_spec.envelope import Envelope, OpenTrial, Situation, limit_of
from tuned_spec.model import (
    Arm,
    Climb,
    Knob,
    Limit,
    Measure,
    Mode,
    Offer,
    Outlook,
    Policy,
    Probe,
    Proposal,
    RestRule,
    Rule,
    Side,
    Strategy,
    Value,
    Verdict,
    Writes,
)
from tuned_spec.speculate.advice import Given
from tuned_spec.speculate.climb import ClimbMemory
from tuned_spec.speculate.foresight import Foresight, Query
from tuned_spec.speculate.prior import Priors, Recall
from tuned_spec.speculate.rules import RulesMemory
from tuned_spec.speculate.selection import Record
from tuned_spec.speculate.signature import Signature, Watched

HISTORY = 64  # values of each metric kept for a case


class Setup(msgspec.Struct, frozen=True):
    """`limits` and `stale_s` are the policy's, by name, for those who look one up at each observation.

    `rules` are the policy's with each template replaced by the rules of the instances that are here now;
    `options` the knobs here that a model may propose values for.
    """

    policy: Policy
    catalogue: Mapping[str, Knob]
    limits: Mapping[str, Limit]
    stale_s: Mapping[str, float]
    rules: tuple[Rule, ...]
    climbs: tuple[Climb, ...]
    cpus: int
    tried_only: bool  # entries that no kernel is on record for are only observed
    options: tuple[str, ...] = ()
    host: dict[str, str] = {}  # facts in words, for an actor

    @classmethod
    def of(
        cls,
        policy: Policy,
        catalogue: Mapping[str, Knob],
        rules: tuple[Rule, ...] | None = None,
        cpus: int = 1,
        tried_only: bool = False,
        options: tuple[str, ...] = (),
        host: dict[str, str] | None = None,
    ) -> Setup:
        return cls(
            policy=policy,
            catalogue=catalogue,
            limits={limit.knob: limit for limit in policy.limits},
            stale_s={m.name: m.stale_s for m in policy.metrics},
            rules=policy.rules if rules is None else rules,
            climbs=policy.climbs,
            cpus=cpus,
            tried_only=tried_only,
            options=options,
            host=host or {},
        )

    def limit(self, knob: str, rule: str) -> Limit:
        """What holds for that knob in a trial of that rule: a search's range binds the actor, too."""
        limit, climb = limit_of(self.limits, knob), self.climb(rule)
        for span in climb.spans if climb else ():
            if span.knob == knob and span.field is None:
                low = span.low if limit.low is None else max(span.low, limit.low)
                high = span.high if limit.high is None else min(span.high, limit.high)
                limit = msgspec.structs.replace(limit, low=low, high=high)
        return limit

    def climb(self, name: str) -> Climb | None:
        return next((c for c in self.climbs if c.id == name), None)

    def rule(self, name: str) -> Rule | None:
        return next((r for r in self.rules if r.id == name), None)


class Phase(StrEnum):
    """Where one trial is. It ends by leaving the state; the history keeps what it was."""

    APPLYING = "applying"  # the first write is on its way
    CLIMBING = "climbing"  # a search moves it, window by window
    JUDGING = "judging"  # provisional: the actor has the case
    SWITCHING = "switching"  # an arm is being written for a measurement
    WAITING = "waiting"  # a person is asked; it rests at the safe side
    KEEPING = "keeping"  # the verdict's value is being written, to be held
    REVERTING = "reverting"  # going back


class Window(msgspec.Struct, frozen=True):
    """One measurement under way. It opens at `opens` and closes at `closes` (None: not switched yet)."""

    ask: Measure
    opens: float | None = None
    closes: float | None = None
    opened: bool = False
    closing: bool = False
    skip_host: bool = True  # the first host observation reaches back before the window
    samples: dict[str, tuple[float, ...]] = {}


class Question(msgspec.Struct, frozen=True):
    """What a person is asked: `writes` are kept, or begun with, if they say yes."""

    writes: Writes
    verdict: Verdict | None = None  # None: they are asked before anything is written
    lease_s: float = 0.0  # then: how long the trial may take
    yes: bool = False  # they said so, and something still stands in the way
    told: int = 0  # how often an actor was told, whose hook may tell a person


class Trial(msgspec.Struct, frozen=True):
    id: str
    proposal: Proposal
    phase: Phase
    arm: Arm
    before: Writes
    after: Writes
    deadline: float
    window: Window | None = None
    kept: str = ""  # "confirmed" or "overwritten" while KEEPING
    keep: Writes = ()
    why: str = ""  # why it goes back, while REVERTING
    retry_at: float | None = None
    tries: int = 0
    rest_at: float | None = None  # when arm B is put back, if no window is asked for until then
    cases_sent: int = 0
    consulted: int = 0
    ignored: bool = False  # a verdict on it could not be used, and that is on record
    measured: int = 0
    signature: Signature | None = None  # of what was going on before the change
    untuned: tuple[Signature, ...] = ()  # of the latest looks while arm A was in place
    climb: ClimbMemory | None = None  # while CLIMBING
    question: Question | None = None  # while a person is asked
    approved: bool = False  # a person said yes before anything was written

    @property
    def rest_due(self) -> float | None:
        return self.rest_at if self.phase is Phase.JUDGING and not self.window else None

    @property
    def knobs(self) -> tuple[str, ...]:
        return tuple(w.knob for w in self.proposal.writes)

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset({self.proposal.expect.metric, *(g.metric for g in self.proposal.guard)})


class Held(msgspec.Struct, frozen=True):
    """A confirmed value."""

    knob: str
    value: Value
    trial: str
    rule: str
    since: float


class Foreign(msgspec.Struct, frozen=True):
    ours: Value
    found: Value
    writer: str
    since: float


class Learned(msgspec.Struct, frozen=True):
    """What the speculators remember. `tried`: the known workload whose settings were tried in this visit."""

    watched: Watched = Watched()
    priors: Priors = Priors()
    record: Record = Record()
    foresight: Foresight = Foresight()
    workloads: int = 0  # how many have been recognised
    tried: str = ""
    known: dict[str, tuple[Rule, Recall]] = {}  # the jumps that were thought of, by their rule's id


class Answered(msgspec.Struct, frozen=True):
    text: str
    seconds: float
    error: str = ""


class Run(msgspec.Struct, frozen=True):
    """One probe that was started, and by what it is judged whether its answer is still true."""

    token: int
    asked: Query
    ahead: str  # the case it was run ahead for; "": it was asked for
    started: float
    deeds: int
    workload: int
    waiting: tuple[Probe, ...] = ()
    joined: float | None = None  # when somebody began to wait for what was run ahead
    answer: Answered | None = None


class Session(msgspec.Struct, frozen=True):
    """What a case has asked, as symbols of `speculate.foresight`."""

    asked: tuple[str, ...] = ()
    probes: int = 0  # of what was asked
    since: float | None = None  # it thinks; None: it waits for an answer
    looks: int = 0  # at what comes next, in this thought
    look_at: float | None = None  # when to look again


class Tally(msgspec.Struct, frozen=True):
    """Questions that take time, those served from ahead; runs ahead, those for nothing; seconds saved."""

    asked: int = 0
    hits: int = 0
    started: int = 0
    wasted: int = 0
    saved_s: float = 0.0


class Probing(msgspec.Struct, frozen=True):
    runs: dict[int, Run] = {}
    sessions: dict[str, Session] = {}
    wasted: tuple[float, ...] = ()  # when, in the last minute
    tokens: int = 0
    tally: Tally = Tally()


class State(msgspec.Struct, frozen=True):
    setup: Setup
    mode: Mode
    rules: RulesMemory
    envelope: Envelope = Envelope()
    trials: dict[str, Trial] = {}
    held: dict[str, Held] = {}
    foreign: dict[str, Foreign] = {}
    originals: dict[str, Value] = {}  # of every knob that is not as we found it
    latest: dict[str, tuple[float, ...]] = {}  # recent values of each metric, oldest first
    learned: Learned = Learned()
    advice: tuple[Given, ...] = ()  # what verdicts asked of the next guesses; it ends by itself
    prepared: dict[str, tuple[str, ...]] = {}  # open trial -> the rules that come next if it is confirmed
    probing: Probing = Probing()
    deeds: int = 0  # what the ledger was told to do and has done: unchanged, a knob is as it was read
    looking: frozenset[str] = frozenset()  # rules whose knobs are being read
    offers: dict[str, Offer] = {}  # from outside, by rule id: their knobs are being read
    offered: tuple[tuple[float, str], ...] = ()  # when and by whom, within the last minute
    refusals: dict[str, int] = {}  # code -> how often
    last_refusal: dict[str, str] = {}  # rule -> code, so that repeats are folded
    paused: bool = False
    stopping: bool = False
    journal_ok: bool = True
    actor_alive: bool = False
    speculates: bool = False  # the actor answers an Outlook
    outlook: Outlook | None = None  # that it has not answered
    outlook_at: float = 0.0  # when the next one is due
    outlooks: int = 0  # so far
    outlook_consulted: int = 0  # exchanges about the latest that are on record
    review_s: float = 0.0  # how long the actor may think after its measurements
    ignored_until: float = 0.0  # no stray verdict is written down before
    started: int = 0  # trials so far
    wall_offset: float = 0.0  # added to a time, the seconds since the epoch
    prefix: str = "t"  # makes trial ids distinct over restarts
    where: str = ""  # what a command needs to find this daemon: " --runtime-dir D", if anything
    t: float = 0.0


def in_force(state: State, t: float) -> tuple[Given, ...]:
    """The advice that holds now, under the present workload."""
    if not state.advice:
        return ()
    usual = state.learned.watched.usual
    return tuple(one for one in state.advice if one.holds(usual, t))


def concerned(state: State, item: Strategy) -> tuple[str, ...]:
    """The knobs that an item of advice is about."""
    if not isinstance(item, RestRule):
        return (item.knob,)
    climb, jump = state.setup.climb(item.rule), state.learned.known.get(item.rule)
    rule = jump[0] if jump else state.setup.rule(item.rule)
    found = [span.knob for span in climb.spans] if climb else [a.knob for a in rule.do] if rule else []
    return tuple(dict.fromkeys(found))


def situation(state: State, t: float) -> Situation:
    trials = tuple(
        OpenTrial(
            frozenset(trial.knobs),
            "" if trial.question else trial.proposal.expect.metric,
            all(state.setup.catalogue[k].alternable for k in trial.knobs),
        )
        for trial in state.trials.values()
    )
    return Situation(
        t=t,
        policy=state.setup.policy,
        limits=state.setup.limits,
        catalogue=state.setup.catalogue,
        memory=state.envelope,
        paused=state.paused or state.stopping,
        journal_ok=state.journal_ok,
        # Without a judge a change could only run out of time. Observing needs none.
        actor_alive=state.actor_alive or state.mode is Mode.OBSERVE,
        foreign=frozenset(state.foreign),
        open_trials=trials,
        tried_only=state.setup.tried_only and state.mode is not Mode.OBSERVE,
        advised=rests(state, t),
    )


def is_pending(trial: Trial) -> bool:
    """Whether a person's answer is still waited for."""
    return trial.question is not None and not trial.question.yes and trial.phase is not Phase.REVERTING


def side(state: State) -> Side:
    """Where the host rests meanwhile: in lossless nothing stays changed that nobody has decided on."""
    return Side.OLD if state.mode is Mode.LOSSLESS else state.setup.policy.approval.wait_at


def rests(state: State, t: float) -> dict[str, str]:
    """Rules that advice leaves to rest, and whose it is."""
    return {
        one.item.rule: f"{one.by} in {one.trial}, for {one.until - t:.0f} s more: {one.item.reason}"
        for one in in_force(state, t)
        if isinstance(one.item, RestRule)
    }
