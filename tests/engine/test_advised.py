"""Advice in the loop: taken from a verdict, put to use, shown, and over in its time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.test_learning import CPU, DISK, SEARCHING, answer, host, live, world_of
from tests.engine.world import CATALOGUE, FOUND, POLICY, World, rule
from tuned_spec import engine
from tuned_spec.engine import events as ev
from tuned_spec.engine.guessing import Guessing
from tuned_spec.model import (
    Action,
    Allowed,
    Case,
    Consulted,
    Mode,
    Narrow,
    Op,
    Policy,
    Prefer,
    Record,
    RestRule,
    Strategy,
    Verdict,
    VerdictKind,
    Write,
)
from tuned_spec.speculate.advice import A_VERDICT, IN_FORCE, MOST_S

TWO = Policy(
    names=("test",),
    rules=(
        rule("grow", Action("t.plain", Op.MULTIPLY, 2.0)),
        rule("slow", Action("t.slow", Op.SET, 9), metric="app.other"),
    ),
    rest_s=60.0,
)


def advised(world: World) -> Record:
    return next(note for note in reversed(world.notes) if note.kind == "advised")


def given_by(world: World, *items: Strategy) -> dict[str, object]:
    """A verdict on what is open, with this advice; what is on record of it."""
    answer(world, VerdictKind.REJECT, strategy=items, by="model")
    return advised(world).data


def open_rules(world: World) -> set[str]:
    return {trial.proposal.rule for trial in world.state.trials.values()}


def advise(world: World, *items: Strategy, figures: dict[str, float] = CPU) -> dict[str, object]:
    """Under this workload `grow` is tried and rejected, with this advice."""
    host(world, figures, 5)
    host(world, figures, 1, app_p95=50.0)
    assert open_rules(world) == {"grow"}
    return given_by(world, *items)


def test_a_rule_rests_and_the_refusal_says_whose_advice_it_is_and_how_long() -> None:
    world = world_of(TWO)
    data = advise(world, RestRule("slow", 600.0, "it never helps here"))
    assert data["by"] == "model" and data["not_taken"] == []
    assert advised(world).knobs == ("t.plain", "t.slow")
    host(world, CPU, 1, app_other=50.0)
    assert open_rules(world) == set()
    (refusal,) = [note for note in world.notes if note.kind == "refused" and note.rule == "slow"]
    assert refusal.data["code"] == "advised"
    assert "model in t1, for 599 s more: it never helps here" in str(refusal.data["what"])
    world.t += 600.0
    host(world, CPU, 1, app_other=50.0)
    assert open_rules(world) == {"slow"}


def test_under_another_workload_the_rule_is_free() -> None:
    world = world_of(TWO)
    advise(world, RestRule("slow", 600.0))
    host(world, DISK, 6, app_other=50.0)
    assert "slow" in open_rules(world)


def test_narrowed_room_is_given_back_at_the_next_search_after_its_time() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    given_by(world, Narrow("t.plain", 90, 120, for_s=70.0))
    world.told.clear()
    world.t += 61.0
    live(world, 5)
    (trial,) = world.state.trials.values()
    assert trial.climb is not None and (trial.climb.spans[0].low, trial.climb.spans[0].high) == (90, 120)
    live(world, 90)
    if world.told:
        answer(world, VerdictKind.REJECT)
    world.told.clear()
    world.t += 300.0
    live(world, 5)
    (trial,) = world.state.trials.values()
    assert trial.climb is not None and (trial.climb.spans[0].low, trial.climb.spans[0].high) == (50, 800)


def test_of_two_guesses_the_preferred_one_comes_first() -> None:
    both = (
        rule("slow", Action("t.slow", Op.SET, 9), metric="app.p95", confidence=0.6),
        rule("grow", Action("t.plain", Op.MULTIPLY, 2.0), metric="app.p95", confidence=0.5),
        rule("first", Action("t.ratio", Op.SET, 40), metric="app.other"),
    )

    def second(*items: Strategy) -> set[str]:
        world = world_of(Policy(names=("test",), rules=both, rest_s=60.0))
        host(world, CPU, 5)
        host(world, CPU, 1, app_other=50.0)
        answer(world, VerdictKind.REJECT, strategy=items, by="model")
        host(world, CPU, 1, app_p95=50.0, app_other=0.0)
        return open_rules(world)

    assert second() == {"slow"}
    assert second(Prefer("t.plain", 3600.0)) == {"grow"}


def test_what_cannot_be_taken_is_said_and_the_verdict_stands() -> None:
    world = world_of(TWO)
    items = (
        RestRule("nonsense", 60.0),
        Narrow("t.plain", 1, 2, 60.0),
        Prefer("../../etc/passwd", 60.0),
        Prefer("t.slow", 60.0),
        Prefer("t.plain", 60.0),
        Prefer("t.plain", 60.0),
    )
    data = advise(world, *items)
    assert world.kernel == FOUND and "reverted" in world.kinds()
    taken = data["taken"]
    assert isinstance(taken, list) and len(taken) == 1
    assert taken[0]["what"] == "prefer guesses that move t.slow"
    said = data["not_taken"]
    assert isinstance(said, list) and len(said) == A_VERDICT
    assert all(str(line).startswith("advice not taken: ") for line in said)
    assert "2 more, of which a verdict may give 4" in said[-1]


def test_a_verdict_that_is_not_used_advises_nothing() -> None:
    world = world_of(TWO)
    host(world, CPU, 1, app_p95=50.0)
    world.feed(
        ev.ActorSaid(world.t, Verdict("t99", VerdictKind.REJECT, "", strategy=(RestRule("slow", 99),)))
    )
    assert world.state.advice == () and "advised" not in world.kinds()


def test_it_is_described_with_the_time_left_and_the_owner_drops_it() -> None:
    world = world_of(TWO)
    advise(world, RestRule("slow", 600.0, "why not"), Prefer("t.plain", 60.0))
    world.t += 100.0
    row = {
        "what": "let slow rest",
        "reason": "why not",
        "rule": "slow",
        "knobs": ["t.slow"],
        "by": "model",
        "trial": "t1",
        "left_s": 500.0,
        "holds": True,
    }
    assert engine.describe(world.state, world.t)["advice"] == [row]
    world.feed(ev.Pause(world.t))
    world.feed(ev.Resume(world.t, advice=True))
    assert world.state.advice == () and world.state.paused, "only the advice is dropped"
    assert advised(world).data["dropped"] == ["let slow rest"]
    world.feed(ev.Resume(world.t))
    host(world, CPU, 1, app_other=50.0)
    assert open_rules(world) == {"slow"}


NAMES = st.sampled_from(["grow", "slow", "shrink", "late", "pair", "jump", "find", "nonsense"])
KNOBS = st.sampled_from([*FOUND, "t.none"])
SECONDS = st.one_of(st.floats(), st.sampled_from([60.0, 3600.0, 1e9]))
NUMBERS = st.one_of(st.integers(-10, 1100), st.integers())
ITEMS: st.SearchStrategy[Strategy] = st.one_of(
    st.builds(RestRule, NAMES, SECONDS, st.text(max_size=9)),
    st.builds(Prefer, KNOBS, SECONDS, st.text(max_size=9)),
    st.builds(Narrow, KNOBS, NUMBERS, NUMBERS, SECONDS),
)
LEVELS = st.fixed_dictionaries(
    {name: st.sampled_from([0.0, 50.0]) for name in ("app.p95", "app.other", "app.max", "app.lag")}
)
JUMPS = st.sampled_from([1.0, 70.0, 4e4])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(ITEMS, max_size=6), LEVELS, st.sampled_from([1.0, 70.0, 4e4])), max_size=25)
)
def test_whatever_is_advised_all_stays_inside_the_envelope_and_is_over_in_a_day(
    stream: list[tuple[list[Strategy], dict[str, float], float]],
) -> None:
    world = world_of(POLICY)
    limit = POLICY.limits[0]
    for items, levels, dt in stream:
        world.t += dt
        world.feed(ev.Observed(world.t, levels, host=False))
        for trial in tuple(world.state.trials):
            verdict = Verdict(trial, VerdictKind.REJECT, "", strategy=tuple(items), by="model")
            world.feed(ev.ActorSaid(world.t, verdict))
        advice = world.state.advice
        assert len(advice) <= IN_FORCE
        assert all(one.until <= world.t + MOST_S and one.until - one.since <= MOST_S for one in advice)
    assert limit.low is not None and limit.high is not None
    for name, value in world.written:
        assert isinstance(value, int)
        low, high = CATALOGUE[name].low, CATALOGUE[name].high
        assert low is not None and high is not None and low <= value <= high
        assert name != "t.plain" or limit.low <= value <= limit.high
    # The last of it is a day old: nothing is held back any more.
    world.t += MOST_S
    world.feed(ev.Ticked(world.t))
    assert engine.describe(world.state, world.t)["advice"] == []
    assert engine.state.rests(world.state, world.t) == {}
    assert not Guessing(world.state, world.t).preferred()


@pytest.mark.parametrize("mode", [Mode.LOSSY, Mode.LOSSLESS])
def test_every_rule_advised_to_rest_for_ever_is_free_after_a_day(mode: Mode) -> None:
    """A hostile model: whatever it is asked, all shall rest for ever."""
    world = world_of(TWO, mode)
    quiet_since: float | None = None
    longest = tried = 0.0
    for _ in range(700):
        world.t += 600.0
        world.told.clear()
        world.feed(ev.Observed(world.t, {"app.p95": 0.0, "app.other": 0.0}, host=False))
        world.feed(ev.Observed(world.t, {"app.p95": 50.0, "app.other": 50.0}, host=False))
        cases = [message for message in world.told if isinstance(message, Case)]
        resting = {"grow", "slow"} <= engine.state.rests(world.state, world.t).keys()
        quiet_since = (quiet_since or world.t) if resting else None
        longest = max(longest, world.t - quiet_since if quiet_since else 0.0)
        tried += len(cases)
        for case in cases:
            rest = (RestRule("grow", 1e9), RestRule("slow", 1e9))
            world.feed(ev.ActorSaid(world.t, Verdict(case.id, VerdictKind.REJECT, "no", strategy=rest)))
    assert tried > 5
    assert 0 < longest <= MOST_S


def test_an_exchange_is_on_record_with_what_it_was_about() -> None:
    world = world_of(TWO)
    host(world, CPU, 1, app_p95=50.0)
    for _ in range(12):
        world.feed(ev.ActorSaid(world.t, Consulted("t1", "small", "d", "prompt", ("reply",), "confirm")))
    records = [note for note in world.notes if note.kind == "consulted"]
    assert len(records) == 8, "nobody fills the history with more"
    data = records[0].data
    assert (data["before"], data["after"]) == ((Write("t.plain", 100),), (Write("t.plain", 200),))
    assert data["allowed"] == (Allowed("t.plain", 0, 1000),) and data["prompt"] == "prompt"
    world.feed(ev.ActorSaid(world.t, Consulted("t9", "small", "d", "prompt", ("reply",), "confirm")))
    assert len([note for note in world.notes if note.kind == "consulted"]) == 8, "of no open trial"
