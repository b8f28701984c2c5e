"""Advice by itself: what is taken, for how long, and that nobody can make it last."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuned_spec.model import Narrow, Prefer, RestRule, Span, Strategy
from tuned_spec.speculate.advice import (
    IN_FORCE,
    LEAST_S,
    MOST_S,
    WORDS,
    Given,
    Known,
    narrowed,
    subject,
    take,
)
from tuned_spec.speculate.signature import FEATURES, Signature

RULES = tuple(f"r{n}" for n in range(40))
SPAN = Span("k.search", 8, 512, quantum=8)
KNOWN = Known(frozenset(RULES), (SPAN,), frozenset({"k.moved"}))
BUSY, QUIET = (Signature(dict.fromkeys(FEATURES, at)) for at in (2.0, -2.0))


def new(item: Strategy, t: float = 0.0, signature: Signature | None = None) -> Given:
    return Given(item, t, t, "model", "t1", signature)


def taken(*items: Strategy, t: float = 0.0) -> tuple[Given, ...]:
    given: tuple[Given, ...] = ()
    for item in items:
        found = take(given, new(item, t), KNOWN, (0, 1000))
        assert not isinstance(found, str), found
        given = found
    return given


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (RestRule("none", 60), "no such rule"),
        (Prefer("k.search", 60), "no rule of the policy moves it"),
        (Narrow("k.moved", 1, 2, 60), "no search of the policy moves it"),
        (Narrow("k.search", 600, 700, 60), "leaves a search nothing of its 8..512"),
        (Narrow("k.search", 200, 100, 60), "leaves a search nothing"),
        (Narrow("k.search", 17, 23, 60), "leaves a search nothing"),
        (Narrow("k.search", 64, 71, 60), "leaves a search nothing"),
        (Narrow("k.search", -1, 100, 60), "outside 0..1000"),
        (Narrow("k.search", 16, 2**70, 60), "outside 0..1000"),
    ],
)
def test_unsound_advice_is_not_taken_and_says_why(item: Strategy, why: str) -> None:
    found = take((), new(item), KNOWN, (0, 1000))
    assert isinstance(found, str) and why in found


@pytest.mark.parametrize(
    ("asked", "given_s"),
    [
        (-5.0, LEAST_S),
        (0.0, LEAST_S),
        (3600.0, 3600.0),
        (1e12, MOST_S),
        (math.inf, MOST_S),
        (math.nan, LEAST_S),
    ],
)
def test_its_time_is_brought_into_bounds(asked: float, given_s: float) -> None:
    (one,) = taken(Prefer("k.moved", asked), t=100.0)
    assert one.until == 100.0 + given_s
    assert one.holds(None, one.until - 1) and not one.holds(None, one.until)


def test_a_long_reason_is_cut() -> None:
    (one,) = taken(Prefer("k.moved", 60, "x" * 9000))
    assert len(one.item.reason) == WORDS


def test_it_holds_under_the_workload_it_was_given_under() -> None:
    rest = Given(RestRule("r1", 60), 0, 60, "model", "t1", BUSY)
    assert rest.holds(BUSY, 1) and not rest.holds(QUIET, 1) and rest.holds(None, 1)
    assert Given(RestRule("r1", 60), 0, 60, "model", "t1", None).holds(QUIET, 1)
    assert Given(Narrow("k.search", 16, 32, 60), 0, 60, "model", "t1", BUSY).holds(QUIET, 1)


def test_the_newer_range_counts_and_the_old_one_is_gone() -> None:
    given = taken(Narrow("k.search", 16, 64, 600), Narrow("k.search", 32, 256, 600))
    assert len(given) == 1
    assert narrowed(SPAN, [one.item for one in given]) == Span("k.search", 32, 256, quantum=8)
    assert narrowed(Span("k.other", 1, 9), [one.item for one in given]) == Span("k.other", 1, 9)


def test_there_is_only_so_much_of_it() -> None:
    given = taken(*(RestRule(rule, 3600) for rule in RULES[:IN_FORCE]))
    found = take(given, new(Prefer("k.moved", 60)), KNOWN)
    assert isinstance(found, str) and "most" in found
    again = take(given, new(RestRule("r0", 7200), 60.0), KNOWN)
    assert not isinstance(again, str) and len(again) == IN_FORCE, "one that is in force may be changed"


STREAM = st.lists(
    st.tuples(st.sampled_from([1.0, 600.0, 40_000.0, 90_000.0]), st.sampled_from(RULES[:3]), st.floats()),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STREAM)
def test_no_stream_of_advice_keeps_a_rule_quiet_for_longer_than_a_day_nor_for_most_of_the_time(
    stream: list[tuple[float, str, float]],
) -> None:
    t, held = 0.0, list[Given]()
    given: tuple[Given, ...] = ()
    for dt, rule, for_s in stream:
        t += dt
        found = take(given, new(RestRule(rule, for_s), t), KNOWN)
        given = given if isinstance(found, str) else found
        assert len(given) <= IN_FORCE
        for one in given:
            assert one.until - one.since <= MOST_S
            # One that was replaced while in force is the same rest, going on.
            held = [old for old in held if (old.since, subject(old.item)) != (one.since, subject(one.item))]
            held.append(one)
    for rule in RULES[:3]:
        mine = sorted((one.since, one.until) for one in held if subject(one.item) == rule)
        for (since, until), (again, _) in pairwise(mine):
            assert again - until >= until - since
