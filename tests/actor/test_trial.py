"""The judge, driven by data: what it must confirm, what it must reject and what it must say."""

from __future__ import annotations

import math
import random
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.actor.cases import CASE, KNOB, Window, allowed, answer, case, drive, guard, is_new
from tuned_spec import windows
from tuned_spec.actor import stats, trial
from tuned_spec.model import (
    Arm,
    Case,
    Expect,
    KnobType,
    Measure,
    ProbeAnswer,
    Verdict,
    VerdictKind,
    Way,
    Write,
)

P95 = "app.p95_ms"


def load(seed: int, factor: float, noise: float = 0.15, name: str = P95) -> Window:
    """A window of autocorrelated, heavy-tailed, drifting samples, `factor` times as high on the new arm."""
    rng = np.random.default_rng(seed)
    level = 0.0

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        nonlocal level
        samples = []
        for n in range(5):
            level = 0.7 * level + noise * float(np.clip(rng.standard_t(3), -8, 8)) / 2
            samples.append(10 * math.exp(level + 0.01 * n) * (factor if is_new(measure) else 1.0))
        return {name: tuple(samples)}

    return window


def verdicts(count: int, factor: float, noise: float, case: Case = CASE) -> list[Verdict]:
    return [
        drive(trial.judge(case, random.Random(seed)), load(seed, factor, noise))[0] for seed in range(count)
    ]


def steady(**levels: tuple[float, float]) -> Window:
    """Nearly noiseless windows: metric (without "app.") -> level on A, level on the new arm."""
    wobble = random.Random(3)

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        return {
            f"app.{name}": tuple(level[is_new(measure)] * wobble.uniform(0.99, 1.01) for _ in range(4))
            for name, level in levels.items()
        }

    return window


def judged(case: Case, window: Window, seed: int = 1) -> tuple[Verdict, list[Measure]]:
    return drive(trial.judge(case, random.Random(seed)), window)


# ------------------------------------------------------------------------------ right and wrong


@pytest.mark.slow
def test_of_2000_changes_without_effect_no_more_than_alpha_are_confirmed() -> None:
    confirmed = sum(v.kind is not VerdictKind.REJECT for v in verdicts(2000, 1.0, 0.4))
    assert binomtest(confirmed, 2000, CASE.alpha, alternative="greater").pvalue > 0.001


def test_of_200_harms_of_2x_all_are_rejected() -> None:
    kinds = Counter(v.kind for v in verdicts(200, 2.0, 0.4))
    assert kinds == {VerdictKind.REJECT: 200}


def test_of_100_wins_of_2x_nearly_all_are_confirmed() -> None:
    found = verdicts(100, 0.5, 0.3)
    assert sum(v.kind is VerdictKind.CONFIRM for v in found) >= 98
    assert np.median([v.effect or 0.0 for v in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([(v.low or -9) <= 0.5 <= (v.high or 9) for v in found]) >= 0.9


def test_of_100_wins_of_20_percent_most_are_confirmed_in_moderate_noise() -> None:
    assert sum(v.kind is VerdictKind.CONFIRM for v in verdicts(100, 0.8, 0.15)) >= 80


def test_a_metric_that_should_rise() -> None:
    more = case(expect=Expect("app.rps", Way.UP, 0.2))
    verdict, _ = judged(more, steady(rps=(100.0, 150.0)))
    assert verdict.kind is VerdictKind.CONFIRM
    assert verdict.effect == pytest.approx(0.5, abs=0.05)
    verdict, _ = judged(more, steady(rps=(100.0, 50.0)))
    assert verdict.kind is VerdictKind.REJECT
    assert verdict.effect == pytest.approx(-0.5, abs=0.05)


def test_real_but_smaller_than_wanted_is_rejected() -> None:
    verdict, _ = judged(case(expect=Expect(P95, Way.DOWN, 0.2)), steady(p95_ms=(10.0, 9.0)))
    assert verdict.kind is VerdictKind.REJECT
    assert "less than 20%" in verdict.reason


def test_arms_come_in_pairs_whose_order_is_drawn() -> None:
    _, asked = judged(case(max_pairs=24), load(5, 1.0))
    pairs = list(zip(asked[0::2], asked[1::2], strict=True))
    assert all({a.arm, b.arm} == {Arm.A, Arm.B} for a, b in pairs)
    orders = Counter(first.arm for first, _ in pairs)
    assert set(orders) == {Arm.A, Arm.B}
    _, again = judged(case(max_pairs=24), load(5, 1.0))
    assert again == asked  # the same seed draws the same order


# -------------------------------------------------------------------------------------- guards


def test_a_guard_that_gets_worse_rejects_what_the_metric_would_confirm() -> None:
    verdict, _ = judged(case(guard=(guard("app.errors"),)), steady(p95_ms=(10, 5), errors=(1.0, 1.5)))
    assert verdict.kind is VerdictKind.REJECT
    assert "guard worse: app.errors worse by" in verdict.reason
    assert verdict.guards["app.errors"].startswith("worse")


def test_a_guard_within_its_margin_is_shown_to_hold() -> None:
    verdict, _ = judged(case(guard=(guard("app.errors"),)), steady(p95_ms=(10, 5), errors=(1.0, 1.03)))
    assert verdict.kind is VerdictKind.CONFIRM
    assert verdict.guards["app.errors"].startswith("held")


def test_a_guard_never_heard_of_is_unclear_and_unclear_confirms_nothing() -> None:
    verdict, _ = judged(case(guard=(guard("app.errors"),)), steady(p95_ms=(10, 5)))
    assert verdict.kind is VerdictKind.REJECT
    assert "no samples of app.errors" in verdict.reason


def test_a_guard_heard_of_too_rarely_is_unclear() -> None:
    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        return steady(p95_ms=(10, 5), **({"errors": (1, 1)} if measure.seq <= 8 else {}))(measure)

    verdict, _ = judged(case(guard=(guard("app.errors"),)), window)
    assert verdict.kind is VerdictKind.REJECT
    assert "guard unclear: app.errors" in verdict.reason


def test_a_guard_at_zero_on_both_arms_holds_by_no_more_than_its_margin() -> None:
    verdict, _ = judged(case(guard=(guard("app.errors"),)), steady(p95_ms=(10, 5), errors=(0.0, 0.0)))
    assert verdict.kind is VerdictKind.CONFIRM


def test_a_wonderful_p95_with_a_terrible_worst_sample_is_caught() -> None:
    """`sysbench` with 30 ms slices: p95 30 times better, the slowest wait for hundreds of ms."""

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        return {P95: (0.9, 0.9, 0.9, 300.0) if is_new(measure) else (28.0, 29.0, 30.0, 31.0)}

    verdict, _ = judged(CASE, window)
    assert verdict.kind is VerdictKind.REJECT
    assert "app.p95_ms (worst of window)" in verdict.reason


def test_a_further_tail_that_is_sent_along_guards_without_being_asked() -> None:
    verdict, _ = judged(CASE, steady(p95_ms=(28, 0.9), max_ms=(40, 400), p50_ms=(1, 9), rps=(1, 1)))
    assert verdict.kind is VerdictKind.REJECT
    assert "guard worse: app.max_ms" in verdict.reason
    assert set(verdict.guards) == {"app.p95_ms (worst of window)", "app.max_ms"}


@pytest.mark.parametrize(
    ("metric", "guarded"),
    [
        ("app.p95_ms", 1),
        ("app.latency", 1),
        ("psi.cpu.some", 0),
        ("tcp.listen_drops_per_s", 0),
        ("app.t_s", 1),
    ],
)
def test_which_metrics_have_a_tail(metric: str, guarded: int) -> None:
    assert len(trial.Tally(case(expect=Expect(metric, Way.DOWN))).guards) == guarded


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_guard_on_the_expected_metric_itself_does_not_count_twice(margin: float) -> None:
    verdict, asked = judged(case(guard=(guard(P95, margin=margin),) * 2), steady(p95_ms=(10, 5)))
    assert verdict.kind is VerdictKind.CONFIRM
    assert verdict.pairs == len(asked) / 2 >= stats.fewest_pairs(CASE.alpha)


# ------------------------------------------------------------------------- silence, time, nonsense


def test_silence_is_retried_with_longer_windows_and_then_given_up() -> None:
    verdict, asked = judged(CASE, lambda measure: {})
    assert verdict.kind is VerdictKind.REJECT
    assert "app.p95_ms sent nothing usable in 6 windows" in verdict.reason
    assert [m.dwell_s for m in asked] == [1, 1, 2, 2, 4, 4]
    assert verdict.pairs == 0


def test_silence_under_the_change_only_is_held_against_it() -> None:
    """A stalled program sends nothing; leaving those windows out would make the change look good."""
    fast = steady(p95_ms=(10, 5))
    verdict, _ = judged(CASE, lambda m: {} if is_new(m) and m.seq in range(3, 20) else fast(m))
    assert verdict.kind is VerdictKind.REJECT
    assert "in 3 windows with the change and 0 without" in verdict.reason


def test_a_slow_reporter_is_waited_for() -> None:
    quiet = steady(p95_ms=(10, 5))
    verdict, _ = judged(CASE, lambda measure: quiet(measure) if measure.dwell_s >= 2 else {})
    assert verdict.kind is VerdictKind.CONFIRM


def test_an_arm_that_cannot_be_held_rejects_with_what_the_daemon_said() -> None:
    flow = trial.judge(CASE, random.Random(1))
    with pytest.raises(StopIteration) as end:
        flow.send(answer(next(flow), {}, "knob refused: EINVAL"))
    assert end.value.value.kind is VerdictKind.REJECT
    assert "knob refused: EINVAL" in end.value.value.reason


@given(
    lease=st.floats(0.1, 300),
    settle=st.floats(0, 5),
    dwell=st.floats(0.05, 20),
    factor=st.sampled_from([0.5, 1.0, 2.0]),
    silent=st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_it_never_asks_for_more_than_the_lease_holds(
    lease: float, settle: float, dwell: float, factor: float, silent: int
) -> None:
    asked: list[Measure] = []
    world = load(1, factor)

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        asked.append(measure)
        return {} if len(asked) <= silent else world(measure)

    flow = trial.judge(
        case(lease_s=lease, settle_s=settle, dwell_s=dwell, allowed=allowed(0, 9000)), random.Random(2)
    )
    try:
        question = next(flow)
        while True:
            assert isinstance(question, Measure)
            question = flow.send(answer(question, window(question)))
    except StopIteration as end:
        assert isinstance(end.value, Verdict)
    assert sum(m.settle_s + m.dwell_s for m in asked) <= windows.LEASE_SHARE * lease


def test_windows_shrink_to_the_knobs_own_minimum_so_that_eight_pairs_fit() -> None:
    verdict, asked = judged(case(lease_s=24.0, dwell_s=5.0), load(1, 1.0))
    assert KNOB.dwell_s <= asked[0].dwell_s < 5.0
    assert len(asked) <= 16
    assert "to fit the lease" in verdict.reason


def test_a_lease_too_short_for_eight_pairs_is_said_and_for_any_proof_refused() -> None:
    verdict, _ = judged(case(lease_s=16.5), load(1, 1.0))
    assert "pairs only; better" in verdict.reason
    verdict, asked = drive_none(case(lease_s=5.0))
    assert "lease_s 5 holds 2 pairs" in verdict.reason
    assert "set it to" in verdict.reason
    assert asked == []


def drive_none(case: Case) -> tuple[Verdict, list[Measure]]:
    flow = trial.judge(case, random.Random(1))
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert isinstance(end.value.value, Verdict)
    return end.value.value, []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_pairs": 3}, "max_pairs 3"),
        ({"alpha": 0.0}, "out of range"),
        ({"dwell_s": -1.0}, "out of range"),
        ({"expect": Expect(P95, Way.DOWN, 1.5)}, "cannot be"),
        ({"guard": (guard("app.rps", Way.UP, 1.0),)}, "cannot be"),
    ],
)
def test_a_case_that_cannot_be_judged_is_rejected_with_the_reason(
    changes: dict[str, object], said: str
) -> None:
    verdict, _ = drive_none(case(**changes))
    assert verdict.kind is VerdictKind.REJECT
    assert said in verdict.reason


samples = st.dictionaries(
    st.sampled_from([P95, "app.errors", "app.max_ms", "psi.cpu.some"]),
    st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.just(0.0), max_size=5).map(tuple),
)


@given(st.lists(samples, min_size=1, max_size=8), st.booleans())
@settings(deadline=None)
def test_whatever_is_measured_there_is_one_finite_verdict(
    windows: list[dict[str, tuple[float, ...]]], alternable: bool
) -> None:
    odd = case(guard=(guard("app.errors"),), alternable=alternable, history={P95: (1.0, math.nan, 3.0)})
    verdict, asked = judged(odd, lambda measure: windows[measure.seq % len(windows)])
    assert [m.seq for m in asked] == list(range(1, len(asked) + 1))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    for figure in (verdict.effect, verdict.low, verdict.high, verdict.e_value, verdict.confidence):
        assert figure is None or math.isfinite(figure)


# ------------------------------------------------------------------------- claims, overwriting


def test_what_needs_fresh_instances_is_claimed_as_such() -> None:
    verdict, asked = judged(case(fresh_instances=True, settle_s=2.0), steady(p95_ms=(10, 5)))
    assert (verdict.kind, verdict.claim) == (VerdictKind.CONFIRM, "fresh")
    assert {m.settle_s for m in asked} == {2.0}


def test_what_cannot_be_alternated_is_never_confirmed_but_its_figures_are_given() -> None:
    """The trigger's own spike (the 90s) is no part of "before"."""
    history = {P95: (10.0, 11.0, 9.0, 10.0, 90.0, 95.0)}
    verdict, asked = judged(case(alternable=False, history=history), steady(p95_ms=(0, 5)))
    assert (verdict.kind, verdict.claim) == (VerdictKind.REJECT, "before_after")
    assert verdict.effect == pytest.approx(0.5, abs=0.02)
    assert "4 samples before" in verdict.reason
    assert {m.arm for m in asked} == {Arm.B}


def test_what_cannot_be_alternated_and_has_no_past_says_so() -> None:
    verdict, _ = judged(case(alternable=False), steady(p95_ms=(0, 5)))
    assert verdict.claim == "none"
    assert "0 samples before" in verdict.reason


def by_value(costs: dict[object, float], jitter: int = 1) -> Window:
    wobble = random.Random(jitter)

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        arms = {Arm.A: CASE.before, Arm.B: CASE.after, Arm.C: measure.writes}
        level = costs[arms[measure.arm][0].value]
        return {P95: tuple(level * wobble.uniform(0.97, 1.03) for _ in range(4))}

    return window


def test_a_value_that_measured_still_better_overwrites() -> None:
    verdict, asked = judged(case(allowed=allowed(500, 9000)), by_value({3000: 10, 2000: 6, 1000: 3}))
    assert verdict.kind is VerdictKind.OVERWRITE
    assert verdict.writes == (Write(KNOB.id, 1000),)
    assert "against that: app.p95_ms better" in verdict.reason
    assert {m.arm for m in asked} == {Arm.A, Arm.B, Arm.C}
    assert all(bool(m.writes) == (m.arm is Arm.C) for m in asked)


@pytest.mark.parametrize("cost", [6, 6.1, 30])
def test_a_value_that_is_no_better_leaves_what_was_shown_confirmed(cost: float) -> None:
    verdict, _ = judged(case(allowed=allowed(500, 9000)), by_value({3000: 10, 2000: 6, 1000: cost}))
    assert (verdict.kind, verdict.writes) == (VerdictKind.CONFIRM, ())
    assert verdict.effect == pytest.approx(0.4, abs=0.03)


def test_a_refused_third_arm_leaves_what_was_shown_confirmed() -> None:
    flow = trial.judge(case(allowed=allowed(500, 9000)), random.Random(1))
    world, question = steady(p95_ms=(10, 5)), next(flow)
    while True:
        assert isinstance(question, Measure)
        error = "envelope: out_of_range" if question.arm is Arm.C else ""
        try:
            question = flow.send(answer(question, {} if error else world(question), error))
        except StopIteration as end:
            assert end.value.kind is VerdictKind.CONFIRM
            return


@pytest.mark.parametrize(
    ("before", "after", "low", "high", "quantum", "expected"),
    [
        (3000, 2000, 0, 9000, 1, 1000),
        (2000, 3000, 0, 9000, 1, 4000),
        (2000, 3000, 0, 3500, 1, 3500),
        (2000, 3000, 0, 3000, 1, 2500),  # at its end: halfway back
        (3000, 2000, 2000, 9000, 1, 2500),
        (0, 4096, 0, 10_000, 4096, 8192),
        (0, 4096, 0, 4096, 4096, None),
        (0, 1, 0, 1, 1, None),
    ],
)
def test_the_next_value_stays_within_what_is_allowed(
    before: int, after: int, low: int, high: int, quantum: int, expected: int | None
) -> None:
    knob = msgspec.structs.replace(KNOB, low=0, quantum=quantum)
    some = case(
        knobs=(knob,),
        before=(Write(KNOB.id, before),),
        after=(Write(KNOB.id, after),),
        allowed=allowed(low, high),
    )
    assert trial.next_value(some) == (() if expected is None else (Write(KNOB.id, expected),))


def test_no_next_value_for_words_several_writes_or_an_unknown_envelope() -> None:
    assert trial.next_value(CASE) == ()
    word = msgspec.structs.replace(KNOB, type=KnobType.CHOICE)
    assert trial.next_value(case(knobs=(word,), allowed=allowed(0, 9))) == ()
    assert trial.next_value(case(after=CASE.after * 2, allowed=allowed(0, 9000))) == ()


@given(st.floats(-0.9, 0.9), st.sampled_from(list(Way)))
def test_effects_and_log_ratios_are_inverse(effect: float, way: Way) -> None:
    assert trial.effect_of(trial.ratio_of(effect, way), way) == pytest.approx(effect)


def test_an_answer_of_the_wrong_kind_is_a_fault_of_the_caller() -> None:
    flow = trial.judge(CASE, random.Random(1))
    next(flow)
    with pytest.raises(TypeError, match="ProbeAnswer where a Measurement"):
        flow.send(ProbeAnswer("t1", 1, ""))
