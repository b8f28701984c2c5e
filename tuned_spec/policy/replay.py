"""A recorded trace through a policy: what the engine would have proposed, and what the envelope refused.

Owns a host on paper: the catalogue, what stood in the knobs when the trace began, what was observed after.
Pure and deterministic: the real engine decides, nobody answers it, and a trial that was opened runs out. Must
not know files or the host that this runs on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tuned_spec import engine
from tuned_spec.engine import events as ev
from tuned_spec.globs import matches
from tuned_spec.knobs import caps
from tuned_spec.knobs.instances import concrete
from tuned_spec.model import (
    Condition,
    Expect,
    Guard,
    Knob,
    Mode,
    Observation,
    Outcome,
    Policy,
    Record,
    Refusal,
    Rule,
    Value,
    Write,
    Writes,
)
from tuned_spec.speculate.rules import RulesMemory
from tuned_spec.speculate.templates import instantiate

UNTOLD = "absent"  # the envelope's code for a knob whose value the trace does not tell
MOST_EVENTS = 1000  # that one observation may lead to: the engine does not talk to itself


class Proposed(msgspec.Struct, frozen=True):
    """`t`: seconds since the trace began; `before` and `writes` are of the same knobs."""

    t: float
    rule: str
    before: Writes
    writes: Writes
    seen: dict[str, float]
    expect: Expect
    guard: tuple[Guard, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """The first of a row of the same refusals. `code` is one of `envelope.CODES`."""

    t: float
    rule: str
    code: str
    knob: str
    what: str


class Replay(msgspec.Struct, frozen=True):
    """`unknown`: knob -> the rules that asked for its value, which the trace does not tell.

    `deaf`: rule -> the metrics it needs that the trace never shows. `quiet`: rules that never held.
    """

    mode: Mode
    observations: int
    seconds: float
    proposed: tuple[Proposed, ...] = ()
    refused: tuple[Refused, ...] = ()
    unknown: dict[str, tuple[str, ...]] = {}
    deaf: dict[str, tuple[str, ...]] = {}
    quiet: tuple[str, ...] = ()


class Paper(Mapping[str, Knob]):
    """The catalogue as a host of these facts would have it; what is not in `values` cannot be enumerated."""

    def __init__(
        self, entries: Mapping[str, Knob], facts: caps.Facts, values: Mapping[str, Value] | None = None
    ) -> None:
        self._entries = {name: caps.capped(knob, facts) for name, knob in entries.items()}
        self._values = values or {}

    def __getitem__(self, id: str) -> Knob:
        name, at, instance = id.partition("@")
        entry = self._entries[name]
        if not at:
            return entry
        if not instance or not (entry.per or entry.scope == "netns"):
            raise KeyError(id)
        return concrete(entry, instance, self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def instances(self, id: str) -> tuple[str, ...]:
        """What `ENTRY@GLOB` means, by the values that are known."""
        name, _, pattern = id.partition("@")
        known = (knob.partition("@") for knob in sorted(self._values))
        return tuple(i for entry, at, i in known if at and entry == name and matches(pattern or "**", i))


def replay(
    policy: Policy,
    observations: Iterable[Observation],
    catalogue: Paper,
    values: Mapping[str, Value],
    *,
    mode: Mode = Mode.OBSERVE,
    cpus: int = 1,
) -> Replay:
    """What this policy would have done while that was observed. `mode`: OBSERVE or LOSSY."""
    rules = instantiate(policy.rules, catalogue.instances)
    return _Run(policy, rules, catalogue, values, mode, cpus).through(observations)


class _Run:
    def __init__(
        self,
        policy: Policy,
        rules: tuple[Rule, ...],
        catalogue: Paper,
        values: Mapping[str, Value],
        mode: Mode,
        cpus: int,
    ) -> None:
        self.rules, self.mode = rules, mode
        self.values, self.originals = dict(values), dict(values)
        setup = engine.Setup.of(policy, catalogue, rules, cpus)
        self.state = engine.State(setup=setup, mode=mode, rules=RulesMemory())
        self.notes: list[Record] = []
        self.unknown: dict[str, dict[str, None]] = {}
        self.heard: set[str] = set()
        self.held: set[str] = set()

    def through(self, observations: Iterable[Observation]) -> Replay:
        count, t = 0, 0.0
        self.feed(ev.ActorChanged(t, True, "on paper"))
        for observation in observations:
            while (wake := engine.next_wake(self.state)) is not None and t < wake < observation.t:
                t = wake
                self.feed(ev.Ticked(t))
            count, t = count + 1, observation.t
            self.heard.update(observation.values)
            self.feed(ev.Observed(t, observation.values))
            self.held.update(name for name, rule in self.state.rules.states.items() if rule.active)
        return self.result(count, t)

    def feed(self, event: ev.Event) -> None:
        waiting = deque([event])
        for _ in range(MOST_EVENTS):
            if not waiting:
                return
            self.state, commands = engine.step(self.state, waiting.popleft())
            waiting.extend(answer for command in commands if (answer := self.answer(command, event.t)))

    def answer(self, command: ev.Command, t: float) -> ev.Event | None:
        match command:
            case ev.Look():
                return self.look(command, t)
            case ev.Apply():
                before = tuple(Write(w.knob, self.values[w.knob]) for w in command.writes)
                self.write(command.writes)
                return ev.Applied(t, command.trial, before, command.writes)
            case ev.Revert():
                outcomes = self.restore(command.restore)
                self.write(command.hold)
                return ev.Reverted(t, command.trial, outcomes, command.why)
            case ev.RevertAll():
                return ev.Reverted(t, "", self.restore(command.knobs or tuple(self.values)), command.why)
            case ev.Note():
                self.notes.append(command.record)
            case ev.Hold() | ev.TakeUp() | ev.Remember() | ev.SenseNow():
                pass  # nobody is there
            case ev.RunProbe() | ev.Tell() | ev.Answer():
                pass  # nobody is there
        return None

    def look(self, command: ev.Look, t: float) -> ev.Looked:
        known = {k: self.values[k] for k in command.knobs + command.beside if k in self.values}
        for knob in command.knobs:
            if knob not in known:
                self.unknown.setdefault(knob, {})[command.rule] = None
                refusal = Refusal(UNTOLD, knob, "the trace does not tell its value")
                return ev.Looked(t, command.rule, known, refusal)
        return ev.Looked(t, command.rule, known)

    def write(self, writes: Writes) -> None:
        self.values |= {write.knob: write.value for write in writes}

    def restore(self, knobs: Iterable[str]) -> tuple[Outcome, ...]:
        found = {knob: str(self.values[knob]) for knob in knobs}
        self.values |= {knob: self.originals[knob] for knob in found}
        return tuple(Outcome(k, was, str(self.originals[k]), "restored") for k, was in found.items())

    def result(self, observations: int, seconds: float) -> Replay:
        refused = [n for n in self.notes if n.kind == "refused" and n.data["code"] != UNTOLD]
        return Replay(
            mode=self.mode,
            observations=observations,
            seconds=seconds,
            proposed=tuple(_proposed(note) for note in self.notes if note.kind in ("would", "proposed")),
            refused=tuple(map(_refused, refused)),
            unknown={knob: tuple(rules) for knob, rules in self.unknown.items()},
            deaf={rule.id: silent for rule in self.rules if (silent := self.silent(rule))},
            quiet=tuple(r.id for r in self.rules if r.id not in self.held and not self.silent(r)),
        )

    def silent(self, rule: Rule) -> tuple[str, ...]:
        """The metrics without which the rule cannot hold; a guard may be missing."""
        missing = [] if rule.expect.metric in self.heard else [rule.expect.metric]
        for first in rule.when:
            link: Condition | None = first
            while link is not None and link.metric not in self.heard:
                link = link.fallback
            if link is None:
                missing.append(first.metric)
        return tuple(dict.fromkeys(missing))


def _proposed(note: Record) -> Proposed:
    fields = ("before", "writes", "seen", "expect", "guard")
    return msgspec.convert(
        {"t": note.t, "rule": note.rule, **{field: note.data[field] for field in fields}},
        Proposed,
        from_attributes=True,
    )


def _refused(note: Record) -> Refused:
    return Refused(note.t, note.rule, str(note.data["code"]), " ".join(note.knobs), str(note.data["what"]))
