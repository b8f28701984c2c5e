"""A host in a dictionary for the engine's tests: carries out its commands, remembers every write.

A value, not a mock: it is what the engine would face, with faults that can be switched on.
"""

from __future__ import annotations

from collections import deque

from tuned_spec import engine
from tuned_spec.engine import events as ev
from tuned_spec.model import (
    Action,
    Climb,
    Coupling,
    CouplingKind,
    Expect,
    ForeignWrite,
    Guard,
    Knob,
    KnobType,
    Limit,
    Mode,
    Op,
    Outcome,
    Policy,
    Record,
    Rule,
    Span,
    ToActor,
    Value,
    Way,
    Write,
)
from tuned_spec.model import Condition as When
from tuned_spec.speculate.rules import RulesMemory


def knob(name: str, **more: object) -> Knob:
    facts: dict[str, object] = {
        "id": name,
        "adapter": "sysctl",
        "target": name.replace(".", "/"),
        "type": KnobType.INT,
        "unit": "count",
        "summary": "for tests",
        "source": "none",
        "low": 0,
        "high": 1000,
        "settle_s": 0.5,
        "dwell_s": 1.0,
    }
    return Knob(**{**facts, **more})  # type: ignore[arg-type]


CATALOGUE = {
    k.id: k
    for k in (
        knob("t.plain"),
        knob("t.slow", alternable=False),
        knob("t.search", low=1),
        knob("t.task", per="task"),
        knob("t.bytes", coupled=(Coupling("t.ratio", CouplingKind.ZEROES),)),
        knob("t.ratio", coupled=(Coupling("t.bytes", CouplingKind.ZEROES),), high=100),
    )
}
FOUND: dict[str, Value] = {"t.plain": 100, "t.slow": 7, "t.search": 64, "t.bytes": 0, "t.ratio": 20}


def rule(name: str, *actions: Action, metric: str = "app.p95", **more: object) -> Rule:
    facts: dict[str, object] = {
        "id": name,
        "when": (When(metric, ">", 10.0, 5.0),),
        "do": actions,
        "expect": Expect(metric, Way.DOWN),
        "reason": "a test",
        "source": "none",
        "guard": (Guard("app.max", Way.DOWN),),
        "cooldown_s": 5.0,
        "lease_s": 30.0,
        "settle_s": 0.5,
        "dwell_s": 1.0,
    }
    return Rule(**{**facts, **more})  # type: ignore[arg-type]


LATE = When("app.max", ">", 10.0, 5.0, for_s=2.0)
RULES = (
    rule("grow", Action("t.plain", Op.MULTIPLY, 2.0)),
    rule("shrink", Action("t.plain", Op.ADD, -30), metric="app.other"),
    rule("slow", Action("t.slow", Op.SET, 9), metric="cpu.busy"),
    rule("late", Action("t.slow", Op.SET, 11), metric="app.max", when=(LATE,)),
    rule("pair", Action("t.bytes", Op.SET, 500), metric="app.other"),
    rule("jump", Action("t.search", Op.SET, 100), metric="app.lag"),
)
POLICY = Policy(
    names=("test",),
    rules=RULES,
    limits=(Limit("t.plain", low=50, high=800, step_ratio=2.0, bound_ratio=4.0, step_abs=50),),
    climbs=(
        Climb(
            id="find",
            spans=(Span("t.search", 8, 512),),
            expect=Expect("app.lag", Way.DOWN),
            reason="a test",
            source="none",
            settle_s=0.0,
        ),
    ),
    changes_per_minute=6,
    rest_s=60.0,
)


class World:
    def __init__(self, mode: Mode, policy: Policy = POLICY) -> None:
        self.kernel = dict(FOUND)
        self.rows: dict[str, Value] = {}  # knob -> original, as the ledger has them
        self.ours: dict[str, Value] = {}
        self.held_rows: set[str] = set()
        self.refuse: set[str] = set()  # knobs whose writes the kernel refuses
        self.stuck: set[str] = set()  # knobs that cannot be put back for now
        self.written: list[tuple[str, Value]] = []
        self.told: list[ToActor] = []
        self.notes: list[Record] = []
        self.answers: list[ev.Answer] = []
        self.commands: list[ev.Command] = []
        self.t = 1000.0
        setup = engine.Setup.of(policy, CATALOGUE)
        self.state = engine.State(setup=setup, mode=mode, rules=RulesMemory(), t=self.t)

    def feed(self, event: ev.Event) -> None:
        waiting = deque([event])
        for _ in range(200):
            if not waiting:
                return
            self.state, commands = engine.step(self.state, waiting.popleft())
            for command in commands:
                self.commands.append(command)
                result = self.execute(command)
                if result:
                    waiting.append(result)
        raise AssertionError("one event led to more than 200: the engine talks to itself")

    def execute(self, command: ev.Command) -> ev.Event | None:
        match command:
            case ev.Look():
                return ev.Looked(
                    self.t, command.rule, {k: self.kernel[k] for k in command.knobs + command.beside}
                )
            case ev.Apply():
                return self.apply(command)
            case ev.Revert():
                outcomes = self.restore(command.restore)
                for write in command.hold:
                    self.write(write.knob, write.value)
                return ev.Reverted(self.t, command.trial, outcomes, command.why)
            case ev.RevertAll():
                return ev.Reverted(self.t, "", self.restore(command.knobs or tuple(self.rows)), command.why)
            case ev.Tell():
                self.told.append(command.message)
            case ev.Answer():
                self.answers.append(command)
            case ev.Note():
                self.notes.append(command.record)
            case ev.SenseNow():
                return ev.Observed(self.t, {"cpu.busy": 0.5})
            case ev.Hold():
                self.held_rows |= set(self.rows)
            case ev.RunProbe():
                return self.probe(command)
            case ev.TakeUp() | ev.Remember():
                pass
        return None

    def probe(self, command: ev.RunProbe) -> ev.Event | None:
        return ev.Probed(self.t, command.token, f"{command.name} at {self.t}")

    def apply(self, command: ev.Apply) -> ev.Event:
        for write in command.writes:
            if write.knob in self.refuse:
                left = write.knob in self.stuck  # it was written, not read back, and cannot be taken back
                if left:
                    self.rows.setdefault(write.knob, self.kernel[write.knob])
                    self.write(write.knob, write.value)
                return ev.ApplyFailed(self.t, command.trial, write.knob, 22, "the kernel refused", left)
        before = tuple(Write(w.knob, self.kernel[w.knob]) for w in command.writes)
        for write in command.writes:
            self.rows.setdefault(write.knob, self.kernel[write.knob])
            self.write(write.knob, write.value)
        return ev.Applied(self.t, command.trial, before, command.writes)

    def write(self, name: str, value: Value) -> None:
        self.kernel[name] = self.ours[name] = value
        self.written.append((name, value))

    def restore(self, knobs: tuple[str, ...]) -> tuple[Outcome, ...]:
        outcomes = []
        for name in knobs:
            if name not in self.rows:
                continue
            found, original = self.kernel[name], self.rows[name]
            if found not in (self.ours[name], original):
                status = "foreign"
            elif name in self.stuck:
                status = "failed"
            else:
                status = "unchanged" if found == original else "restored"
                self.kernel[name] = original
            if status != "failed":
                del self.rows[name]
            outcomes.append(Outcome(name, str(found), str(original), status))
        return tuple(outcomes)

    def outsider(self, name: str, value: Value) -> None:
        """Somebody else writes; the ledger's audit finds it if the knob is ours and the value is not."""
        self.kernel[name] = value
        if name in self.rows and value != self.ours[name]:
            write = ForeignWrite(name, self.ours[name], value, "sysctl[1]")
            del self.rows[name]
            self.feed(ev.ForeignFound(self.t, (write,)))

    def kinds(self) -> list[str]:
        return [note.kind for note in self.notes]
