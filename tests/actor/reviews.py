"""Cases as full as they get, and a stand-in for the driver of a review: answers made up, no process."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import assert_never

from tests.actor.cases import Window, answer
from tuned_spec import windows
from tuned_spec.actor import brief
from tuned_spec.actor.flow import Consult, Reply, Review, Silence
from tuned_spec.actor.reply import Terms
from tuned_spec.actor.trial import Bench, Examined
from tuned_spec.model import (
    Allowed,
    Arm,
    Case,
    Consulted,
    Effect,
    Knob,
    KnobType,
    Measure,
    Mode,
    Past,
    Probe,
    ProbeAnswer,
    Rule,
    Value,
    Verdict,
    VerdictKind,
    Write,
)
from tuned_spec.policy.replay import Paper
from tuned_spec.speculate.signature import FEATURES

Speaker = Callable[[Consult], Reply]


def says(*texts: str) -> Speaker:
    """A model that says these, one after the other, and then the last again and again."""
    left = iter(texts)

    def speak(_: Consult) -> Reply:
        nonlocal texts
        text = next(left, texts[-1])
        return Reply(text=text, model="scripted", tokens_in=10, tokens_out=5, seconds=1.0)

    return speak


class Session:
    """A review driven to its end. What was asked is in the lists; `verdict` is None after silence."""

    def __init__(self, flow: Review, window: Window, speak: Speaker, probes: str = "fine") -> None:
        self.measures: list[Measure] = []
        self.probes: list[Probe] = []
        self.consults: list[Consult] = []
        self.records: list[Consulted] = []
        self.verdict: Verdict | None = None
        self.silence = ""
        try:
            asked = next(flow)
            while True:
                match asked:
                    case Measure():
                        self.measures.append(asked)
                        asked = flow.send(answer(asked, window(asked)))
                    case Probe():
                        self.probes.append(asked)
                        asked = flow.send(ProbeAnswer(asked.case, asked.seq, probes))
                    case Consult():
                        self.consults.append(asked)
                        asked = flow.send(speak(asked))
                    case Consulted():
                        self.records.append(asked)
                        asked = flow.send(None)
                    case _:
                        assert_never(asked)
        except StopIteration as end:
            self.verdict = end.value
        except Silence as silence:
            self.silence = str(silence)


def value_of(knob: Knob, far: bool) -> Value:
    match knob.type:
        case KnobType.CHOICE | KnobType.WORDS:
            return knob.choices[-1 if far else 0] if knob.choices else "word"
        case KnobType.CPUS | KnobType.CPUMASK:
            return "0-3" if far else "0-1"
        case KnobType.BOOL:
            return int(far)
        case KnobType.INTS:
            return tuple(_number(knob, far) + n for n in range(len(knob.fields) or 3))
        case KnobType.INT:
            return _number(knob, far)
        case _:
            assert_never(knob.type)


def _number(knob: Knob, far: bool) -> int:
    low, high = knob.low or 0, knob.high if knob.high is not None else 1 << 40
    return high if far else low


def full_case(rule: Rule, catalogue: Paper, seed: int = 1) -> Case:
    """A case of that rule with all that a case can carry: history, past, signature, host, guards."""
    rng = random.Random(seed)
    knobs = tuple(catalogue[name] for name in dict.fromkeys(action.knob for action in rule.do))
    timing = windows.of(rule, catalogue)
    before = tuple(Write(knob.id, value_of(knob, False)) for knob in knobs)
    after = tuple(Write(knob.id, value_of(knob, True)) for knob in knobs)
    metrics = [rule.expect.metric, *(guard.metric for guard in rule.guard)]
    named = [condition.metric for condition in rule.when]
    return Case(
        id="5d2f1.117",
        mode=Mode.LOSSY,
        rule=rule.id,
        reason=rule.reason,
        knobs=knobs,
        before=before,
        after=after,
        seen={name: rng.lognormvariate(3, 4) for name in dict.fromkeys([*named, *metrics])},
        expect=rule.expect,
        guard=rule.guard,
        allowed=tuple(Allowed(knob.id, knob.low, knob.high, knob.choices) for knob in knobs),
        settle_s=timing.settle_s,
        dwell_s=timing.dwell_s,
        alternable=all(knob.alternable for knob in knobs),
        fresh_instances=any(knob.effect is not Effect.AT_ONCE for knob in knobs),
        lease_s=timing.lease_s + 180.0,
        alpha=0.05,
        max_pairs=24,
        history={name: tuple(rng.lognormvariate(3, 4) for _ in range(64)) for name in metrics},
        workload_age_s=123456.7,
        review_s=180.0,
        host={
            "kernel": "6.12.57+deb13-cloud-amd64",
            "cpus": "128 online, AMD EPYC 9755 128-Core Processor",
            "ram": "503.7 GiB in 2 NUMA nodes",
            "swap": "8.0 GiB",
            "virtualisation": "kvm (Amazon EC2 m8a.metal-24xl)",
        },
        signature={name: round(rng.uniform(-4, 4), 3) for name in FEATURES},
        past=tuple(
            Past(f"5d2f1.{n}", rule.id, after, "confirmed", 86_400.0 * n, 0.123, 0.5 * n, "trial and model")
            for n in range(brief.MOST_PAST)
        ),
    )


def examined(case: Case, kind: VerdictKind = VerdictKind.CONFIRM) -> Examined:
    """A trial of twelve pairs with all its figures."""
    rng = random.Random(2)
    metrics = [case.expect.metric, *(guard.metric for guard in case.guard)]
    bench = Bench(case, random.Random(3), case.dwell_s, 0.0)
    for arm in (Arm.A, Arm.B):
        bench.samples[arm] = {name: [rng.lognormvariate(3, 4) for _ in range(200)] for name in metrics}
    state = "held: better by 12.3% in 12 pairs, may get worse by 10.0%"
    verdict = Verdict(
        case.id,
        kind,
        f"{case.expect.metric} better by 43.2% [+21.1%, +60.3%] in 12 pairs",
        effect=0.432,
        low=0.211,
        high=0.603,
        e_value=123.4,
        pairs=12,
        claim="alternated",
        confidence=0.99,
        guards={f"{name} (worst of window)": state for name in metrics},
    )
    return Examined(verdict, bench)


def terms_of(case: Case, **more: object) -> Terms:
    facts: dict[str, object] = {"names": brief.names_of(case), "kept": case.after, "probes": 6}
    return Terms(case, **{**facts, **more})  # type: ignore[arg-type]
