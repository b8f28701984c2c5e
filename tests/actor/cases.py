"""Cases and a stand-in daemon for flows: data in, data out, no process."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tuned_spec.actor.trial import Flow
from tuned_spec.model import (
    Allowed,
    Arm,
    Case,
    Expect,
    Guard,
    Knob,
    KnobType,
    Measure,
    Measurement,
    Mode,
    Verdict,
    Way,
    Write,
)

KNOB = Knob(
    id="vm.dirty_expire_centisecs",
    adapter="sysctl",
    target="vm/dirty_expire_centisecs",
    type=KnobType.INT,
    unit="cs",
    summary="",
    source="",
    low=100,
    high=100_000,
    dwell_s=0.5,
)
CASE = Case(
    id="t1",
    mode=Mode.LOSSY,
    rule="slow",
    reason="",
    knobs=(KNOB,),
    before=(Write(KNOB.id, 3000),),
    after=(Write(KNOB.id, 2000),),
    seen={},
    expect=Expect("app.p95_ms", Way.DOWN, 0.05),
    guard=(),
    allowed=(),
    settle_s=0.5,
    dwell_s=1.0,
    alternable=True,
    fresh_instances=False,
    lease_s=120.0,
    alpha=0.05,
    max_pairs=24,
    history={},
)
Window = Callable[[Measure], dict[str, tuple[float, ...]]]


def case(**changes: object) -> Case:
    return msgspec.structs.replace(CASE, **changes)


def guard(metric: str, better: Way = Way.DOWN, margin: float = 0.10) -> Guard:
    return Guard(metric, better, margin)


def allowed(low: int, high: int) -> tuple[Allowed, ...]:
    return (Allowed(KNOB.id, low, high),)


def answer(question: object, samples: dict[str, tuple[float, ...]], error: str = "") -> Measurement:
    assert isinstance(question, Measure)
    return Measurement(question.case, question.seq, question.arm, samples, error)


def drive(flow: Flow, window: Window) -> tuple[Verdict, list[Measure]]:
    """Answers each Measure with `window(measure)` until the verdict."""
    asked: list[Measure] = []
    question = next(flow)
    while True:
        assert isinstance(question, Measure)
        asked.append(question)
        try:
            question = flow.send(answer(question, window(question)))
        except StopIteration as end:
            assert isinstance(end.value, Verdict)
            return end.value, asked


def is_new(measure: Measure) -> bool:
    return measure.arm is not Arm.A
