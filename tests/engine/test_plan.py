"""The plan: every rule and search as it stands, and asking changes nothing."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.test_step import answer, observe, started
from tests.engine.world import FOUND, World
from tuned_spec.engine import events as ev
from tuned_spec.engine.guessing import look_at
from tuned_spec.engine.plan import Stand, Step, asked, plan
from tuned_spec.model import Approval, Asking, Mode, Refusal, Risk, VerdictKind, Write


def steps(world: World, inert: dict[str, str] | None = None) -> dict[str, Step]:
    looks = {}
    for rule in asked(world.state):
        found = world.execute(look_at(rule, world.state.setup.catalogue))
        assert isinstance(found, ev.Looked)
        looks[rule.id] = found
    before = msgspec.json.encode(world.state.envelope)
    made = {step.id: step for step in plan(world.state, looks, inert or {}, world.t)}
    assert msgspec.json.encode(world.state.envelope) == before and not world.written[len(world.written) :]
    return made


def test_every_rule_and_search_is_there_and_waits_at_first() -> None:
    world = started()
    found = steps(world)
    assert list(found) == ["grow", "shrink", "slow", "late", "pair", "jump", "find"]
    assert {step.stand for step in found.values()} == {Stand.WAITS}
    assert found["find"].kind == "search" and "app.lag is not heard" in found["find"].what
    (condition,) = found["grow"].when
    assert condition.value is None and condition.short is None


def test_how_far_a_condition_is_from_firing() -> None:
    world = started()
    observe(world, app_p95=4.0, app_max=50.0)
    found = steps(world)
    (near,) = found["grow"].when
    assert (near.metric, near.op, near.level, near.value, near.short) == ("app.p95", ">", 10.0, 4.0, 6.0)
    assert near.hold_s is None
    (waiting,) = found["late"].when
    assert (waiting.short, waiting.hold_s) == (0.0, 2.0)
    world.t += 1.5
    assert steps(world)["late"].when[0].hold_s == 0.5


@pytest.mark.parametrize("mode", list(Mode))
def test_what_it_says_is_ready_is_what_the_loop_does(mode: Mode) -> None:
    """Paused, the rule holds and may not; resumed, the plan says what the next look brings."""
    world = started(mode)
    world.feed(ev.Pause(world.t))
    observe(world, app_p95=50.0)
    held = steps(world)["grow"]
    assert (held.stand, held.code) == (Stand.REFUSED, "paused")
    assert (held.before, held.writes) == ((Write("t.plain", 100),), (Write("t.plain", 200),))
    world.feed(ev.Resume(world.t))
    ready = steps(world)["grow"]
    assert (ready.stand, ready.code, ready.writes) == (Stand.READY, "", (Write("t.plain", 200),))
    observe(world, app_p95=50.0)
    done = next(note for note in world.notes if note.kind in ("proposed", "would"))
    assert (done.rule, done.data["writes"]) == ("grow", ready.writes)


def test_an_open_trial_is_open_and_its_knob_busy_for_others() -> None:
    world = started()
    observe(world, app_p95=50.0)
    found = steps(world)
    assert found["grow"].stand is Stand.OPEN
    assert (found["shrink"].stand, found["shrink"].code) == (Stand.WAITS, "knob_busy")


def test_a_rejected_rule_is_refused_with_the_code_and_the_words() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.REJECT)
    found = steps(world)["grow"]
    assert (found.stand, found.code, found.knob) == (Stand.REFUSED, "resting", "t.plain") and found.what


def test_a_knob_somebody_else_has_is_foreign() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.outsider("t.plain", 321)
    assert steps(world)["grow"].code == "foreign"


def test_what_a_look_refuses_and_what_is_inert_says_why() -> None:
    world = started()
    refusal = Refusal("read_only", "t.slow", "locked down")
    looks = {rule.id: ev.Looked(world.t, rule.id, {}, refusal) for rule in asked(world.state)}
    found = {s.id: s for s in plan(world.state, looks, {"pair": "no t.bytes here"}, world.t)}
    assert (found["slow"].code, found["slow"].what, found["slow"].writes) == ("read_only", "locked down", ())
    assert (found["pair"].stand, found["pair"].what) == (Stand.INERT, "no t.bytes here")


def test_a_search_that_is_heard_is_ready_where_it_may_write() -> None:
    for mode, stand in ((Mode.LOSSY, Stand.READY), (Mode.OBSERVE, Stand.WAITS), (Mode.LOSSLESS, Stand.WAITS)):
        world = started(mode)
        world.feed(ev.Pause(world.t))  # or it would have begun
        observe(world, app_lag=5.0)
        world.feed(ev.Resume(world.t))
        found = steps(world)["find"]
        assert found.stand is stand and found.writes == (Write("t.search", 64),)
    assert FOUND["t.search"] == 64


def test_two_that_want_one_knob_are_weighed_as_they_would_be() -> None:
    world = started()
    world.feed(ev.Pause(world.t))
    observe(world, app_p95=50.0, app_other=50.0)
    world.feed(ev.Resume(world.t))
    found = steps(world)
    stands = {found[id].stand for id in ("grow", "shrink")}
    assert stands == {Stand.READY, Stand.REFUSED}
    (loser,) = (found[id] for id in ("grow", "shrink") if found[id].stand is Stand.REFUSED)
    assert loser.code == "knob_busy"
    observe(world, app_p95=50.0, app_other=50.0)
    opened = next(note for note in world.notes if note.kind == "proposed")
    assert found[opened.rule].stand is Stand.READY


@pytest.mark.parametrize(("asking", "when"), [(Asking.AFTER_TRIAL, "kept"), (Asking.BEFORE_TRIAL, "tried")])
def test_what_a_person_is_asked_about_says_so(asking: Asking, when: str) -> None:
    world = started()
    approval = Approval(risk=Risk.LOW, ask=asking)
    policy = msgspec.structs.replace(world.state.setup.policy, approval=approval)
    setup = msgspec.structs.replace(world.state.setup, policy=policy)
    world.state = msgspec.structs.replace(world.state, setup=setup)
    assert steps(world)["grow"].what == f"a person is asked before it is {when}"
