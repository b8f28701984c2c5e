"""Searches, remembered workloads and the record of guesses, as the engine puts them to use."""

from __future__ import annotations

import math

import msgspec
import pytest

from tests.engine.world import FOUND, World, rule
from tuned_spec import engine
from tuned_spec.engine import events as ev
from tuned_spec.engine.state import Phase
from tuned_spec.model import (
    Action,
    Case,
    Climb,
    Expect,
    Mode,
    Narrow,
    Op,
    Policy,
    Span,
    Verdict,
    VerdictKind,
    Way,
    Write,
)
from tuned_spec.speculate.signature import NEEDS

BEST = 400
SEARCH = Climb(
    id="find",
    spans=(Span("t.plain", 50, 800),),
    expect=Expect("app.lag", Way.DOWN),
    reason="a test",
    source="none",
    settle_s=0.0,
    dwell_s=1.0,
)
SEARCHING = Policy(names=("test",), climbs=(SEARCH,), rest_s=60.0)

# What two workloads would show; every figure that signatures are made of and that is not here is 0.
CPU = {"cpu.busy": 1.0, "cpu.user": 0.95, "cpu.system": 0.05, "psi.cpu.some": 0.8}
DISK = {
    "cpu.busy": 0.2,
    "cpu.iowait": 0.7,
    "cpu.user": 0.05,
    "cpu.system": 0.15,
    "psi.io.some": 0.8,
    "disk.reads_per_s": 3e4,
    "disk.read_bytes_per_s": 3e8,
}


def world_of(policy: Policy, mode: Mode = Mode.LOSSY) -> World:
    world = World(mode, policy)
    world.feed(ev.ActorChanged(world.t, True, "started"))
    return world


def lag(value: object) -> float:
    assert isinstance(value, int)
    return 10.0 + 20.0 * abs(math.log2(value / BEST))


def live(world: World, seconds: float, lag_of: object = lag) -> None:
    """The loop for a while: gauges four times a second, until a case is told."""
    for _ in range(int(seconds * 4)):
        if any(isinstance(m, Case) for m in world.told):
            return
        world.t += 0.25
        world.feed(ev.Ticked(world.t))
        if callable(lag_of):
            world.feed(ev.Observed(world.t, {"app.lag": lag_of(world.kernel["t.plain"])}, host=False))


def case_of(world: World) -> Case:
    return next(m for m in reversed(world.told) if isinstance(m, Case))


def host(world: World, figures: dict[str, float], seconds: int = 5, **app: float) -> None:
    for _ in range(seconds):
        world.t += 1.0
        world.feed(ev.Observed(world.t, dict.fromkeys(NEEDS, 0.0) | figures))
        if named := {name.replace("_", ".", 1): value for name, value in app.items()}:
            world.feed(ev.Observed(world.t, named, host=False))


def answer(world: World, kind: VerdictKind, **more: object) -> None:
    verdict = Verdict(case_of(world).id, kind, "measured", **more)  # type: ignore[arg-type]
    world.feed(ev.ActorSaid(world.t, verdict))


# ------------------------------------------------------------------------------- searches


def test_a_search_moves_inside_its_range_and_ends_with_a_case_against_where_it_began() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    case = case_of(world)
    (before,), (after,) = case.before, case.after
    assert before == Write("t.plain", 100)
    assert isinstance(after.value, int) and BEST / 1.5 <= after.value <= BEST * 1.5
    tried = {value for name, value in world.written if name == "t.plain"}
    assert len(tried) > 4 and all(isinstance(v, int) and (50 <= v <= 800 or v == 100) for v in tried)
    assert [k for k in world.kinds() if k in ("proposed", "climbed")] == ["proposed", "climbed"]
    answer(world, VerdictKind.CONFIRM)
    assert world.kernel["t.plain"] == after.value == world.state.held["t.plain"].value


def test_a_search_that_hears_nothing_any_more_goes_back_before_its_deadline() -> None:
    world = world_of(SEARCHING)
    live(world, 3)
    (trial,) = world.state.trials.values()
    assert trial.phase is Phase.CLIMBING
    live(world, trial.deadline - world.t + 5, lag_of=None)
    assert world.kernel == FOUND
    assert not world.state.trials and not world.told


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.LOSSLESS])
def test_a_search_writes_only_where_writing_first_is_allowed(mode: Mode) -> None:
    world = world_of(SEARCHING, mode)
    live(world, 20)
    assert world.written == []


def test_rejected_it_goes_back_and_does_not_begin_again_at_once() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    answer(world, VerdictKind.REJECT)
    assert world.kernel == FOUND
    world.told.clear()
    live(world, 20)
    assert world.kernel == FOUND and world.state.refusals == {"resting": 1}


def test_the_actor_may_narrow_the_room_of_the_next_search() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    strategy = (Narrow("t.plain", 90, 120, for_s=3600.0), Narrow("t.slow", 1, 2, for_s=3600.0))
    answer(world, VerdictKind.REJECT, strategy=strategy)
    world.told.clear()
    world.written.clear()
    world.t += 61.0
    live(world, 90)
    assert {value for name, value in world.written} <= set(range(90, 121))


def test_the_range_of_a_search_binds_the_actor_too() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    (allowed,) = case_of(world).allowed
    assert (allowed.low, allowed.high) == (50, 800)
    answer(world, VerdictKind.OVERWRITE, writes=(Write("t.plain", 900),))
    assert world.kernel["t.plain"] != 900
    assert world.kinds()[-1] == "ignored"


def test_ranges_that_leave_nothing_are_not_taken() -> None:
    world = world_of(SEARCHING)
    live(world, 90)
    answer(world, VerdictKind.REJECT, strategy=(Narrow("t.plain", 900, 1000, for_s=3600.0),))
    assert world.state.advice == ()


def test_a_foreign_write_ends_a_search_and_is_left() -> None:
    world = world_of(SEARCHING)
    live(world, 5)
    world.outsider("t.plain", 777)
    assert world.kernel["t.plain"] == 777
    live(world, 20)
    assert world.kernel["t.plain"] == 777 and not world.state.trials


@pytest.mark.parametrize("stop", ["paused", "journal"])
def test_a_search_stays_where_it_is_while_nothing_new_may_be_written(stop: str) -> None:
    world = world_of(SEARCHING)
    live(world, 5)
    (trial,) = world.state.trials.values()
    paused = ev.Pause(world.t) if stop == "paused" else ev.JournalChanged(world.t, False, "full")
    world.feed(paused)
    before = list(world.written)
    live(world, 10)
    assert world.written == before and trial.id in world.state.trials
    world.feed(ev.Resume(world.t) if stop == "paused" else ev.JournalChanged(world.t, True))
    live(world, 5)
    assert world.written != before


def test_a_search_and_a_rule_that_ask_at_once_do_not_both_get_the_knob() -> None:
    policy = Policy(
        names=("test",),
        rules=(rule("grow", Action("t.plain", Op.MULTIPLY, 2.0), metric="app.lag"),),
        climbs=(SEARCH,),
    )
    world = world_of(policy)
    world.feed(ev.Observed(world.t, {"app.lag": 50.0}, host=False))
    (trial,) = world.state.trials.values()
    assert trial.proposal.rule == "grow" and world.state.refusals == {"knob_busy": 1}


def test_another_workload_begins_the_search_anew() -> None:
    world = world_of(SEARCHING)
    host(world, CPU, 5, app_lag=50.0)
    (trial,) = world.state.trials.values()
    assert trial.climb is not None and trial.climb.count > 0
    host(world, DISK, 3)
    (trial,) = world.state.trials.values()
    assert trial.climb is not None and trial.climb.count <= 3
    assert "workload" in world.kinds()


# ---------------------------------------------------------------------- known workloads


GUESSES = Policy(
    names=("test",),
    rules=(rule("grow", Action("t.plain", Op.MULTIPLY, 2.0), lease_s=600.0),),
    rest_s=60.0,
)


def taught() -> World:
    """One that saw t.plain doubled and confirmed under CPU load."""
    world = world_of(GUESSES)
    host(world, CPU, 5)
    host(world, CPU, 1, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM, effect=0.4)
    return world


def test_a_known_workload_jumps_to_its_settings_with_the_second_look() -> None:
    learned = taught().state.learned
    world = world_of(msgspec.structs.replace(GUESSES, rules=()))
    state = msgspec.structs.replace(world.state.learned, priors=learned.priors, record=learned.record)
    world.state = msgspec.structs.replace(world.state, learned=state)
    host(world, DISK, 6)
    assert world.kernel == FOUND, "another workload is not this one"
    host(world, CPU, 2)
    assert world.kernel["t.plain"] == 200
    (trial,) = world.state.trials.values()
    assert trial.proposal.rule.startswith("prior.")
    assert "is back" in trial.proposal.reason and "grow" in trial.proposal.reason
    answer(world, VerdictKind.CONFIRM, effect=0.4)
    assert world.state.held["t.plain"].value == 200


def test_a_jump_is_tried_once_a_visit_and_rejected_often_enough_it_is_forgotten() -> None:
    world = taught()
    world.feed(ev.Pause(world.t, restore=True))
    world.feed(ev.Resume(world.t))
    trials = 0
    for _ in range(12):
        world.told.clear()
        host(world, DISK, 6)
        world.t += 4000.0
        host(world, CPU, 6)
        if any(isinstance(m, Case) for m in world.told):
            trials += 1
            answer(world, VerdictKind.REJECT, effect=-0.2)
            assert world.kernel == FOUND
    assert 1 <= trials <= 4, "it comes back while it is trusted, and not for ever"


def test_what_was_learned_is_handed_over_to_be_kept() -> None:
    world = taught()
    (kept,) = [c for c in world.commands if isinstance(c, ev.Remember)]
    assert [s.write for w in kept.priors.workloads for s in w.settings] == [Write("t.plain", 200)]
    assert kept.record.rules["grow"].confirmed == 1


# ------------------------------------------------------------------------------ selection


def test_the_hit_rate_stands_in_the_description() -> None:
    world = taught()
    assert engine.describe(world.state, world.t)["guesses"] == {"judged": 1, "confirmed": 1}


def test_a_guess_that_only_ever_harmed_is_not_worth_a_trial_until_it_is_forgotten() -> None:
    world = world_of(GUESSES)
    host(world, CPU, 5)
    for _ in range(40):
        if "not_worth" in world.state.refusals:
            break
        world.told.clear()
        host(world, CPU, 1, app_p95=50.0)
        if any(isinstance(m, Case) for m in world.told):
            answer(world, VerdictKind.REJECT, effect=-0.5)
        world.t += 4000.0
    assert world.state.refusals["not_worth"] == 1
    assert engine.describe(world.state, world.t)["guesses"]["confirmed"] == 0  # type: ignore[index]
    assert world.kernel == FOUND


def test_knobs_apart_are_tried_together_and_the_one_that_waits_follows_at_once() -> None:
    both = (
        rule("slow", Action("t.slow", Op.SET, 9), metric="app.p95"),
        rule("grow", Action("t.plain", Op.MULTIPLY, 2.0), metric="app.p95"),
        rule("apart", Action("t.ratio", Op.SET, 40), metric="app.other"),
    )
    world = world_of(Policy(names=("test",), rules=both))
    world.t += 0.1
    world.feed(ev.Observed(world.t, {"app.p95": 50.0, "app.other": 50.0}, host=False))
    open_now = {trial.proposal.rule: trial for trial in world.state.trials.values()}
    assert "apart" in open_now and len(open_now) == 2, "one metric, arms that are not drawn: one at a time"
    first = next(name for name in open_now if name != "apart")
    world.feed(ev.ActorSaid(world.t, Verdict(open_now[first].id, VerdictKind.CONFIRM, "measured")))
    waiting = {"slow", "grow"} - {first}
    assert waiting <= {trial.proposal.rule for trial in world.state.trials.values()}
