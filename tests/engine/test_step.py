"""One story a test: what the engine commands, tells and notes, event by event."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.world import FOUND, POLICY, World
from tuned_spec import engine
from tuned_spec.engine import events as ev
from tuned_spec.engine import next_wake
from tuned_spec.engine.trials import IGNORED
from tuned_spec.model import (
    Arm,
    Cancel,
    Case,
    Expect,
    ForeignWrite,
    Measure,
    Measurement,
    Mode,
    Verdict,
    VerdictKind,
    Way,
    Write,
)


def started(mode: Mode = Mode.LOSSY) -> World:
    world = World(mode)
    world.feed(ev.ActorChanged(world.t, True, "started"))
    return world


def observe(world: World, dt: float = 0.1, **values: float) -> None:
    world.t += dt
    named = {name.replace("_", ".", 1): value for name, value in values.items()}
    world.feed(ev.Observed(world.t, named, host="cpu.busy" in named))


def case_of(world: World) -> Case:
    return next(m for m in reversed(world.told) if isinstance(m, Case))


def answer(world: World, kind: VerdictKind, *writes: Write) -> None:
    world.feed(ev.ActorSaid(world.t, Verdict(case_of(world).id, kind, "measured", writes)))


def test_lossy_writes_first_and_asks_second() -> None:
    world = started()
    observe(world, app_p95=50.0)
    assert world.kernel["t.plain"] == 200
    case = case_of(world)
    assert (case.before, case.after) == ((Write("t.plain", 100),), (Write("t.plain", 200),))
    assert case.seen == {"app.p95": 50.0}
    assert world.kinds() == ["actor", "proposed", "applied"]


def test_confirm_holds_the_value() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    assert world.kernel["t.plain"] == 200
    assert world.state.held["t.plain"].value == 200
    assert not world.state.trials
    assert world.kinds()[-2:] == ["verdict", "confirmed"]


def test_confirm_after_arm_a_puts_b_back() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 1, Arm.A, 0.5, 1.0)))
    assert world.kernel["t.plain"] == 100
    world.t += 0.5
    world.feed(ev.Ticked(world.t))
    world.t += 1.0
    world.feed(ev.Ticked(world.t))
    answer(world, VerdictKind.CONFIRM)
    assert world.kernel["t.plain"] == 200


def test_reject_puts_the_original_back_and_the_guess_rests() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.REJECT)
    assert world.kernel == FOUND
    observe(world, dt=10.0, app_p95=50.0)
    assert world.kernel == FOUND
    assert world.state.refusals == {"resting": 1}
    observe(world, dt=60.0, app_p95=50.0)
    assert world.kernel["t.plain"] == 200, "a rest ends"


def test_overwrite_goes_straight_to_the_actors_value() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 300))
    assert world.written == [("t.plain", 200), ("t.plain", 300)]
    assert world.state.held["t.plain"].value == 300


@pytest.mark.parametrize(
    "writes",
    [
        (Write("t.plain", 801),),  # over the policy's limit
        (Write("t.plain", 401),),  # over four times the original
        (Write("t.plain", "fast"),),
        (Write("t.slow", 9),),  # another knob than the case's
        (Write("t.plain", 300), Write("t.slow", 9)),
        (),
    ],
)
def test_an_overwrite_outside_the_envelope_is_silence(writes: tuple[Write, ...]) -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.OVERWRITE, *writes)
    assert world.kernel["t.plain"] == 200
    assert world.kinds()[-1] == "ignored"
    world.t += 30.0
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND, "the lease ends it"


def test_silence_ends_with_the_lease() -> None:
    world = started()
    observe(world, app_p95=50.0)
    due = next_wake(world.state)
    assert due is not None and due == pytest.approx(world.t + 30.0)
    world.t = due
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND
    assert isinstance(world.told[-1], Cancel)
    assert world.notes[-1].kind == "reverted" and "lease" in str(world.notes[-1].data["why"])


def test_a_window_takes_only_what_was_seen_while_it_was_open() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 7, Arm.B, 0.5, 1.0)))
    observe(world, dt=0.3, app_p95=1.0)  # settling
    observe(world, dt=0.3, app_p95=2.0)  # opens the window
    observe(world, dt=0.4, app_p95=3.0)
    observe(world, dt=0.4, app_p95=4.0, app_other=9.0, app_max=5.0)
    observe(world, dt=0.2, app_p95=6.0)  # closes it
    observe(world, dt=0.2, app_p95=7.0)
    measured = [m for m in world.told if isinstance(m, Measurement)]
    assert len(measured) == 1 and measured[0].seq == 7 and measured[0].error == ""
    assert measured[0].samples == {"app.p95": (3.0, 4.0, 6.0), "app.max": (5.0,), "app.other": (9.0,)}


def test_host_figures_never_span_two_arms() -> None:
    world = started()
    observe(world, cpu_busy=50.0)
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 1, Arm.A, 0.5, 3.0)))
    observe(world, dt=1.0, cpu_busy=1.0)  # its rate began while settling
    sensed = [c for c in world.commands if isinstance(c, ev.SenseNow)]
    assert len(sensed) == 1, "the window opens with a snapshot"
    observe(world, dt=1.0, cpu_busy=2.0)
    observe(world, dt=2.5, cpu_busy=3.0)
    measured = [m for m in world.told if isinstance(m, Measurement)]
    assert measured[0].samples["cpu.busy"] == (2.0, 3.0, 0.5), "0.5: the snapshot that closes the window"


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (Measure("nonsense", 1, Arm.A, 0.1, 1.0), "no such open case"),
        (Measure("t1", 1, Arm.A, 0.1, 31.0), "longer than the lease"),
        (Measure("t1", 1, Arm.A, -1.0, 1.0), "longer than the lease"),
        (Measure("t1", 1, Arm.C, 0.1, 1.0, (Write("t.plain", 5000),)), "out_of_range"),
        (Measure("t1", 1, Arm.C, 0.1, 1.0), "a value for each"),
    ],
)
def test_a_measurement_that_may_not_be_is_answered_so(ask: Measure, why: str) -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.feed(ev.ActorSaid(world.t, ask))
    reply = world.told[-1]
    assert isinstance(reply, Measurement) and why in reply.error
    assert world.written == [("t.plain", 200)]


def test_a_second_change_goes_back_to_the_confirmed_value_not_to_the_original() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    observe(world, dt=10.0, app_p95=50.0)
    assert world.kernel["t.plain"] == 400
    answer(world, VerdictKind.REJECT)
    assert world.kernel["t.plain"] == 200
    assert world.state.held["t.plain"].trial == "t1"
    world.feed(ev.Stop(world.t, "the end"))
    assert world.kernel == FOUND


def test_growth_is_bounded_from_the_original() -> None:
    world = started()
    for _ in range(6):
        observe(world, dt=20.0, app_p95=50.0)
        if world.state.trials:
            answer(world, VerdictKind.CONFIRM)
    assert world.kernel["t.plain"] == 400, "four times the original, whatever the steps"


def test_a_foreign_write_ends_the_trial_and_stays() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.outsider("t.plain", 123)
    assert world.kernel["t.plain"] == 123
    assert not world.state.trials
    assert "foreign" in world.kinds()
    observe(world, dt=1000.0, app_p95=50.0)
    assert world.kernel["t.plain"] == 123 and world.state.refusals["foreign"] == 1
    world.feed(ev.Resume(world.t, ("t.plain",)))
    observe(world, dt=1.0, app_p95=50.0)
    assert world.kernel["t.plain"] == 246, "taken up again when told to"


def test_a_task_that_sets_its_own_is_written_down_and_not_remembered() -> None:
    world = started()
    for tid in range(100):
        theirs = ForeignWrite(f"t.task@{tid}.77", 5, 0, "unknown")
        world.feed(ev.ForeignFound(world.t, (theirs,)))
    assert world.kinds().count("foreign") == 100 and not world.state.foreign
    world.feed(ev.ForeignFound(world.t, (ForeignWrite("t.task@exe=x", 5, 0, "unknown"),)))
    assert list(world.state.foreign) == ["t.task@exe=x"]


def test_what_went_away_leaves_nothing_behind() -> None:
    world = started()
    rules = tuple(
        msgspec.structs.replace(POLICY.rules[0], id=f"grow@{n}", expect=Expect(f"app.p95@{n}", Way.DOWN))
        for n in range(3)
    )
    world.feed(ev.Planned(world.t, rules))
    for n in range(3):
        observe(world, **{"app_p95": 50.0, f"app_p95@{n}": 50.0})
    assert "app.p95@2" in world.state.latest and world.state.last_refusal
    world.t += 1000.0
    observe(world, app_other=1.0)
    world.feed(ev.Planned(world.t, ()))
    assert not world.state.last_refusal
    assert not [name for name in world.state.latest if "@" in name]


def test_lossless_writes_only_what_the_actor_asked_for() -> None:
    world = started(Mode.LOSSLESS)
    observe(world, app_p95=50.0)
    case = case_of(world)
    assert world.kernel == FOUND and case.mode is Mode.LOSSLESS
    world.feed(ev.ActorSaid(world.t, Measure(case.id, 1, Arm.B, 0.5, 1.0)))
    assert world.kernel["t.plain"] == 200
    observe(world, dt=0.6, app_p95=1.0)
    observe(world, dt=1.0, app_p95=2.0)
    assert isinstance(world.told[-1], Measurement)
    assert world.kernel == FOUND, "back while the actor thinks"
    answer(world, VerdictKind.CONFIRM)
    assert world.kernel["t.plain"] == 200


@pytest.mark.parametrize("arm", [Arm.A, Arm.C])
def test_lossy_has_the_change_in_force_while_the_actor_thinks(arm: Arm) -> None:
    world = started()
    observe(world, app_p95=50.0)
    writes = (Write("t.plain", 150),) if arm is Arm.C else ()
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 1, arm, 0.5, 1.0, writes)))
    measured = world.kernel["t.plain"]
    assert measured == (150 if writes else FOUND["t.plain"])
    observe(world, dt=0.6, app_p95=1.0)
    observe(world, dt=1.0, app_p95=2.0)
    assert isinstance(world.told[-1], Measurement) and world.kernel["t.plain"] == measured
    wake = next_wake(world.state)
    assert wake is not None and wake < world.t + 1
    world.t = wake
    world.feed(ev.Ticked(world.t))
    assert world.kernel["t.plain"] == 200
    wake = next_wake(world.state)
    assert wake is None or wake > world.t + 1, "and that is all"


def test_an_arm_stays_where_the_next_window_comes_soon() -> None:
    world = started()
    observe(world, app_p95=50.0)
    assert not measure(world, Arm.A)
    observe(world, dt=0.2, app_p95=1.0)
    observe(world, dt=1.0, app_p95=2.0)
    written = len(world.written)
    assert not measure(world, Arm.A, seq=2)
    world.t += 0.9
    world.feed(ev.Ticked(world.t))
    assert len(world.written) == written


def test_observe_says_what_it_would_do() -> None:
    world = World(Mode.OBSERVE)  # no actor needed
    observe(world, app_p95=50.0)
    assert world.kernel == FOUND and world.kinds() == ["would"]
    observe(world, dt=0.5, app_p95=50.0)
    assert world.kinds() == ["would", "refused"], "once, then folded"


def test_a_refused_write_ends_the_trial() -> None:
    world = started()
    world.refuse.add("t.plain")
    observe(world, app_p95=50.0)
    assert world.kinds()[-1] == "failed" and not world.state.trials


def test_a_write_that_cannot_be_taken_back_at_once_is_until_it_can() -> None:
    world = started()
    world.refuse.add("t.plain")
    world.stuck.add("t.plain")
    observe(world, app_p95=50.0)
    assert world.kernel["t.plain"] == 200
    world.stuck.clear()
    world.t += 1.0
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND and not world.state.trials


def test_a_revert_that_fails_is_tried_until_it_succeeds() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.stuck.add("t.plain")
    answer(world, VerdictKind.REJECT)
    assert world.state.trials and world.kinds()[-1] == "fault"
    world.t += 1.0
    world.feed(ev.Ticked(world.t))
    assert world.kernel["t.plain"] == 200
    world.stuck.clear()
    world.t += 5.0
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND and not world.state.trials


def test_an_actor_started_anew_gets_the_case_once_more() -> None:
    world = started()
    observe(world, app_p95=50.0)
    for _ in range(3):
        world.feed(ev.ActorChanged(world.t, False, "died"))
        world.feed(ev.ActorChanged(world.t, True, "started"))
    assert len([m for m in world.told if isinstance(m, Case)]) == 2
    assert world.kernel["t.plain"] == 200, "until the lease ends"


@pytest.mark.parametrize("restore", [True, False])
def test_pause(restore: bool) -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    world.feed(ev.Pause(world.t, restore))
    assert (world.kernel == FOUND) is restore
    observe(world, dt=100.0, app_p95=50.0)
    assert world.state.refusals == {"paused": 1}
    world.feed(ev.Resume(world.t))
    observe(world, dt=1.0, app_p95=50.0)
    assert world.state.trials


def test_a_failed_journal_stops_new_changes_only() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.feed(ev.JournalChanged(world.t, False, "disk full"))
    answer(world, VerdictKind.REJECT)
    assert world.kernel == FOUND, "reverts still work"
    world.feed(ev.ActorChanged(world.t, True, "x"))
    observe(world, dt=100.0, app_other=50.0)
    assert world.state.refusals == {"journal_failed": 2}  # two rules watch app.other


def test_without_an_actor_nothing_is_tried() -> None:
    world = World(Mode.LOSSY)
    observe(world, app_p95=50.0)
    assert world.state.refusals == {"no_actor": 1} and world.kernel == FOUND


def test_step_is_pure() -> None:
    world = started()
    before = world.state
    observe(world, app_p95=50.0)
    assert before.trials == {} and before.started == 0
    assert world.state is not before


def test_lossless_goes_back_when_the_actor_dies_in_a_window() -> None:
    world = started(Mode.LOSSLESS)
    observe(world, app_p95=50.0)
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 1, Arm.B, 0.5, 1.0)))
    assert world.kernel["t.plain"] == 200
    world.feed(ev.ActorChanged(world.t, False, "died"))
    assert world.kernel == FOUND


# ------------------------------------------------------------- what a mutation of step.py must not survive


def measure(world: World, arm: Arm, *writes: Write, seq: int = 1) -> str:
    """Ask for a short window; returns the refusal at once, or ""."""
    told = len(world.told)
    ask = Measure(case_of(world).id, seq, arm, 0.1, 1.0, writes)
    world.feed(ev.ActorSaid(world.t, ask))
    return next((m.error for m in world.told[told:] if isinstance(m, Measurement)), "")


def test_who_says_hello_in_a_window_keeps_it() -> None:
    world = started(Mode.LOSSLESS)
    observe(world, app_p95=50.0)
    case = case_of(world)
    world.feed(ev.ActorSaid(world.t, Measure(case.id, 1, Arm.B, 0.0, 1.0)))
    world.feed(ev.ActorChanged(world.t, True, "hello again"))
    assert world.kernel["t.plain"] == 200
    observe(world, dt=0.1, app_p95=5.0)
    observe(world, dt=2.0, app_p95=5.0)
    assert world.kernel == FOUND and isinstance(world.told[-1], Measurement)


def test_a_case_sent_again_has_the_same_deadline() -> None:
    world = started()
    observe(world, app_p95=50.0)
    (trial,) = world.state.trials.values()
    world.t += 20.0
    world.feed(ev.ActorChanged(world.t, False, "died"))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    assert world.state.trials[trial.id].deadline == trial.deadline
    assert case_of(world).lease_s == pytest.approx(trial.deadline - world.t)
    world.t = trial.deadline
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND


def test_switches_have_a_budget() -> None:
    world = World(Mode.LOSSY, msgspec.structs.replace(POLICY, toggles_per_minute=3))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    observe(world, app_p95=50.0)
    errors = []
    for n in range(5):
        errors.append(measure(world, (Arm.A, Arm.B)[n % 2], seq=n))
        world.t += 0.1
        world.feed(ev.Ticked(world.t))
        world.t += 1.0
        world.feed(ev.Ticked(world.t))
    assert errors[:3] == ["", "", ""] and all("budget" in e for e in errors[3:])
    assert len(world.written) == 1 + 3 + 1, "the last brings the change back, which is no measurement"


def test_a_window_is_not_interrupted_by_another() -> None:
    world = started()
    observe(world, app_p95=50.0)
    assert measure(world, Arm.B) == ""
    assert "busy" in measure(world, Arm.A, seq=2)
    assert world.kernel["t.plain"] == 200


def test_a_verdict_while_an_arm_is_being_written_is_ignored() -> None:
    world = started()
    observe(world, app_p95=50.0)
    case = case_of(world)
    ask = ev.ActorSaid(world.t, Measure(case.id, 1, Arm.A, 0.1, 1.0))
    state, _ = engine.step(world.state, ask)  # the write is not answered yet
    verdict = ev.ActorSaid(world.t, Verdict(case.id, VerdictKind.CONFIRM, "r"))
    after, commands = engine.step(state, verdict)
    assert after.trials == state.trials and not after.held
    assert all(isinstance(c, ev.Note) for c in commands)


def test_arm_c_is_written_each_time() -> None:
    world = started()
    observe(world, app_p95=50.0)
    for n, value in enumerate((300, 350)):
        assert measure(world, Arm.C, Write("t.plain", value), seq=n) == ""
        assert world.kernel["t.plain"] == value
        for _ in range(2):
            world.t += 1.0
            world.feed(ev.Ticked(world.t))


def test_a_window_lost_with_its_actor_is_not_answered_to_the_next() -> None:
    world = started()
    observe(world, app_p95=50.0)
    assert measure(world, Arm.B) == ""
    world.feed(ev.ActorChanged(world.t, False, "died"))
    world.t += 5.0
    world.feed(ev.Ticked(world.t))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    assert not [m for m in world.told if isinstance(m, Measurement)]


def test_a_switch_that_is_refused_ends_the_trial() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.refuse.add("t.plain")
    measure(world, Arm.A)
    assert not world.state.trials and world.kernel == FOUND


def test_a_case_that_is_over_is_cancelled() -> None:
    world = started()
    observe(world, app_p95=50.0)
    case = case_of(world)
    world.feed(ev.Pause(world.t, restore=True))
    assert isinstance(world.told[-1], Cancel) and world.told[-1].case == case.id


@pytest.mark.parametrize("silence", [True, False])
def test_a_guess_that_failed_rests(silence: bool) -> None:
    world = started()
    observe(world, app_p95=50.0)
    if silence:
        observe(world, dt=30.0, app_p95=50.0)
    else:
        answer(world, VerdictKind.REJECT)
    assert "grow" in world.state.envelope.rests


def test_time_does_not_run_backwards() -> None:
    world = started()
    observe(world, app_p95=50.0)
    state, _ = engine.step(world.state, ev.Ticked(0.0))
    assert state.t == world.t


def test_a_confirmed_value_is_held_in_the_ledger_too() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    assert [c for c in world.commands if isinstance(c, ev.Hold)] == [ev.Hold("t1")]


def test_a_restore_of_a_coupled_knob_ends_the_trial() -> None:
    """The ledger puts coupled knobs back together: to go on would be to measure, and confirm, a value
    that is no longer there, after its owner has said no."""
    world = started()
    observe(world, app_other=50.0)
    assert world.kernel["t.bytes"] == 500
    world.feed(ev.Pause(world.t, restore=True, knobs=("t.ratio",)))
    world.t += 2.0
    world.feed(ev.Ticked(world.t))
    assert "t.bytes" not in {k for t in world.state.trials.values() for k in t.knobs}
    assert world.kernel["t.bytes"] == FOUND["t.bytes"]


def test_an_answer_of_the_ledger_while_the_envelope_closed_opens_nothing() -> None:
    world = started()
    state, commands = engine.step(world.state, ev.Observed(world.t, {"app.p95": 50.0}, host=False))
    look = next(c for c in commands if isinstance(c, ev.Look))
    state, _ = engine.step(state, ev.Pause(world.t))
    state, commands = engine.step(state, ev.Looked(world.t, look.rule, dict(FOUND)))
    assert not state.trials and not [c for c in commands if isinstance(c, ev.Apply)]


def test_nothing_is_ever_written_beyond_the_bound_from_the_original() -> None:
    world = started()
    for _ in range(6):
        observe(world, dt=20.0, app_p95=50.0)
        if world.state.trials:
            answer(world, VerdictKind.CONFIRM)
    assert max(int(str(value)) for _, value in world.written) == 400


def test_a_rule_whose_knobs_are_being_read_does_not_ask_again() -> None:
    world = started()
    seen = ev.Observed(world.t, {"app.p95": 50.0}, host=False)
    state, first = engine.step(world.state, seen)
    _, second = engine.step(state, seen)
    assert len([c for c in first if isinstance(c, ev.Look)]) == 1
    assert not [c for c in second if isinstance(c, ev.Look)]


def test_stray_verdicts_are_folded() -> None:
    world = started()
    for _ in range(50):
        world.feed(ev.ActorSaid(world.t, Verdict("nonsense", VerdictKind.CONFIRM, "x")))
    assert world.kinds().count("ignored") == 1


def test_verdicts_that_cannot_be_used_are_told_once_a_trial_and_in_short() -> None:
    world = started()
    observe(world, app_p95=50.0)
    for _ in range(50):
        answer(world, VerdictKind.OVERWRITE, Write("t.plain", "y" * 60_000))
    (ignored,) = [note for note in world.notes if note.kind == "ignored"]
    assert len(str(ignored.data["what"])) <= IGNORED
    answer(world, VerdictKind.CONFIRM)
    assert world.state.held["t.plain"].value == 200, "the first that can be used counts"


def test_a_case_of_a_search_leaves_room_for_a_review_too() -> None:
    world = World(Mode.LOSSY)
    world.feed(ev.ActorChanged(world.t, True, "started", review_s=180.0))
    for n in range(400):
        observe(world, dt=0.5, app_lag=5.0 + n % 3)
        if any(isinstance(message, Case) for message in world.told):
            break
    case = case_of(world)
    assert case.rule == "find" and case.review_s == 180.0
    assert case.lease_s - case.review_s > 20.0
