"""When a rule is active: levels, clear levels, `for`, fallbacks, staleness, and time that jumps."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tuned_spec.model import Action, Condition, Expect, Observation, Op, Rule, Way
from tuned_spec.speculate.rules import STALE_S, RulesMemory, advance, inert, metrics, next_check


def rule(*when: Condition, id: str = "r") -> Rule:
    return Rule(id, when, (Action("k", Op.MULTIPLY, 2.0),), Expect("e", Way.DOWN), "reason", "source")


HIGH = Condition("m", ">", 20, 10, 3.0)
LOW = Condition("m", "<", 5, 8)
WITH_FALLBACK = msgspec.structs.replace(HIGH, fallback=Condition("f", ">", 4, 2, 1.0))


class Host:
    """Feeds one rule and remembers for it."""

    def __init__(self, *when: Condition, stale_s: dict[str, float] | None = None) -> None:
        self.rules = [rule(*when)]
        self.memory = RulesMemory()
        self.stale_s = stale_s

    def sees(self, t: float, **values: float) -> bool:
        self.memory, fired = advance(self.rules, self.memory, Observation(t, values), self.stale_s)
        return bool(fired)


def test_fires_after_for_and_stays_active_until_clear() -> None:
    host = Host(HIGH)
    said = [host.sees(t, m=m) for t, m in enumerate([30, 30, 30, 30, 15, 11, 10, 15, 30])]
    assert said == [False, False, False, True, True, True, False, False, False]


def test_a_dip_below_the_level_starts_for_anew() -> None:
    host = Host(HIGH)
    said = [host.sees(t, m=m) for t, m in enumerate([30, 30, 19, 30, 30, 30, 30])]
    assert said == [False] * 6 + [True]


def test_below() -> None:
    host = Host(LOW)
    assert [host.sees(t, m=m) for t, m in enumerate([6, 4, 7, 8, 5, 4.9])] == [
        False,
        True,
        True,
        False,
        False,
        True,
    ]


def test_zero_as_level_and_clear() -> None:
    host = Host(Condition("m", ">", 0, 0))
    assert [host.sees(t, m=m) for t, m in enumerate([0, 1, 0.1, 0])] == [False, True, True, False]


def test_all_conditions_must_hold_and_any_clears() -> None:
    host = Host(HIGH, Condition("n", ">", 1, 1))
    assert not host.sees(0, m=30, n=0)
    assert not host.sees(4, m=30)
    assert host.sees(5, n=2)  # m has held for five seconds
    assert not host.sees(6, n=1)
    assert not host.sees(7, n=2)  # m must hold for three again
    assert host.sees(9, m=30)


def test_the_latest_value_counts_between_observations_and_next_check_says_when() -> None:
    host = Host(HIGH)
    host.sees(0, m=30)
    assert next_check(host.memory, 1.0) == 3.0
    assert next_check(host.memory, 5.0) == 5.0
    assert host.sees(3.0)
    assert next_check(host.memory, 3.0) is None


def test_a_silent_metric_becomes_unknown_and_the_rule_clears() -> None:
    host = Host(Condition("m", ">", 20, 10))
    assert host.sees(0, m=30)
    assert host.sees(STALE_S)
    assert not host.sees(STALE_S + 0.1)


def test_a_metric_may_have_a_patience_of_its_own() -> None:
    host = Host(Condition("m", ">", 20, 10), stale_s={"m": 60.0})
    assert host.sees(0, m=30)
    assert host.sees(60)
    assert not host.sees(61)


def test_a_gap_is_not_holding_on_end() -> None:
    host = Host(HIGH)
    host.sees(0, m=30)
    assert not host.sees(3600, m=30)  # suspended for an hour: seen twice, an hour apart
    assert host.sees(3603, m=30)


def test_an_active_rule_does_not_outlive_a_gap() -> None:
    host = Host(HIGH)
    assert [host.sees(0, m=30), host.sees(3, m=30)] == [False, True]
    assert not host.sees(3600, m=30)
    assert host.sees(3603, m=30)


def test_a_fallback_stands_in_for_an_unknown_metric_with_its_own_level_and_for() -> None:
    host = Host(WITH_FALLBACK)
    assert not host.sees(0, f=5)
    assert host.sees(1, f=5)
    assert host.sees(2, f=3)
    assert not host.sees(3, f=2)
    assert not host.sees(4, f=9, m=0)  # the first choice is there: the fallback has no say
    assert not host.sees(6, f=9)
    assert not host.sees(15, f=9)  # m is unknown again
    assert host.sees(16, f=9)


def test_not_a_number_is_unknown() -> None:
    host = Host(Condition("m", ">", 20, 10))
    assert not host.sees(0, m=float("nan"))
    assert not host.sees(1, m=float("inf"))


def test_time_that_goes_back_stands_still() -> None:
    host = Host(HIGH)
    host.sees(100, m=30)
    assert not host.sees(50, m=30)
    assert host.sees(103, m=30)


def test_rules_that_are_gone_are_forgotten() -> None:
    memory, _ = advance([rule(HIGH)], RulesMemory(), Observation(0, {"m": 30}))
    memory, _ = advance([rule(HIGH, id="other")], memory, Observation(1, {"m": 30}))
    assert set(memory.states) == {"other"}


def test_inert() -> None:
    rules = [rule(WITH_FALLBACK, id="a"), rule(HIGH, id="b"), rule(LOW, id="c")]
    assert inert(rules, {}) == []
    assert inert(rules[:2], {"m": "no PSI"}) == [("b", "m: no PSI")]
    assert inert(rules[:1], {"m": "no PSI", "f": "old kernel"}) == [("a", "f: old kernel")]
    assert [name for name, _ in inert(rules, {"e": "x"})] == ["a", "b", "c"]
    assert inert(rules[:1], {"k": "read-only"}) == [("a", "k: read-only")]
    assert metrics(rules[0]) == ("m", "f", "e")


observations = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 4), st.floats(-100, 1e6)),  # seconds since the one before
        st.dictionaries(
            st.sampled_from(["m", "f", "n"]), st.one_of(st.floats(0, 40), st.floats()), max_size=3
        ),
    ),
    max_size=40,
)
conditions = st.lists(
    st.sampled_from([HIGH, LOW, WITH_FALLBACK, Condition("n", ">", 1, 1, 0.5)]), min_size=1, max_size=3
)


@settings(max_examples=300, deadline=None)
@given(when=conditions, steps=observations)
def test_a_rule_fires_only_after_its_condition_held_for_its_time_since_the_last_clearing(
    when: list[Condition], steps: list[tuple[float, dict[str, float]]]
) -> None:
    host, t, latest = Host(*when), 0.0, -math.inf
    was_active, quiet_since = False, steps[0][0] if steps else 0.0
    for wait, values in steps:
        t += wait
        latest = max(latest, t)
        active = host.sees(t, **values)
        if active and not was_active:
            shortest = max(min(c.for_s, c.fallback.for_s if c.fallback else c.for_s) for c in when)
            assert latest - quiet_since >= shortest - 1e-9  # a difference of floats
        if was_active and not active:
            quiet_since = latest
        was_active = active
        due = next_check(host.memory, latest)
        assert due is None or due >= latest
        known = host.memory.values
        assert all(latest - seen <= STALE_S for _, seen in known.values())
        assert not active or all(
            c.metric in known or (c.fallback and c.fallback.metric in known) for c in when
        )


@settings(max_examples=200, deadline=None)
@given(steps=observations)
def test_asking_again_at_the_due_time_fires(steps: list[tuple[float, dict[str, float]]]) -> None:
    host, t = Host(HIGH), 0.0
    for wait, values in steps:
        t += abs(wait)
        host.sees(t, **values)
        due = next_check(host.memory, t)
        if due is not None and due - host.memory.values["m"][1] <= STALE_S:
            assert host.sees(due)
            t = due
