"""A replayed host and a scripted actor: the same events twice, with probes run ahead and without.

An answer is a function of what the ledger has done (and, if sampled, of which workload the engine was told
of) at the moment its run is *started*, counted here and not by the engine. What the actor does next is drawn
from all that it has been told, so that one different answer makes another session. Times are of the script:
both hosts see the same events at the same times, and answers come before the actor's next word; runs ahead
come back whenever.
"""

from __future__ import annotations

import random
import zlib
from typing import TypeVar

import msgspec

from tests.engine.test_learning import CPU, DISK
from tests.engine.world import POLICY, World
from tuned_spec.engine import events as ev
from tuned_spec.engine import next_wake
from tuned_spec.engine.state import Learned
from tuned_spec.model import (
    Arm,
    Cancel,
    Case,
    Measure,
    Measurement,
    Mode,
    Outcome,
    Probe,
    ProbeAnswer,
    Value,
    Verdict,
    VerdictKind,
    Write,
)
from tuned_spec.probes.names import PROBES
from tuned_spec.speculate.foresight import Foresight
from tuned_spec.speculate.signature import NEEDS

replace = msgspec.structs.replace
LIVELY = replace(POLICY, rest_s=1.0, changes_per_minute=600, toggles_per_minute=6000, ahead_price=0.02)
HABIT = (
    "knob",
    "metric_history",
    "top_processes",
    "memory",
    "changes",
    "knob",
)  # what it mostly asks, in order

DIED = "the helper died"
Host = TypeVar("Host", bound="Replayed")


class Replayed(World):
    def __init__(self, ahead: int, seed: int, learned: Foresight) -> None:
        super().__init__(Mode.LOSSLESS, replace(LIVELY, ahead=ahead))
        self.state = replace(self.state, learned=Learned(foresight=learned))
        self.faults = random.Random(f"faults {seed}")  # of the runs alone: never drawn from for the script
        self.deeds = 0
        self.pending: dict[int, ev.Probed] = {}
        self.log: list[object] = []  # what was written, put back and said, in order

    def feed(self, event: ev.Event) -> None:
        """As the loop does: what falls due by what happened is dealt with at once."""
        if isinstance(event, ev.ForeignFound):  # what another writes is no deed before it is found
            self.deeds += 1
        super().feed(event)
        for _ in range(8):
            if (due := next_wake(self.state)) is None or due > self.t:
                return
            super().feed(ev.Ticked(self.t))
        raise AssertionError("the loop would spin")

    # ---------------------------------------------------------------------------- the host

    def write(self, name: str, value: Value) -> None:
        super().write(name, value)
        self.deeds += 1
        self.log.append((name, value))

    def restore(self, knobs: tuple[str, ...]) -> tuple[Outcome, ...]:
        outcomes = super().restore(knobs)
        self.deeds += 1
        self.log.append(outcomes)
        return outcomes

    def execute(self, command: ev.Command) -> ev.Event | None:
        if isinstance(command, ev.Hold | ev.TakeUp):
            self.deeds += 1
        return super().execute(command)

    def workloads(self) -> int:
        return sum(note.kind == "workload" for note in self.notes)

    def shows(self, name: str, args: dict[str, str]) -> str:
        now = [name, sorted(args.items()), self.deeds]
        if PROBES[name].exact:
            now.append(sorted((id, trial.phase.value) for id, trial in self.state.trials.items()))
        else:
            now.append(self.workloads())
        return str(now)

    def probe(self, command: ev.RunProbe) -> ev.Event | None:
        answer, seconds = self.shows(command.name, command.args), 0.5
        error = "the kernel log cannot be read" if zlib.crc32(answer.encode()) % 9 == 0 else ""
        waited_for = bool(self.state.probing.runs[command.token].waiting)
        if not waited_for and self.faults.random() < 0.1:
            error = DIED
        self.pending[command.token] = ev.Probed(
            self.t, command.token, "" if error else answer, error, seconds
        )
        return None

    def come_back(self, all_: bool) -> None:
        """Runs that somebody waits for come back in time; the others sooner or later, in any order."""
        for token in self.faults.sample(sorted(self.pending), len(self.pending)):
            run = self.state.probing.runs.get(token)
            if all_ or (run and run.waiting) or self.faults.random() < 0.4:
                self.feed(replace(self.pending.pop(token), t=self.t))
        if any(run.waiting for run in self.state.probing.runs.values()):
            self.come_back(all_)  # what was run again

    def fail(self) -> None:
        """A run ahead that fails while somebody waits does so at once, and is run again: were the ledger
        to do something before, the second run would tell of another moment, as a sequential one's might."""
        for token, run in tuple(self.state.probing.runs.items()):
            if run.ahead and run.waiting and token in self.pending and self.pending[token].error:
                self.feed(replace(self.pending.pop(token), t=self.t))

    # --------------------------------------------------------------------------- the actor

    def told_of(self, case: str) -> list[object]:
        """Since the case was sent last; it waits for no answer of before."""
        told = [m for m in self.told if getattr(m, "case", getattr(m, "id", "")) == case]
        starts = [n for n, message in enumerate(told) if isinstance(message, Case)]
        return list(told[starts[-1] :]) if starts else []

    def speak(self, seed: int) -> None:
        """Each case that is open, and that waits for no answer, may say something."""
        for case in [m for m in self.told if isinstance(m, Case)]:
            told = self.told_of(case.id)
            if told[0] is not case or not self.state.actor_alive or isinstance(told[-1], Cancel):
                continue
            said = [m for m in self.log if isinstance(m, Probe | Measure) and m.case == case.id]
            if any(isinstance(m, Verdict) and m.case == case.id for m in self.log):
                continue
            answers = [m for m in told if isinstance(m, ProbeAnswer | Measurement)]
            if said and len(told) > 1 and not (answers and answers[-1].seq == said[-1].seq):
                continue  # it waits
            if said and len(told) == 1 and case.id in self.waits():
                continue
            message = self.decides(case, len(said), random.Random(f"{seed} {told}"))
            if message is not None:
                self.log.append(message)
                self.feed(ev.ActorSaid(self.t, message))
                self.fail()

    def waits(self) -> set[str]:
        """Cases with a question that was asked after they were sent, and is not answered."""
        return {id for id, s in self.state.probing.sessions.items() if s.since is None}

    def decides(self, case: Case, seq: int, draw: random.Random) -> Probe | Measure | Verdict | None:
        knob = case.knobs[0].id
        match draw.random():
            case r if r < 0.2:
                return None
            case r if r < 0.7:
                name = HABIT[seq % len(HABIT)]
            case r if r < 0.8:
                name = draw.choice(["pressure", "sockets", "disks", "kernel_log", "nonsense"])
            case r if r < 0.9:
                arm = draw.choice(list(Arm))
                return Measure(case.id, seq, arm, 0.1, 0.5, (Write(knob, draw.randint(0, 900)),))
            case _:
                kind = draw.choice(list(VerdictKind))
                writes = (Write(knob, draw.randint(40, 900)),) if kind is VerdictKind.OVERWRITE else ()
                return Verdict(case.id, kind, "drawn", writes)
        wants = PROBES[name].args if name in PROBES else {}
        words = {"knob": knob, "metric": case.expect.metric, "by": draw.choice(["cpu", "cpu", "cpu", "io"])}
        return Probe(case.id, seq, name, {arg: words[arg] for arg in wants})


def play(ahead: int, seed: int, learned: Foresight) -> Replayed:
    """One script, drawn from the seed alone, on a host of its own."""
    return play_on(Replayed(ahead, seed, learned), seed)


def play_on(host: Host, seed: int, steps: int = 80) -> Host:
    script = random.Random(f"script {seed}")
    host.feed(ev.ActorChanged(host.t, True, "started"))
    for _ in range(steps):
        host.t += script.choice([0.1, 0.3, 1.0, 1.0, 3.0, 12.0])
        host.feed(ev.Ticked(host.t))
        happens(host, script)
        host.come_back(all_=False)
        host.speak(seed)
        host.come_back(all_=False)
    host.come_back(all_=True)
    host.stuck.clear()
    host.refuse.clear()
    host.feed(ev.Stop(host.t, "the end"))
    return host


def happens(host: Replayed, script: random.Random) -> None:
    """Something that nobody asked for, or nothing; what is drawn does not depend on the host."""
    metric, knob = (
        script.choice(["app.p95", "app.other", "app.max", "cpu.busy"]),
        script.choice(["t.plain", "t.slow", "t.bytes"]),
    )
    value, figures = script.randint(1, 900), script.choice([CPU, DISK])
    match script.random():
        case r if r < 0.45:
            host.feed(ev.Observed(host.t, {metric: 50.0}, host=metric == "cpu.busy"))
        case r if r < 0.55:
            for _ in range(8):
                host.t += 1.0
                host.feed(ev.Observed(host.t, dict.fromkeys(NEEDS, 0.0) | figures))
        case r if r < 0.6:
            (host.refuse.discard if knob in host.refuse else host.refuse.add)(knob)
        case r if r < 0.64:
            (host.stuck.discard if knob in host.stuck else host.stuck.add)(knob)
        case r if r < 0.68:
            host.feed(ev.JournalChanged(host.t, not host.state.journal_ok, "a fault"))
        case r if r < 0.73:
            host.outsider(knob, value)
        case r if r < 0.77:
            host.feed(ev.Resume(host.t, (knob,)))
        case r if r < 0.81:
            host.feed(ev.ActorChanged(host.t, False, "died"))
            host.feed(ev.ActorChanged(host.t, True, "started"))
        case r if r < 0.83:
            host.feed(ev.Pause(host.t, restore=value % 2 == 0))
            host.feed(ev.Resume(host.t))
        case _:
            pass


def differs(first: Replayed, second: Replayed) -> str:
    """What an owner or an actor could tell the two runs apart by, but for the time; "" if by nothing."""
    for n, (a, b) in enumerate(zip(first.log, second.log, strict=False)):
        if a != b:
            return f"deed {n}: {a} and {b}"
    if len(first.log) != len(second.log):
        return f"{len(first.log)} and {len(second.log)} deeds"
    if first.kernel != second.kernel:
        return f"{first.kernel} and {second.kernel}"
    for case in {m.id for m in first.told if isinstance(m, Case)}:
        for a, b in zip(first.told_of(case), second.told_of(case), strict=False):
            if a != b:
                return f"told of {case}: {a} and {b}"
    return ""
