"""A person is asked: what is written, noted and told, event by event."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.test_learning import CPU, DISK, SEARCHING, host, live
from tests.engine.test_step import answer, case_of, observe
from tests.engine.world import CATALOGUE, FOUND, POLICY, World, knob, rule
from tuned_spec import engine
from tuned_spec.approval import needed
from tuned_spec.engine import events as ev
from tuned_spec.engine import next_wake
from tuned_spec.engine.state import Phase
from tuned_spec.model import (
    Action,
    Approval,
    Arm,
    Asking,
    Cancel,
    Case,
    Condition,
    Measure,
    Measurement,
    Mode,
    Move,
    Notice,
    Op,
    Refusal,
    Risk,
    Side,
    Verdict,
    VerdictKind,
    Write,
)
from tuned_spec.speculate import prior

ALWAYS = Approval(risk=Risk.LOW, for_s=600.0)
FIRST = Approval(risk=Risk.LOW, ask=Asking.BEFORE_TRIAL, for_s=600.0)
AT_NEW = Approval(risk=Risk.LOW, wait_at=Side.NEW, for_s=600.0)
replace = msgspec.structs.replace


def started(approval: Approval = ALWAYS, mode: Mode = Mode.LOSSY, risky: str = "") -> World:
    world = World(mode, replace(POLICY, approval=approval))
    if risky:
        catalogue = CATALOGUE | {risky: replace(CATALOGUE[risky], risk=Risk.HIGH)}
        world.state = replace(world.state, setup=replace(world.state.setup, catalogue=catalogue))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    return world


def asked(world: World) -> Notice:
    return next(m for m in reversed(world.told) if isinstance(m, Notice) and m.event == "pending")


def notices(world: World) -> list[str]:
    return [m.event for m in world.told if isinstance(m, Notice)]


def decide(world: World, approve: bool) -> None:
    world.feed(ev.Decided(world.t, asked(world).trial, approve, 1000, "alice", "as agreed"))


def later(world: World, dt: float) -> None:
    world.t += dt
    world.feed(ev.Ticked(world.t))


def confirmed(approval: Approval = ALWAYS, mode: Mode = Mode.LOSSY) -> World:
    """A trial whose actor has confirmed: a person is asked."""
    world = started(approval, mode)
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    return world


def test_what_the_actor_confirms_waits_at_the_old_value() -> None:
    world = confirmed()
    assert world.kernel == FOUND and not world.state.held
    assert world.written == [("t.plain", 200), ("t.plain", 100)], "directly, as one trial"
    assert world.kinds()[-2:] == ["verdict", "pending"]
    notice = asked(world)
    assert notice.moves == (Move("t.plain", 100, 200),)
    assert (notice.asked, notice.waits_at, notice.left_s) == (Asking.AFTER_TRIAL, Side.OLD, 600.0)
    assert notice.approve == "sudo tuned-spec approve t1" and notice.reject == "sudo tuned-spec reject t1"
    assert next_wake(world.state) == pytest.approx(world.t + 600.0)


@pytest.mark.parametrize("approval", [ALWAYS, AT_NEW])
def test_a_yes_keeps_it(approval: Approval) -> None:
    world = confirmed(approval)
    later(world, 500.0)
    decide(world, True)
    assert world.kernel["t.plain"] == 200 and world.state.held["t.plain"].trial == "t1"
    assert world.kinds()[-2:] == ["decided", "confirmed"] and not world.state.trials
    said = {"what": "approved by alice (uid 1000): as agreed", "approve": True}
    assert world.notes[-2].data == said | {"uid": 1000, "name": "alice", "remark": "as agreed"}
    assert notices(world) == ["pending", "decided"]


@pytest.mark.parametrize("approval", [ALWAYS, AT_NEW])
def test_a_no_puts_it_back_and_the_guess_rests(approval: Approval) -> None:
    world = confirmed(approval)
    decide(world, False)
    assert world.kernel == FOUND and not world.state.trials
    assert world.kinds()[-2:] == ["decided", "reverted"]
    assert "rejected by alice (uid 1000): as agreed" in str(world.notes[-1].data["why"])
    observe(world, dt=10.0, app_p95=50.0)
    assert world.state.refusals == {"resting": 1}


def test_it_waits_at_the_new_value_where_the_policy_says_so() -> None:
    world = confirmed(AT_NEW)
    assert world.kernel["t.plain"] == 200 and world.written == [("t.plain", 200)]
    assert not world.state.held, "provisional: whatever ends the daemon takes it back"


def test_an_overwrite_is_asked_about_with_its_own_value() -> None:
    world = started(AT_NEW)
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 300))
    assert asked(world).moves == (Move("t.plain", 100, 300),) and world.kernel["t.plain"] == 300
    decide(world, True)
    assert world.state.held["t.plain"].value == 300 and world.kinds()[-1] == "overwritten"


def test_what_the_actor_rejects_is_nobodys_question() -> None:
    world = started()
    observe(world, app_p95=50.0)
    answer(world, VerdictKind.REJECT)
    assert world.kernel == FOUND and not notices(world)


@pytest.mark.parametrize(
    ("effect", "by", "asks"), [(0.3, "trial", True), (-0.3, "trial", False), (0.3, "model", False)]
)
def test_what_no_trial_can_show_is_a_persons_to_judge(effect: float, by: str, asks: bool) -> None:
    world = started()
    observe(world, cpu_busy=50.0)
    verdict = Verdict(
        case_of(world).id, VerdictKind.REJECT, "figures", effect=effect, claim="before_after", by=by
    )
    world.feed(ev.ActorSaid(world.t, verdict))
    assert bool(notices(world)) is asks and world.kernel == FOUND
    if asks:
        assert asked(world).figures["effect"] == effect and asked(world).claim == "before_after"
        decide(world, True)
        assert world.state.held["t.slow"].value == 9


def test_nobody_answers_in_time() -> None:
    world = confirmed(AT_NEW)
    later(world, 600.0)
    assert world.kernel == FOUND and not world.state.trials
    assert "nobody answered in 600 s" in str(world.notes[-1].data["why"])
    assert notices(world) == ["pending", "ended"]
    decide(world, True)
    assert world.kernel == FOUND, "too late"


def test_asked_first_nothing_is_written_before_the_yes() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    assert not world.written and not world.rows
    assert asked(world).asked is Asking.BEFORE_TRIAL
    later(world, 300.0)
    decide(world, True)
    assert world.kernel["t.plain"] == 200
    assert case_of(world).lease_s == pytest.approx(30.0), "a trial's whole lease"
    answer(world, VerdictKind.CONFIRM)
    assert world.state.held["t.plain"].value == 200 and notices(world) == ["pending", "decided"]


@pytest.mark.parametrize("end", ["no", "silence", "restore", "stop"])
def test_asked_first_whatever_else_comes_writes_nothing(end: str) -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    match end:
        case "no":
            decide(world, False)
        case "silence":
            later(world, 600.0)
        case "restore":
            world.feed(ev.Pause(world.t, restore=True))
            later(world, 1.0)
        case _:
            world.feed(ev.Stop(world.t, "the end"))
            later(world, 1.0)
    assert not world.written and not world.state.trials
    if end in ("no", "silence"):
        assert not [c for c in world.commands if isinstance(c, ev.Revert)], "there is nothing to put back"
    assert notices(world)[-1] == ("decided" if end == "no" else "ended")


def test_lossless_asks_first_and_then_writes_only_what_the_actor_asks_for() -> None:
    world = started(FIRST, Mode.LOSSLESS)
    observe(world, app_p95=50.0)
    decide(world, True)
    assert not world.written
    assert measure(world, Arm.B) == "" and world.kernel["t.plain"] == 200


def test_lossless_rests_at_the_old_value_whatever_the_policy_says() -> None:
    world = confirmed(AT_NEW, Mode.LOSSLESS)
    assert world.kernel == FOUND and asked(world).waits_at is Side.OLD
    decide(world, True)
    assert world.kernel["t.plain"] == 200


def test_after_a_yes_only_the_approved_value_is_tried() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    decide(world, True)
    assert "unapproved" in measure(world, Arm.C, Write("t.plain", 300))
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 300))
    assert world.kinds()[-1] == "ignored" and world.kernel["t.plain"] == 200


def measure(world: World, arm: Arm, *writes: Write) -> str:
    """Why not, or ""."""
    told = len(world.told)
    world.feed(ev.ActorSaid(world.t, Measure(case_of(world).id, 1, arm, 0.1, 1.0, writes)))
    return next((m.error for m in world.told[told:] if isinstance(m, Measurement)), "")


def test_high_risk_is_refused_unless_a_person_is_asked_and_then_first() -> None:
    world = started(Approval(), risky="t.plain")
    observe(world, app_p95=50.0)
    assert world.state.refusals == {"risk": 1}
    world = started(ALWAYS, risky="t.plain")
    observe(world, app_p95=50.0)
    assert asked(world).asked is Asking.BEFORE_TRIAL and not world.written
    decide(world, True)
    assert world.kernel["t.plain"] == 200


def test_a_search_of_high_risk_is_refused_even_so() -> None:
    world = started(ALWAYS, risky="t.search")
    observe(world, app_lag=1.0)
    assert not world.state.trials and world.state.refusals == {"risk": 1}


def test_a_search_asks_first_and_keeps_what_it_finds_without_asking_again() -> None:
    world = started(FIRST)
    observe(world, app_lag=1.0)
    assert "t.search between 8 and 512" in asked(world).what and not world.written
    decide(world, True)
    (trial,) = world.state.trials.values()
    assert trial.phase is Phase.CLIMBING and trial.window is not None and trial.approved


@pytest.mark.parametrize(
    ("approval", "asks"),
    [
        (Approval(), False),
        (Approval(risk=Risk.MEDIUM), False),
        (Approval(knobs=("t.s*",)), False),
        (Approval(knobs=("t.*",)), True),
        (Approval(knobs=("t.plain",)), True),
        (Approval(rules=("grow",)), True),
        (Approval(rules=("shrink",)), False),
    ],
)
def test_whom_the_policy_means(approval: Approval, asks: bool) -> None:
    world = confirmed(approval)
    assert bool(notices(world)) is asks
    assert bool(world.state.held) is not asks


def test_one_of_several_instances_is_meant_by_its_entry_and_by_its_name() -> None:
    disk = knob("b.depth", per="disk")
    catalogue = {"b.depth@vda": replace(disk, id="b.depth@vda", instance="vda")}
    for glob, meant in (("b.depth", True), ("b.depth@vd*", True), ("b.*", True), ("b.depth@sda", False)):
        assert needed(Approval(knobs=(glob,)), ("rule@vda",), tuple(catalogue), catalogue) is meant, glob
    assert needed(Approval(rules=("rule",)), ("rule@vda",), tuple(catalogue), catalogue)


# ------------------------------------------------------------------------- who may interfere


def test_a_foreign_write_ends_the_question() -> None:
    world = confirmed(AT_NEW)
    world.outsider("t.plain", 123)
    assert world.kernel["t.plain"] == 123 and not world.state.trials
    assert notices(world) == ["pending", "ended"]


def test_the_actors_death_does_not() -> None:
    world = confirmed()
    world.feed(ev.ActorChanged(world.t, False, "died"))
    later(world, 500.0)
    world.feed(ev.ActorChanged(world.t, True, "started"))
    assert len([m for m in world.told if isinstance(m, Case)]) == 1, "it has said its word"
    assert notices(world) == ["pending", "pending"], "the one that died may not have told anybody"
    world.feed(ev.ActorChanged(world.t, True, "and again"))
    assert notices(world) == ["pending", "pending"]
    decide(world, True)
    assert world.kernel["t.plain"] == 200


def test_pause_leaves_it_and_a_yes_is_an_owners_word() -> None:
    world = confirmed()
    world.feed(ev.Pause(world.t))
    decide(world, True)
    assert world.kernel["t.plain"] == 200


def test_a_yes_to_a_trial_waits_for_the_pause_to_end() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    world.feed(ev.Pause(world.t))
    decide(world, True)
    later(world, 1.0)
    assert not world.written
    assert engine.describe(world.state, world.t)["pending"] == [], "they have answered"
    world.feed(ev.Resume(world.t))
    assert world.kernel["t.plain"] == 200


def test_a_yes_that_cannot_be_done_in_time_ends_too() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    world.feed(ev.Pause(world.t))
    decide(world, True)
    later(world, 600.0)
    assert not world.written and not world.state.trials
    assert "paused" in str(world.notes[-1].data["why"])


def test_a_yes_waits_for_the_journal() -> None:
    world = confirmed()
    world.feed(ev.JournalChanged(world.t, False, "disk full"))
    decide(world, True)
    assert world.kernel == FOUND and world.state.trials
    world.feed(ev.JournalChanged(world.t, True))
    assert world.kernel["t.plain"] == 200


def test_a_value_that_moved_while_they_thought_is_not_what_they_said_yes_to() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    world.outsider("t.plain", 120)  # nobody has told the ledger of the knob yet
    decide(world, True)
    assert world.kernel["t.plain"] == 120 and not world.state.trials and not world.written
    assert "t.plain is 120 by now and was 100 then" in str(world.notes[-1].data["why"])


def two_on_one_metric(approval: Approval) -> World:
    """A guess that a person is asked about, and another that is judged by the same metric."""
    when = (Condition("app.other", ">", 10.0, 5.0),)
    rules = (POLICY.rules[0], rule("other", Action("t.slow", Op.SET, 9), when=when))
    world = World(Mode.LOSSY, replace(POLICY, approval=approval, rules=rules))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    observe(world, app_p95=50.0)
    return world


def test_who_waits_for_a_person_leaves_the_metric_to_others() -> None:
    world = two_on_one_metric(Approval(knobs=("t.plain",), for_s=600.0))
    observe(world, dt=1.0, app_other=50.0)
    assert world.state.refusals == {"metric_busy": 1} and world.kernel["t.slow"] == 7
    answer(world, VerdictKind.CONFIRM)
    assert asked(world).trial == "t1"
    observe(world, dt=1.0, app_other=50.0)
    assert world.kernel["t.slow"] == 9


def test_a_yes_to_a_trial_waits_until_its_metric_is_free() -> None:
    world = two_on_one_metric(replace(FIRST, risk=None, knobs=("t.plain",)))
    observe(world, dt=1.0, app_other=50.0)
    decide(world, True)
    assert world.kernel["t.plain"] == 100 and world.kernel["t.slow"] == 9
    answer(world, VerdictKind.REJECT)
    assert world.kernel["t.plain"] == 200 and world.kernel["t.slow"] == 7


def test_two_that_were_said_yes_to_begin_one_after_the_other() -> None:
    world = two_on_one_metric(FIRST)
    observe(world, dt=1.0, app_other=50.0)
    world.feed(ev.Pause(world.t))
    for trial in ("t1", "t2"):
        world.feed(ev.Decided(world.t, trial, True, 0, "root"))
    world.feed(ev.Resume(world.t))
    assert (world.kernel["t.plain"], world.kernel["t.slow"]) == (200, 7)
    answer(world, VerdictKind.REJECT)
    assert (world.kernel["t.plain"], world.kernel["t.slow"]) == (100, 9)


def test_the_write_to_the_safe_side_is_refused_and_all_goes_back() -> None:
    world = started()
    observe(world, app_p95=50.0)
    world.refuse.add("t.plain")
    answer(world, VerdictKind.CONFIRM)
    assert world.kernel == FOUND and not world.state.trials
    assert notices(world) == ["pending", "ended"]


def test_an_answer_may_come_before_the_safe_side_is_reached() -> None:
    """A write that blocks is answered later than the person."""
    world = started()
    observe(world, app_p95=50.0)
    verdict = Verdict(case_of(world).id, VerdictKind.CONFIRM, "measured")
    state, commands = engine.step(world.state, ev.ActorSaid(world.t, verdict))
    (going,) = (c for c in commands if isinstance(c, ev.Apply))
    yes = ev.Decided(world.t, going.trial, True, 0, "root")
    state, commands = engine.step(state, yes)
    assert not [c for c in commands if isinstance(c, ev.Apply)], "one write at a time"
    state, commands = engine.step(state, ev.Applied(world.t, going.trial, going.writes, going.writes))
    (keeping,) = (c for c in commands if isinstance(c, ev.Apply))
    assert keeping.writes == (Write("t.plain", 200),)


def test_a_yes_to_a_trial_waits_for_an_actor() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    world.feed(ev.ActorChanged(world.t, False, "died"))
    decide(world, True)
    assert not world.written
    world.feed(ev.ActorChanged(world.t, True, "started"))
    assert world.kernel["t.plain"] == 200


def test_a_knob_that_went_away_while_they_thought() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    state, commands = engine.step(world.state, ev.Decided(world.t, "t1", True, 0, "root"))
    (look,) = (c for c in commands if isinstance(c, ev.Look))
    gone = Refusal("absent", "t.plain", "this host does not have the knob")
    state, commands = engine.step(state, ev.Looked(world.t, look.rule, {}, gone))
    assert not state.trials and not [c for c in commands if isinstance(c, ev.Apply)]
    (note,) = (c.record for c in commands if isinstance(c, ev.Note))
    assert not [c for c in commands if isinstance(c, ev.Revert)]
    assert note.kind == "reverted" and "approved, but t.plain: this host does not" in str(note.data["why"])


def test_an_overwrite_that_waits_at_the_new_value_leaves_the_one_tried_last() -> None:
    world = started(AT_NEW)
    observe(world, app_p95=50.0)
    assert measure(world, Arm.C, Write("t.plain", 250)) == ""
    later(world, 0.1)
    later(world, 1.0)
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 300))
    assert world.kernel["t.plain"] == 300


def test_a_second_answer_changes_nothing() -> None:
    world = started(FIRST)
    observe(world, app_p95=50.0)
    world.feed(ev.Pause(world.t))
    decide(world, True)
    decide(world, False)
    assert world.kinds().count("decided") == 1 and world.state.trials


def taught(approval: Approval) -> World:
    """A person said yes under one workload; then all was put back."""
    policy = replace(POLICY, rules=(POLICY.rules[0],), climbs=(), approval=approval)
    world = World(Mode.LOSSY, policy)
    world.feed(ev.ActorChanged(world.t, True, "started"))
    host(world, CPU, 6)
    host(world, CPU, 1, app_p95=50.0)
    answer(world, VerdictKind.CONFIRM)
    decide(world, True)
    world.feed(ev.Pause(world.t, restore=True))
    world.feed(ev.Resume(world.t))
    return world


def setting(world: World) -> prior.Setting:
    ((one,),) = (workload.settings for workload in world.state.learned.priors.workloads)
    return one


def test_a_persons_word_is_remembered_as_theirs() -> None:
    world = taught(ALWAYS)
    assert (setting(world).by, setting(world).confirmed) == ("person", 1.0)
    host(world, DISK, 6)
    world.t += 4000.0
    host(world, CPU, 6)
    assert case_of(world).rule.startswith("prior.")
    answer(world, VerdictKind.CONFIRM)
    decide(world, False)
    assert (setting(world).by, setting(world).rejected) == ("person", 1.0)


def test_a_jump_is_asked_about_where_the_rule_that_it_came_of_was() -> None:
    world = taught(Approval(rules=("grow",), for_s=600.0))
    host(world, DISK, 6)
    world.t += 4000.0
    host(world, CPU, 6)
    answer(world, VerdictKind.CONFIRM)
    assert world.state.trials and asked(world).rule.startswith("prior.")


def searched(approval: Approval) -> World:
    """A search, at its end confirmed by the actor."""
    world = World(Mode.LOSSY, replace(SEARCHING, approval=approval))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    if approval.ask is Asking.BEFORE_TRIAL:
        live(world, 1)
        decide(world, True)
    live(world, 90)
    answer(world, VerdictKind.CONFIRM)
    return world


@pytest.mark.parametrize("approve", [True, False])
def test_what_a_search_found_waits_too(approve: bool) -> None:
    world = searched(ALWAYS)
    found = asked(world).moves[0].new
    assert world.kernel["t.plain"] == 100 != found
    decide(world, approve)
    assert world.kernel["t.plain"] == (found if approve else 100)


def test_an_approved_search_tries_values_of_its_own_and_is_not_asked_about_again() -> None:
    world = searched(FIRST)
    assert len({value for _, value in world.written}) > 4
    assert notices(world) == ["pending", "decided"] and "t.plain" in world.state.held


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("ab.1", "ab.1"),
        ("1", "ab.1"),
        ("ab.11", "ab.11"),
        ("ab", "'ab' may be ab.1 or ab.11; write more of it"),
        ("", "'' is no question that waits for an answer"),
        ("ab.3", "ab.3 is over; `tuned-spec history --trial ab.3` says how it ended"),
        ("ab.12", "'ab.12' is no question that waits for an answer"),
        ("ab.5", "ab.5 is open (judging), but nobody is asked about it"),
        ("\x1b[2J", "'\\x1b[2J' is no question that waits for an answer"),
    ],
)
def test_what_is_typed_means_one_question_or_is_told_why_not(word: str, found: str) -> None:
    world = confirmed()
    (trial,) = world.state.trials.values()
    waiting = {id: replace(trial, id=id) for id in ("ab.1", "ab.11")}
    judging = replace(trial, id="ab.5", phase=Phase.JUDGING, question=None)
    state = replace(world.state, prefix="ab.", started=11, trials={**waiting, "ab.5": judging})
    means = engine.find_pending(state, word)
    assert (means if isinstance(means, str) else means.trial) == found


def test_as_many_questions_as_a_person_can_answer() -> None:
    world = confirmed()
    (trial,) = world.state.trials.values()
    many = {f"x{n}": replace(trial, id=f"x{n}") for n in range(64)}
    world.state = replace(world.state, trials=many)
    observe(world, dt=1.0, app_other=50.0)
    assert world.state.refusals == {"knob_busy": 1, "questions": 1}, "two rules watch app.other"
    assert not [m for m in world.told if isinstance(m, Cancel)]
