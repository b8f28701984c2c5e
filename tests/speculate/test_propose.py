"""What an active rule would write: arithmetic, clamps, and that it never leaves what is allowed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.policy.catalogue import CATALOGUE
from tuned_spec import windows
from tuned_spec.errors import KnobAbsent
from tuned_spec.model import (
    Action,
    Condition,
    Expect,
    Guard,
    Knob,
    KnobType,
    Limit,
    Op,
    Proposal,
    Refusal,
    Rule,
    Value,
    Way,
    Write,
)
from tuned_spec.speculate.rules import propose

LIVE: dict[str, Value] = {
    "vm.swappiness": 60,
    "vm.dirty_ratio": 20,
    "vm.dirty_background_ratio": 10,
    "vm.dirty_bytes": 0,
    "net.core.somaxconn": 128,
    "net.ipv4.tcp_rmem": (4096, 131072, 6 << 20),
    "net.ipv4.tcp_slow_start_after_idle": 1,
    "mm.thp": "always",
}


def rule(*do: Action) -> Rule:
    when = (Condition("m", ">", 20, 10),)
    return Rule(
        "r", when, do, Expect("e", Way.DOWN), "why", "source", (Guard("g", Way.DOWN),), 30.0, 90.0, 0.7
    )


def guess(
    *do: Action,
    limit: Limit | None = None,
    live: dict[str, Value] | None = None,
    original: Value | None = None,
) -> Proposal | Refusal:
    now = LIVE | (live or {})

    def read(name: str) -> Value:
        if name not in now:
            raise KnobAbsent(name, "read", "not here")
        return now[name]

    first = read if original is None else lambda _: original
    limits = {limit.knob: limit} if limit else {}
    return propose(rule(*do), CATALOGUE, limits, read, first, {"m": 30.0, "g": 1.0, "other": 2.0})


def value(outcome: Proposal | Refusal) -> Value:
    assert isinstance(outcome, Proposal), outcome
    (write,) = outcome.writes
    return write.value


def code(outcome: Proposal | Refusal) -> str:
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


SOMAXCONN, SWAPPINESS, RMEM = "net.core.somaxconn", "vm.swappiness", "net.ipv4.tcp_rmem"


def test_a_proposal_carries_all_that_judging_needs() -> None:
    assert guess(Action(SOMAXCONN, Op.MULTIPLY, 2.0)) == Proposal(
        rule="r",
        writes=(Write(SOMAXCONN, 256),),
        reason="why",
        seen={"m": 30.0, "g": 1.0},
        expect=Expect("e", Way.DOWN),
        guard=(Guard("g", Way.DOWN),),
        lease_s=90.0,
        cooldown_s=30.0,
        confidence=0.7,
        settle_s=CATALOGUE[SOMAXCONN].settle_s,
        dwell_s=windows.HOST_DWELL_S,
    )


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Action(SWAPPINESS, Op.SET, 10), 10),
        (Action(SWAPPINESS, Op.ADD, -15), 45),
        (Action(SWAPPINESS, Op.TOWARD, 10, 0.5), 35),
        (Action(SWAPPINESS, Op.TOWARD, 61, 0.1), 61),  # rounded so that it moves
        (Action(SWAPPINESS, Op.MULTIPLY, 1.1), 66),  # not 67: 1.1 is eleven tenths
        (Action(SWAPPINESS, Op.MULTIPLY, 100.0), 200),  # the catalogue's end
        (Action("vm.dirty_bytes", Op.SET, 70_000), 69_632),  # whole pages
        (Action("net.ipv4.tcp_slow_start_after_idle", Op.SET, 0), 0),
        (Action("mm.thp", Op.SET, "madvise"), "madvise"),
        (Action(RMEM, Op.MULTIPLY, 2.0, field=2), (4096, 131072, 12 << 20)),
        (Action(RMEM, Op.MULTIPLY, 2.0), (8192, 262144, 12 << 20)),
        (Action(RMEM, Op.SET, (8192, 16384, 32768)), (8192, 16384, 32768)),
    ],
)
def test_arithmetic(action: Action, expected: Value) -> None:
    assert value(guess(action)) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (Limit(SOMAXCONN, high=200), 200),
        (Limit(SOMAXCONN, step_ratio=1.5), 192),
        (Limit(SOMAXCONN, step_abs=10), 138),
        (Limit(SOMAXCONN, step_abs=10, step_ratio=1.5), 192),  # the wider one
        (Limit(SOMAXCONN, bound_ratio=3.0), 300),  # of the original, 100
    ],
)
def test_limits(limit: Limit, expected: int) -> None:
    assert value(guess(Action(SOMAXCONN, Op.MULTIPLY, 4.0), limit=limit, original=100)) == expected


def test_growth_ends_at_the_bound_from_the_original() -> None:
    now = 128
    limit = Limit(SOMAXCONN, step_ratio=2.0, bound_ratio=4.0)
    for _ in range(10):
        outcome = guess(Action(SOMAXCONN, Op.MULTIPLY, 2.0), limit=limit, live={SOMAXCONN: now}, original=128)
        if isinstance(outcome, Refusal):
            break
        now = int(str(value(outcome)))
    assert now == 512
    assert code(outcome) == "no_change"


def test_a_clamp_never_turns_a_rise_into_a_fall() -> None:
    outcome = guess(Action(SOMAXCONN, Op.MULTIPLY, 2.0), limit=Limit(SOMAXCONN, high=64))
    assert code(outcome) == "no_change"
    assert value(guess(Action(SOMAXCONN, Op.SET, 16), limit=Limit(SOMAXCONN, high=64))) == 16


def test_a_field_left_alone_must_be_inside_too() -> None:
    action = Action(RMEM, Op.MULTIPLY, 2.0, field=1)
    assert code(guess(action, limit=Limit(RMEM, high=1 << 20))) == "no_room"


def test_two_fields_of_one_knob_are_one_write() -> None:
    outcome = guess(Action(RMEM, Op.MULTIPLY, 2.0, field=1), Action(RMEM, Op.MULTIPLY, 2.0, field=2))
    assert value(outcome) == (4096, 262144, 12 << 20)


def test_what_is_there_already_is_left_out() -> None:
    outcome = guess(Action("mm.thp", Op.SET, "always"), Action(SWAPPINESS, Op.SET, 10))
    assert isinstance(outcome, Proposal)
    assert outcome.writes == (Write(SWAPPINESS, 10),)
    assert code(guess(Action("mm.thp", Op.SET, "always"))) == "no_change"
    assert code(guess(Action("vm.dirty_bytes", Op.MULTIPLY, 2.0))) == "no_change"  # twice nothing


def test_a_word_that_the_policy_rules_out() -> None:
    limit = Limit("mm.thp", choices=("madvise", "always"))
    assert code(guess(Action("mm.thp", Op.SET, "never"), limit=limit)) == "not_a_choice"


def test_order_that_the_kernel_demands_is_kept() -> None:
    assert value(guess(Action("vm.dirty_background_ratio", Op.SET, 50))) == 20
    assert value(guess(Action("vm.dirty_ratio", Op.SET, 5))) == 10
    both = guess(Action("vm.dirty_ratio", Op.SET, 40), Action("vm.dirty_background_ratio", Op.SET, 30))
    assert isinstance(both, Proposal)
    assert both.writes == (Write("vm.dirty_ratio", 40), Write("vm.dirty_background_ratio", 30))


def test_an_unreadable_knob_is_a_refusal() -> None:
    assert code(guess(Action("kernel.poll", Op.SET, 5))) == "unreadable"
    assert (
        code(guess(Action(RMEM, Op.MULTIPLY, 2.0), live={RMEM: (1, 2)}, original=(1, 2, 3))) == "unreadable"
    )
    assert (
        code(guess(Action(RMEM, Op.MULTIPLY, 2.0, field=2), live={RMEM: (1, 2)}, original=(1, 2)))
        == "unreadable"
    )


numbers = st.integers(0, 1 << 20)
ratios = st.none() | st.floats(1.01, 16).map(lambda x: round(x, 2))
ops = st.one_of(
    st.builds(lambda x: (Op.SET, x, 1.0), numbers),
    st.builds(lambda x: (Op.TOWARD, x[0], x[1]), st.tuples(numbers, st.floats(0.01, 1))),
    st.builds(lambda x: (Op.ADD, x, 1.0), st.integers(-(1 << 20), 1 << 20)),
    st.builds(lambda x: (Op.MULTIPLY, x, 1.0), st.floats(0, 100)),
)


@st.composite
def spans(draw: st.DrawFn) -> tuple[int | None, int | None]:
    low, high = sorted((draw(numbers), draw(numbers)))
    return draw(st.sampled_from([(low, high), (None, high), (low, None), (None, None)]))


def _inside(value: int, live: int, original: int, knob: Knob, limit: Limit) -> None:
    """The definition, written down again without sharing a line with the code."""
    for low, high in ((knob.low, knob.high), (limit.low, limit.high)):
        assert low is None or low <= value
        assert high is None or value <= high
    if limit.bound_ratio is not None and original > 0:
        ratio = Fraction(str(limit.bound_ratio))
        assert original / ratio <= value <= original * ratio
    if limit.step_abs is not None or limit.step_ratio is not None:
        by_distance = limit.step_abs is not None and abs(value - live) <= limit.step_abs
        ratio = Fraction(str(limit.step_ratio or 1))
        by_ratio = live > 0 and live / ratio <= value <= live * ratio
        assert by_distance or by_ratio or value == live


@settings(max_examples=300, deadline=None)
@given(data=st.data(), fields=st.integers(1, 3))
def test_a_proposal_is_always_inside_catalogue_limit_bound_and_step(data: st.DataObject, fields: int) -> None:
    low, high = data.draw(spans())
    type = KnobType.INT if fields == 1 else KnobType.INTS
    quantum = data.draw(st.sampled_from([1, 1, 7, 4096]))
    knob = Knob("k", "sysctl", "k", type, "", "", "", low, high, ("a", "b", "c")[:fields], quantum=quantum)
    low, high = data.draw(spans())
    step_abs = data.draw(st.none() | st.integers(1, 1 << 20))
    limit = Limit("k", low, high, (), data.draw(ratios), step_abs, data.draw(ratios))
    live, original = (tuple(data.draw(numbers) for _ in range(fields)) for _ in range(2))
    op, amount, step = data.draw(ops)
    field = data.draw(st.none() | st.integers(0, fields - 1)) if fields > 1 else None

    def shape(numbers: tuple[int, ...]) -> Value:
        return numbers[0] if fields == 1 else numbers

    action = Action("k", op, amount, step, field)
    outcome = propose(
        rule(action), {"k": knob}, {"k": limit}, lambda _: shape(live), lambda _: shape(original), {}
    )
    assume(isinstance(outcome, Proposal))
    assert isinstance(outcome, Proposal)
    (write,) = outcome.writes
    written = write.value if isinstance(write.value, tuple) else (write.value,)
    assert len(written) == fields and written != live
    for number, (new, now, first) in enumerate(zip(written, live, original, strict=True)):
        assert isinstance(new, int)
        if new != now:
            assert field in (None, number)
            assert new % quantum == 0
            _inside(new, now, first, knob, limit)
            goal = {Op.MULTIPLY: now * amount, Op.ADD: now + amount}.get(op, amount)
            assert (new > now) == (goal > now)
        else:
            _inside(new, now, first, knob, limit)
