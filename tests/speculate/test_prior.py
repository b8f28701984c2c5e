"""Priors: learned, bounded, faded, recalled or honestly not, and made into a guess; then real workloads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.speculate.workloads import FIRST, OTHER, THIRD, captured
from tuned_spec.errors import KnobAbsent
from tuned_spec.model import (
    Coupling,
    CouplingKind,
    Expect,
    Guard,
    Knob,
    KnobType,
    Limit,
    Proposal,
    Refusal,
    Risk,
    Rule,
    Value,
    Way,
    Write,
)
from tuned_spec.speculate.prior import (
    HALF_LIFE_S,
    SETTINGS,
    WORKLOADS,
    Fate,
    Lesson,
    Priors,
    Recall,
    Unknown,
    as_rule,
    learn,
    propose,
    recall,
)
from tuned_spec.speculate.signature import FEATURES, KNOWN, Signature
from workloads.signature_bench import answers, learned, strangers

DAY_S = 86_400.0
DOWN = Expect("app.p95_ms", Way.DOWN, 0.1)


def lesson(
    trial: str,
    knob: str = "vm.swappiness",
    value: Value = 10,
    fate: Fate = Fate.CONFIRMED,
    under: Signature = FIRST,
    **fields: object,
) -> Lesson:
    plain: dict[str, object] = {"rule": f"rule-{knob}", "expect": DOWN, "gain": 0.4}
    return Lesson(trial, fate, under, (Write(knob, value),), **(plain | fields))  # type: ignore[arg-type]


def taught(*lessons: Lesson, wall: float = 0.0) -> Priors:
    priors = Priors()
    for one in lessons:
        priors = learn(priors, one, wall)
    return priors


def known(priors: Priors, under: Signature = FIRST, wall: float = 0.0, **fields: object) -> Recall:
    said = recall(priors, [under], wall, **fields)  # type: ignore[arg-type]
    assert isinstance(said, Recall), said
    return said


def unknown(priors: Priors, under: Signature = FIRST, wall: float = 0.0, **fields: object) -> Unknown:
    said = recall(priors, [under], wall, **fields)  # type: ignore[arg-type]
    assert isinstance(said, Unknown), said
    return said


def near(off: float, of: Signature = FIRST) -> Signature:
    return Signature(of.features | {"tcp": of.features["tcp"] + off * FEATURES["tcp"].scatter})


# --------------------------------------------------------------------------------- learning


def test_what_was_confirmed_comes_back_under_its_workload_only() -> None:
    priors = taught(lesson("t1"), lesson("t2", "vm.dirty_ratio", 5), lesson("t3", value=60, under=OTHER))
    writes = {setting.write for setting in known(priors).settings}
    assert writes == {Write("vm.swappiness", 10), Write("vm.dirty_ratio", 5)}
    assert [s.write.value for s in known(priors, OTHER).settings] == [60]
    assert "known is up to" in unknown(priors, THIRD).why
    assert unknown(Priors()).why == "nothing is remembered yet"
    assert isinstance(recall(priors, [], 0.0), Unknown)


def test_a_rejection_makes_no_memory_and_takes_trust() -> None:
    assert taught(lesson("t1", fate=Fate.REJECTED)) == Priors()
    once = taught(lesson("t1"))
    assert taught(lesson("t1"), lesson("t2", value=99, fate=Fate.REJECTED)).workloads[0].settings == (
        once.workloads[0].settings  # another value than the one remembered
    )
    assert "trusted" in unknown(taught(lesson("t1"), lesson("t2", fate=Fate.REJECTED))).why
    many = [lesson(f"t{n}") for n in range(5)]
    assert known(taught(*many, lesson("no", fate=Fate.REVERTED))).trust < known(taught(*many)).trust
    wrong = [lesson(f"no{n}", fate=Fate.REJECTED) for n in range(20)]
    assert taught(lesson("t1"), *wrong).workloads == ()  # forgotten


def test_another_value_confirmed_replaces_the_first() -> None:
    assert [s.write.value for s in known(taught(lesson("t1"), lesson("t2", value=1))).settings] == [1]


def test_the_same_lesson_twice_counts_once() -> None:
    once = taught(lesson("t1"))
    assert learn(once, lesson("t1"), 0.0) == once
    twice = taught(lesson("t1"), lesson("t2", gain=0.2))
    setting = known(twice).settings[0]
    assert setting.confirmed == 2 and setting.gain == pytest.approx(0.3)


def test_a_jump_that_is_confirmed_adds_trust_to_each_setting_and_leaves_its_gain() -> None:
    priors = taught(lesson("t1", gain=0.2), lesson("t2", "vm.dirty_ratio", 5, gain=0.6))
    writes = tuple(setting.write for setting in known(priors).settings)
    jump = Lesson("t3", Fate.CONFIRMED, FIRST, writes, known(priors).rule_id, DOWN, gain=0.7)
    after = known(learn(priors, jump, 0.0))
    assert [(s.gain, s.confirmed, s.rule) for s in after.settings] == [
        (0.6, 2, "rule-vm.dirty_ratio"),
        (0.2, 2, "rule-vm.swappiness"),
    ]
    assert after.trust > known(priors).trust


def test_evidence_fades_and_a_clock_that_goes_back_does_no_harm() -> None:
    priors = taught(lesson("t1"), wall=1e9)
    assert known(priors, wall=1e9).trust == pytest.approx(2 / 3)
    assert known(priors, wall=1e9 - DAY_S).trust == pytest.approx(2 / 3)
    assert known(priors, wall=1e9 + HALF_LIFE_S).trust == pytest.approx(1.5 / 2.5)
    assert "trusted" in unknown(priors, wall=1e9 + 4 * HALF_LIFE_S).why


def test_a_quarantined_value_never_comes_back() -> None:
    priors = taught(lesson("t1"), lesson("t2", "vm.dirty_ratio", 5))
    rest = known(priors, quarantined={("vm.swappiness", 10)})
    assert [s.write.knob for s in rest.settings] == ["vm.dirty_ratio"]
    both = {("vm.swappiness", 10), ("vm.dirty_ratio", 5)}
    assert unknown(priors, quarantined=both).nearest


# -------------------------------------------------------------------------------- recalling


def test_the_distance_at_which_it_does_not_know() -> None:
    priors = taught(lesson("t1"))
    assert known(priors, near(0.9 * KNOWN)).distance == pytest.approx(0.9 * KNOWN, abs=0.01)
    assert unknown(priors, near(1.2 * KNOWN)).distance > KNOWN
    # the mean is near and the last observation is not: something is changing
    assert isinstance(recall(priors, [FIRST, FIRST, near(1.5 * KNOWN)], 0.0), Unknown)


def test_between_two_workloads_it_does_not_know_unless_both_say_the_same() -> None:
    there = near(2 * KNOWN)
    middle = near(KNOWN - 0.1)
    priors = taught(lesson("t1"), lesson("t2", value=60, under=there))
    assert len(priors.workloads) == 2
    assert "between" in unknown(priors, middle).why
    assert known(taught(lesson("t1"), lesson("t2", under=there)), middle).settings[0].write.value == 10


def test_too_few_features_in_common_is_unknown() -> None:
    priors = taught(lesson("t1"))
    little = Signature({name: FIRST.features[name] for name in list(FEATURES)[:9]})
    assert math.isinf(unknown(priors, little).distance)


# --------------------------------------------------------------------------------- bounded

many_lessons = st.lists(
    st.builds(
        lesson,
        st.integers(0, 30).map(str),
        st.sampled_from("abcd"),
        st.integers(0, 2),
        st.sampled_from(Fate),
        st.sampled_from((FIRST, OTHER, THIRD, near(1.0), near(4.0))),
        gain=st.floats(-1, 1),
    ),
    max_size=30,
)


@given(many_lessons, st.floats(0, 1e8))
@settings(max_examples=60, deadline=None)
def test_whatever_is_taught(lessons: list[Lesson], later: float) -> None:
    priors = taught(*lessons)
    assert taught(*lessons) == priors
    assert msgspec.json.decode(msgspec.json.encode(priors), type=Priors) == priors
    assert all(w.settings for w in priors.workloads)
    assert len({w.id for w in priors.workloads}) == len(priors.workloads)
    said = recall(priors, [FIRST], later)
    assert recall(priors, [FIRST], later) == said
    if lessons and lessons[-1].fate is Fate.CONFIRMED:
        assert learn(priors, lessons[-1], 0.0) == priors


def test_it_remembers_no_more_than_so_many_and_drops_what_is_worth_least() -> None:
    pairs = itertools.islice(itertools.combinations(FEATURES, 2), WORKLOADS + 20)
    unders = [Signature(FIRST.features | {up: 3.9, down: -3.9}) for up, down in pairs]
    priors = taught(*[lesson(f"t{n}", under=under, gain=1 / (n + 1)) for n, under in enumerate(unders)])
    assert len(priors.workloads) == WORKLOADS
    assert known(priors, unders[0]).settings[0].gain == 1
    wide = taught(*[lesson(f"t{n}", f"knob{n}") for n in range(SETTINGS + 5)])
    assert len(wide.workloads[0].settings) == SETTINGS


# -------------------------------------------------------------------------------- the guess


def knob(name: str, *coupled: Coupling, **fields: object) -> Knob:
    plain: dict[str, object] = {"low": 0, "high": 100, "coupled": coupled, "settle_s": 1.0, "dwell_s": 5.0}
    return Knob(name, "sysctl", name, KnobType.INT, "", "", "", **(plain | fields))  # type: ignore[arg-type]


CATALOGUE = {
    "vm.swappiness": knob("vm.swappiness"),
    "vm.dirty_ratio": knob("vm.dirty_ratio", Coupling("vm.dirty_bytes", CouplingKind.ZEROES)),
    "vm.dirty_bytes": knob("vm.dirty_bytes", Coupling("vm.dirty_ratio", CouplingKind.ZEROES)),
    "block.nr_requests": knob("block.nr_requests"),
    "block.scheduler": knob("block.scheduler", Coupling("block.nr_requests", CouplingKind.RESETS)),
    "vm.dangerous": knob("vm.dangerous", risk=Risk.HIGH),
}


def rule_of(priors: Priors, without: tuple[str, ...] = ()) -> Rule:
    made = as_rule(known(priors), CATALOGUE, without)
    assert isinstance(made, Rule), made
    return made


def reader(values: dict[str, Value]) -> Callable[[str], Value]:
    def read(name: str) -> Value:
        if name not in values:
            raise KnobAbsent(name, "read", "not here")
        return values[name]

    return read


def test_several_knobs_are_one_guess_judged_by_the_best_and_guarded_by_the_rest() -> None:
    slow = Expect("psi.io.some", Way.DOWN)
    guard = Guard("app.p99_ms", Way.DOWN, 0.2)
    priors = taught(
        lesson("t1", gain=0.2, expect=slow),
        lesson("t2", "vm.dirty_ratio", 5, gain=0.6, guard=(guard,)),
        wall=1_700_000_000.0,
    )
    rule = rule_of(priors)
    assert rule.id == f"prior.{priors.workloads[0].id}" and rule.when == ()
    assert {action.knob for action in rule.do} == {"vm.swappiness", "vm.dirty_ratio"}
    assert rule.expect == DOWN and {g.metric for g in rule.guard} == {"app.p99_ms", "psi.io.some"}
    for part in (priors.workloads[0].id, "rule-vm.dirty_ratio", "+60%", "2023-11-14", "distance 0.00"):
        assert part in rule.reason
    assert rule_of(taught(lesson("t9"), wall=9.0)).id == rule_of(taught(lesson("t1"), wall=7.0)).id


def test_it_is_exempt_from_step_and_from_nothing_else() -> None:
    priors = taught(lesson("t1", value=90))
    rule = rule_of(priors)
    live: dict[str, Value] = {"vm.swappiness": 10}
    limits = {"vm.swappiness": Limit("vm.swappiness", high=80, step_abs=5, step_ratio=1.5)}

    def proposed(original: int, limits: dict[str, Limit]) -> Proposal | Refusal:
        return propose(
            rule, known(priors), CATALOGUE, limits, reader(live), reader({"vm.swappiness": original}), {}
        )

    guess = proposed(60, limits)
    assert isinstance(guess, Proposal)
    assert guess.writes == (Write("vm.swappiness", 80),)  # no step, but the policy's range
    assert guess.seen["prior.distance"] == 0 and guess.rule == rule.id
    assert guess.confidence == pytest.approx(2 / 3) and guess.dwell_s == 5.0
    bound = proposed(20, {"vm.swappiness": Limit("vm.swappiness", bound_ratio=2.0)})
    assert isinstance(bound, Proposal) and bound.writes[0].value == 40
    live["vm.swappiness"] = 80
    again = proposed(60, limits)
    assert isinstance(again, Refusal) and again.code == "no_change"


def test_what_cannot_be_set_here_is_left_out() -> None:
    lessons = [
        lesson("t1", "vm.dirty_ratio", 5, gain=0.5),
        lesson("t2", "vm.dirty_bytes", 50, gain=0.3),  # would set the better one to 0
        lesson("t3", "vm.dangerous", 1),
        lesson("t4", "vm.gone", 1),
        lesson("t5", gain=0.1),
    ]
    assert [a.knob for a in rule_of(taught(*lessons)).do] == ["vm.dirty_ratio", "vm.swappiness"]
    left = as_rule(known(taught(lessons[-1])), CATALOGUE, ("vm.swappiness",))
    assert isinstance(left, Refusal)


def test_a_knob_that_resets_another_is_written_before_it() -> None:
    priors = taught(lesson("t1", "block.nr_requests", 64, gain=0.9), lesson("t2", "block.scheduler", 1))
    assert [a.knob for a in rule_of(priors).do] == ["block.scheduler", "block.nr_requests"]


# --------------------------------------------------------------------------- real workloads


def test_real_workloads_are_known_again_and_never_taken_for_each_other() -> None:
    """The confusion table: learned from three visits, asked in the fourth."""
    ticks = captured()
    priors = learned(ticks, {0, 1, 2})
    said = [(t, what) for t, what in answers(ticks, priors) if t.visit == 3 and t.workload != "idle"]
    wrong = [(t.place, t.tick, what) for t, what in said if what not in (t.workload, "unknown", "idle")]
    again = {t.workload for t, what in said if what == t.workload}
    print(sorted(again), wrong)
    assert wrong == []
    assert len(again) >= 10  # of 13


def test_a_real_workload_that_was_never_seen_is_never_known() -> None:
    asked, fooled = strangers(captured())
    assert asked > 350 and fooled == []
