"""Lossless with probes run ahead against without: `python -m workloads.lossless_bench`.

The real engine and predictor on scripted diagnosis sessions. First the real helper answers each probe a few
times, which gives how long each takes here; then sessions are played in virtual time with these durations
(or with exponential ones), sequentially and ahead, the same thoughts and durations in both; at last a few in
real time with the real helper. The actor is a script: this is plumbing and says nothing of any model. Trained
on four kinds of diagnosis; tested on two that are none of these, and on the four with other noise; always on
other knobs than trained with, and with nothing learnt from the tested.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import select
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from tuned_spec import engine
from tuned_spec.daemon.known import KNOWN
from tuned_spec.daemon.probes_link import ProbesLink
from tuned_spec.engine import events as ev
from tuned_spec.model import (
    Action,
    Case,
    Condition,
    Expect,
    Knob,
    KnobType,
    Mode,
    Op,
    Outcome,
    Policy,
    Probe,
    ProbeAnswer,
    Rule,
    Verdict,
    VerdictKind,
    Way,
)
from tuned_spec.probes.messages import Question
from tuned_spec.probes.names import PROBES
from tuned_spec.speculate import foresight
from tuned_spec.speculate.foresight import Foresight, Query
from tuned_spec.speculate.rules import RulesMemory

replace = msgspec.structs.replace
Takes = Callable[[str, random.Random], float]  # a probe's name -> seconds
Thinks = Callable[[random.Random], float]
Step = tuple[str, str]  # a probe and its argument, `*` for what the case is about
AT_ONCE_S = 0.0005  # what the daemon answers itself takes about this

TRAINED: dict[str, tuple[Step, ...]] = {
    "cpu": (
        ("metric_history", "*"),
        ("pressure", "cpu"),
        ("top_processes", "cpu"),
        ("knob", "*"),
        ("kernel_log", ""),
    ),
    "memory": (
        ("memory", ""),
        ("pressure", "memory"),
        ("top_processes", "memory"),
        ("knob", "*"),
        ("changes", ""),
    ),
    "network": (
        ("metric_history", "*"),
        ("sockets", ""),
        ("top_processes", "cpu"),
        ("kernel_log", ""),
        ("knob", "*"),
    ),
    "disk": (("disks", ""), ("pressure", "io"), ("top_processes", "io"), ("memory", ""), ("knob", "*")),
}
HELD_OUT: dict[str, tuple[Step, ...]] = {
    "reclaim": (
        ("metric_history", "*"),
        ("pressure", "memory"),
        ("top_processes", "memory"),
        ("disks", ""),
        ("memory", ""),
        ("knob", "*"),
    ),
    "tail": (
        ("changes", ""),
        ("metric_history", "*"),
        ("sockets", ""),
        ("pressure", "cpu"),
        ("top_processes", "cpu"),
        ("kernel_log", ""),
    ),
}
NOISE = 0.15  # of the steps: left out, changed for any probe, or one more before it
ANY: tuple[Step, ...] = tuple(dict.fromkeys(step for steps in TRAINED.values() for step in steps))


def session(steps: Sequence[Step], draw: random.Random) -> list[Step]:
    asked: list[Step] = []
    for step in steps:
        match draw.random():
            case r if r < NOISE / 3:
                continue
            case r if r < NOISE * 2 / 3:
                asked.append(draw.choice(ANY))
            case r if r < NOISE:
                asked += [draw.choice(ANY), step]
            case _:
                asked.append(step)
    return asked


def query(step: Step, knob: str, metric: str) -> Query:
    name, word = step
    (arg,) = PROBES[name].args or ("",)
    value = {"knob": knob, "metric": metric}.get(arg, word)
    return Query(name, ((arg, value),) if arg else ())


# --------------------------------------------------------------------------------- the host


def entry(name: str) -> Knob:
    return Knob(
        name, "sysctl", name.replace(".", "/"), KnobType.INT, "count", "bench", "none", low=0, high=999
    )


KNOBS = {name: entry(name) for name in (f"bench.knob{n}" for n in range(12))}


def rule(name: str) -> Rule:
    metric = f"app.{name.rpartition('.')[2]}"
    return Rule(
        id=f"raise {name}",
        when=(Condition(metric, ">", 10.0, 5.0),),
        do=(Action(name, Op.SET, 500),),
        expect=Expect(metric, Way.DOWN),
        reason="a bench",
        source="none",
        cooldown_s=0.0,
        lease_s=3600.0,
    )


POLICY = Policy(("bench",), rules=tuple(map(rule, KNOBS)), rest_s=0.0, changes_per_minute=600)


class Thought(msgspec.Struct, frozen=True):
    """One session: its case's knob, what is asked, and how long is thought before each and the verdict."""

    name: str
    knob: str
    asked: tuple[Query, ...]
    thinks_s: tuple[float, ...]
    takes_s: tuple[float, ...]  # the same for the same question in one session


class Played(msgspec.Struct):
    seconds: float = 0.0
    probes_s: float = 0.0  # what sequential probes take, of that
    asked: int = 0  # of those that take time
    hits: int = 0
    started: int = 0
    wasted: int = 0


class Run:
    """One case on an engine, from its being sent to its verdict."""

    def __init__(
        self, policy: Policy, memory: Foresight, thought: Thought, takes: Callable[[Query], float]
    ) -> None:
        self.thought, self.takes, self.t = thought, takes, 1000.0
        self.state = engine.State(
            setup=engine.Setup.of(policy, KNOBS),
            mode=Mode.LOSSLESS,
            rules=RulesMemory(),
            learned=engine.Learned(foresight=memory),
            t=self.t,
        )
        self.queue: list[tuple[float, int, ev.Event]] = []
        self.numbers = itertools.count()
        self.asked, self.case, self.over = 0, "", False
        self.begun = 0.0

    def later(self, seconds: float, event: ev.Event) -> None:
        heapq.heappush(self.queue, (self.t + seconds, next(self.numbers), event))

    def play(self) -> Played:
        self.feed(ev.ActorChanged(self.t, True, "started"))
        self.feed(ev.Observed(self.t, {f"app.{self.thought.knob.rpartition('.')[2]}": 50.0}, host=False))
        self.begun = self.t
        while not self.over:
            self.advance()
        tally = self.state.probing.tally
        outstanding = sum(run.ahead != "" for run in self.state.probing.runs.values())
        return Played(
            seconds=self.t - self.begun,
            probes_s=sum(self.thought.takes_s),
            asked=tally.asked,
            hits=tally.hits,
            started=tally.started,
            wasted=tally.wasted + outstanding,
        )

    def advance(self) -> None:
        due = engine.next_wake(self.state)
        if self.queue and (due is None or self.queue[0][0] <= due):
            self.t, _, event = heapq.heappop(self.queue)
            self.feed(replace(event, t=self.t))
        else:
            assert due is not None, "nothing to wait for"
            self.t = max(self.t, due)
            self.feed(ev.Ticked(self.t))

    def feed(self, event: ev.Event) -> None:
        waiting = [event]
        while waiting:
            event = waiting.pop(0)
            if isinstance(event, ev.ActorSaid) and isinstance(event.message, Probe):
                self.asked += 1
            if isinstance(event, ev.ActorSaid) and isinstance(event.message, Verdict):
                self.over = True
                return
            self.state, commands = engine.step(self.state, event)
            for command in commands:
                waiting += self.execute(command)

    def execute(self, command: ev.Command) -> list[ev.Event]:
        match command:
            case ev.Look():
                return [ev.Looked(self.t, command.rule, dict.fromkeys(command.knobs + command.beside, 100))]
            case ev.RunProbe():
                self.run_probe(command)
            case ev.Tell(message=Case(id=id)):
                self.case = id
                self.think()
            case ev.Tell(message=ProbeAnswer()):
                self.think()
            case ev.Revert():
                return [ev.Reverted(self.t, command.trial, tuple[Outcome, ...]())]
            case _:
                pass
        return []

    def run_probe(self, command: ev.RunProbe) -> None:
        seconds = self.takes(Query(command.name, tuple(command.args.items())))
        self.later(seconds, ev.Probed(self.t, command.token, "{}", "", seconds))

    def think(self) -> None:
        number = self.asked
        seconds = self.thought.thinks_s[number]
        if number == len(self.thought.asked):
            said: Probe | Verdict = Verdict(self.case, VerdictKind.REJECT, "a bench")
        else:
            asked = self.thought.asked[number]
            said = Probe(self.case, number, asked.name, dict(asked.args))
        self.later(seconds, ev.ActorSaid(self.t, said))


class Real(Run):
    """The same by the clock on the wall, the helper answering."""

    def __init__(self, policy: Policy, memory: Foresight, thought: Thought, link: ProbesLink) -> None:
        super().__init__(policy, memory, thought, lambda _: 0.0)
        self.link, self.t = link, time.monotonic()
        self.state = replace(self.state, t=self.t)

    def run_probe(self, command: ev.RunProbe) -> None:
        if command.name in KNOWN:
            self.later(0.0, ev.Probed(self.t, command.token, "{}", "", AT_ONCE_S))
        elif trouble := self.link.ask(Question(command.token, command.name, command.args), self.t):
            self.later(0.0, ev.Probed(self.t, command.token, "", trouble))

    def advance(self) -> None:
        due = [
            t
            for t in (engine.next_wake(self.state), self.queue[0][0] if self.queue else None)
            if t is not None
        ]
        wait = max(0.0, min(due, default=self.t + 1.0) - time.monotonic())
        if self.link.sock is not None:
            select.select([self.link.sock], [], [], wait)
            told, trouble = self.link.receive()
            assert not trouble, trouble
        else:
            time.sleep(wait)
            told = []
        self.t = time.monotonic()
        for one in told:
            self.feed(ev.Probed(self.t, one.token, one.answer, one.error, one.seconds))
        while self.queue and self.queue[0][0] <= self.t and not self.over:
            self.feed(replace(heapq.heappop(self.queue)[2], t=self.t))
        if not self.over:
            self.feed(ev.Ticked(self.t))


# ---------------------------------------------------------------------------------- numbers


def measure(rounds: int) -> dict[str, tuple[float, ...]]:
    """How long each probe of the real helper takes here. What the daemon answers itself takes no time."""
    link, found = ProbesLink(), dict[str, list[float]]()
    tokens = itertools.count(1)
    try:
        for name, word in dict.fromkeys(ANY) if rounds else ():
            if name in KNOWN:
                continue
            asked = query((name, word), "", "")
            for _ in range(rounds):
                began = time.monotonic()
                why = link.ask(Question(next(tokens), name, dict(asked.args)), began)
                assert not why and link.sock is not None, why
                select.select([link.sock], [], [], 10.0)
                ((one,), trouble) = link.receive()
                assert not trouble and not one.error, trouble or one.error
                found.setdefault(name, []).append(time.monotonic() - began)
    finally:
        link.give_up(time.monotonic())
    return {name: tuple(times) for name, times in found.items()}


def thoughts(
    templates: dict[str, tuple[Step, ...]],
    count: int,
    knobs: Sequence[str],
    seed: str,
    think: Thinks,
    takes: Takes,
) -> list[Thought]:
    found, draw = [], random.Random(seed)
    for number in range(count):
        steps = templates[sorted(templates)[number % len(templates)]]
        knob = draw.choice(knobs)
        asked = tuple(query(step, knob, metric_of(knob)) for step in session(steps, draw))
        thinks = tuple(think(draw) for _ in range(len(asked) + 1))
        takes_s = tuple(lasts(takes, f"{seed} {number}", one) for one in asked)
        found.append(Thought(f"{seed} {number}", knob, asked, thinks, takes_s))
    return found


def lasts(takes: Takes, session: str, asked: Query) -> float:
    """The same for the same question in one session, whether it is run ahead or not."""
    return takes(asked.name, random.Random(f"{session} {asked}"))


def metric_of(knob: str) -> str:
    return f"app.{knob.rpartition('.')[2]}"


def train(sessions: Sequence[Thought]) -> Foresight:
    """As the engine would have learnt it from these, sequentially."""
    memory = Foresight()
    for one in sessions:
        metric = metric_of(one.knob)
        slots = {"$knob0": one.knob, "$metric0": metric}
        place = foresight.Setting(("", f"{one.knob} {metric}", f"rule raise {one.knob}"), slots)
        memory = foresight.learn(memory, place, [foresight.symbol(place, q) for q in one.asked], True)
        for asked, seconds, thinks in zip(one.asked, one.takes_s, one.thinks_s, strict=False):
            memory = foresight.thought(foresight.ran(memory, asked.name, seconds), thinks)
    return memory


def total(runs: Sequence[Played]) -> Played:
    return Played(*(sum(getattr(one, field) for one in runs) for field in Played.__struct_fields__))


def play_all(policy: Policy, memory: Foresight, sessions: Sequence[Thought], takes: Takes) -> Played:
    return total([Run(policy, memory, one, partial(lasts, takes, one.name)).play() for one in sessions])


HEAD = "  k depth   ready of asked   started  wasted     time   saved   paper's bound"


def table(title: str, memory: Foresight, sessions: Sequence[Thought], takes: Takes) -> None:
    base = play_all(replace(POLICY, ahead=0), memory, sessions, takes)
    ask_s, think_s = base.probes_s, base.seconds - base.probes_s
    alpha, beta = base.asked / ask_s, sum(len(one.thinks_s) for one in sessions) / think_s
    pairs = [pair for one in sessions for pair in zip(one.thinks_s, one.takes_s, strict=False)]
    oracle = sum(min(pair) for pair in pairs) / base.seconds
    print(f"\n{title}")
    print(
        f"  {len(sessions)} sessions, {len(pairs)} probes, {base.asked} of them take time; sequential "
        f"{base.seconds:.0f} s, of it probing {ask_s:.0f} s ({ask_s / base.seconds:.1%}: there is no more to "
        f"save); were the next probe always known, {oracle:.1%} would be saved"
    )
    print(HEAD)
    for k, depth in itertools.product((1, 2, 3), (1, 2)):
        ahead = play_all(replace(POLICY, ahead=k, ahead_depth=depth), memory, sessions, takes)
        p = ahead.hits / ahead.asked
        bound = p / (1 + p) * alpha / (alpha + beta)
        saved = 1 - ahead.seconds / base.seconds
        print(
            f"  {k}   {depth}      {ahead.hits:5d} ({p:5.1%})     {ahead.started:5d}   {ahead.wasted:5d}"
            f"  {ahead.seconds:6.0f} s  {saved:5.1%}     {bound:5.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often the helper answers each probe")
    parser.add_argument("--train", type=int, default=40, help="sessions that are learnt from")
    parser.add_argument("--test", type=int, default=200, help="sessions a table")
    parser.add_argument("--real", type=int, default=6, help="sessions in real time, each twice")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"load {load}, {os.cpu_count()} CPUs, seed {args.seed}, price {POLICY.ahead_price}")
    seconds = measure(args.rounds)
    print(
        "probes here, median seconds: "
        + json.dumps({n: round(statistics.median(t), 3) for n, t in seconds.items()})
    )

    def real_like(name: str, draw: random.Random) -> float:
        return draw.choice(seconds[name]) if name in seconds else AT_ONCE_S

    def exponential(name: str, draw: random.Random) -> float:
        return AT_ONCE_S if name in KNOWN else draw.expovariate(1.0)

    names = tuple(KNOBS)
    waits: dict[str, tuple[Thinks, Takes]] = {
        "thinks exp. mean 1 s, probes exp. mean 1 s": (lambda draw: draw.expovariate(1.0), exponential),
        "thinks exp. mean 4 s, probes exp. mean 1 s": (lambda draw: draw.expovariate(0.25), exponential),
        "thinks 1.5 s, probes as measured": (lambda draw: 1.5 * draw.uniform(0.8, 1.2), real_like),
        "thinks 12 s, probes as measured": (lambda draw: 12.0 * draw.uniform(0.8, 1.2), real_like),
    }
    for words, (think, takes) in waits.items():
        memory = train(thoughts(TRAINED, args.train, names[:8], f"{args.seed} train", think, takes))
        for kind, templates in (("held-out diagnoses", HELD_OUT), ("trained diagnoses, new noise", TRAINED)):
            tested = thoughts(templates, args.test, names[8:], f"{args.seed} {kind}", think, takes)
            table(f"{kind}, {words}", memory, tested, takes)
    if args.real:
        think, takes = waits["thinks 1.5 s, probes as measured"]
        memory = train(thoughts(TRAINED, args.train, names[:8], f"{args.seed} train", think, takes))
        tested = thoughts(HELD_OUT, args.real, names[8:], f"{args.seed} real", think, takes)
        link = ProbesLink()
        both: dict[int, list[Played]] = {0: [], 2: []}
        try:
            for number, one in enumerate(tested):
                for k in (0, 2) if number % 2 else (2, 0):
                    both[k].append(Real(replace(POLICY, ahead=k), memory, one, link).play())
        finally:
            link.give_up(time.monotonic())
        before, after = total(both[0]), total(both[2])
        print(
            f"\nreal time, real helper, held-out diagnoses, thinks 1.5 s, k 2, depth 2: {args.real} sessions "
            f"each way, in turns: sequential {before.seconds:.1f} s, ahead {after.seconds:.1f} s, saved "
            f"{1 - after.seconds / before.seconds:.1%}; ready or under way {after.hits} of {after.asked} "
            f"({after.wasted} of {after.started} wasted)"
        )


if __name__ == "__main__":
    main()
