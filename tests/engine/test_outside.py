"""Proposals from outside the policy: the same way as a rule's, and no other."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.test_step import answer, case_of, observe, started
from tests.engine.world import CATALOGUE, FOUND, World
from tuned_spec.engine import events as ev
from tuned_spec.engine.outside import A_MINUTE, A_MINUTE_OF_ALL, RESTS, RULE
from tuned_spec.engine.telling import pending
from tuned_spec.envelope import CODES
from tuned_spec.model import (
    Approval,
    Expect,
    Guard,
    Mode,
    Offer,
    Refusal,
    Risk,
    Value,
    VerdictKind,
    Way,
    Write,
)

DOWN = Expect("cpu.busy", Way.DOWN)


def offer(
    *writes: Write, source: str = "agent", expect: Expect = DOWN, guard: tuple[Guard, ...] = ()
) -> Offer:
    return Offer(source, writes, expect, "an idea", guard)


def ask(
    world: World, *writes: Write, dt: float = 0.1, refusal: Refusal | None = None, **more: object
) -> ev.Answer:
    """Propose it; the one answer that comes."""
    world.t += dt
    before = len(world.answers)
    world.feed(ev.Offered(world.t, offer(*writes, **more), refusal))  # type: ignore[arg-type]
    (said,) = world.answers[before:]
    return said


def code(said: ev.Answer) -> str:
    return said.refusal.code if said.refusal else ""


def test_it_is_written_at_once_and_put_before_the_actor() -> None:
    world = started()
    said = ask(world, Write("t.plain", 150), guard=(Guard("app.max", Way.DOWN),))
    assert said == ev.Answer("agent", "t1")
    assert world.kernel["t.plain"] == 150
    case = case_of(world)
    assert (case.id, case.rule, case.reason) == ("t1", "outside.agent", "an idea")
    assert (case.before, case.after) == ((Write("t.plain", 100),), (Write("t.plain", 150),))
    assert case.expect == DOWN and case.guard == (Guard("app.max", Way.DOWN),)
    assert case.settle_s == 0.5 and case.dwell_s == 3.0, "the knob's time to settle, a host's metric to dwell"
    assert world.kinds() == ["actor", "proposed", "applied"]
    assert world.notes[1].data["source"] == "proposed by agent"


def test_nobody_but_the_actor_keeps_it() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    answer(world, VerdictKind.CONFIRM)
    assert world.state.held["t.plain"].value == 150
    assert world.state.held["t.plain"].rule == "outside.agent"


def test_without_a_verdict_it_goes_back() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    world.t += case_of(world).lease_s
    world.feed(ev.Ticked(world.t))
    assert world.kernel == FOUND and not world.state.trials


def test_observing_only_says_what_would_be_done() -> None:
    world = started(Mode.OBSERVE)
    assert ask(world, Write("t.plain", 150)) == ev.Answer("agent", "t1")
    assert world.kernel == FOUND and not world.state.trials
    assert world.kinds() == ["actor", "would"]


def test_in_lossless_nothing_is_written_before_the_actor_asks() -> None:
    world = started(Mode.LOSSLESS)
    assert ask(world, Write("t.plain", 150)).trial == "t1"
    assert not world.written and case_of(world).after == (Write("t.plain", 150),)


@pytest.mark.parametrize(
    ("writes", "why"),
    [
        ((Write("t.plain", 1001),), "out_of_range"),  # the catalogue's
        ((Write("t.plain", 801),), "out_of_range"),  # the policy's
        ((Write("t.plain", 500),), "bound"),
        ((Write("t.plain", 250),), "step"),
        ((Write("t.plain", "fast"),), "type"),
        ((Write("t.plain", (1, 2)),), "type"),
        ((Write("t.plain", 100),), "no_change"),
        ((), "no_change"),
        ((Write("t.nowhere", 1),), "unknown_knob"),
        ((Write("t.task", 1),), "unknown_knob"),  # there is one for each task
        ((Write("t.bytes", 500), Write("t.ratio", 10)), "coupled"),
        ((Write("t.plain", 120), Write("t.plain", 130)), "coupled"),
    ],
)
def test_what_the_envelope_refuses_is_refused_and_never_bent(writes: tuple[Write, ...], why: str) -> None:
    world = started()
    said = ask(world, *writes)
    assert code(said) == why and not said.trial
    assert why in CODES and said.refusal is not None and said.refusal.what
    assert world.kernel == FOUND and not world.state.trials and not world.state.offers
    assert world.kinds() == ["actor", "refused"] and world.state.refusals == {why: 1}


def test_what_holds_for_all_holds_for_them() -> None:
    world = started()
    world.feed(ev.Pause(world.t))
    assert code(ask(world, Write("t.plain", 150))) == "paused"
    world.feed(ev.Resume(world.t))
    world.feed(ev.JournalChanged(world.t, False, "full"))
    assert code(ask(world, Write("t.plain", 150))) == "journal_failed"
    world.feed(ev.JournalChanged(world.t, True, "again"))
    world.feed(ev.ActorChanged(world.t, False, "died"))
    assert code(ask(world, Write("t.plain", 150))) == "no_actor"
    world.feed(ev.ActorChanged(world.t, True, "back"))
    observe(world, app_p95=50.0)  # the policy's own rule has the knob now
    assert code(ask(world, Write("t.plain", 150))) == "knob_busy"
    answer(world, VerdictKind.CONFIRM)
    assert code(ask(world, Write("t.plain", 210))) == "cooldown"
    world.outsider("t.plain", 300)
    assert code(ask(world, Write("t.plain", 310), dt=100.0)) == "foreign"
    assert world.kernel["t.plain"] == 300


def test_a_rule_finds_the_knob_of_an_outside_trial_busy() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    observe(world, app_p95=50.0)
    assert world.kernel["t.plain"] == 150 and world.state.refusals["knob_busy"] == 1


def test_a_programs_metric_has_to_be_heard() -> None:
    world = started()
    other = Expect("app.other", Way.DOWN)
    assert code(ask(world, Write("t.slow", 9), expect=other)) == "silent"
    observe(world, app_other=1.0)
    assert ask(world, Write("t.slow", 9), expect=other).trial


def test_what_the_daemon_cannot_sense_is_refused_and_on_record() -> None:
    world = started()
    said = ask(world, Write("t.plain", 150), refusal=Refusal("no_metric", "t.plain", "disk.x: no disk"))
    assert code(said) == "no_metric" and world.kinds()[-1] == "refused" and world.kernel == FOUND


def test_a_rejected_change_rests_and_its_source_does_not() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    answer(world, VerdictKind.REJECT)
    assert world.kernel == FOUND
    assert code(ask(world, Write("t.plain", 150), dt=10.0)) == "resting"
    assert code(ask(world, Write("t.plain", 140))) == "cooldown", "another idea waits for the knob only"
    assert code(ask(world, Write("t.plain", 150), source="other", dt=0.1)) == "cooldown"
    assert ask(world, Write("t.plain", 140), dt=51.0).trial == "t2"
    answer(world, VerdictKind.REJECT)
    assert code(ask(world, Write("t.plain", 150), dt=0.1)) == "cooldown", "its rest of 60 s is over"


def test_right_at_last_it_rests_no_more_than_the_first_time() -> None:
    world = started()
    for kind in (VerdictKind.REJECT, VerdictKind.CONFIRM):
        world.t += 100.0
        assert ask(world, Write("t.plain", 150)).trial
        answer(world, kind)
    assert not [name for name in world.state.envelope.rests if name.startswith(RULE)]


def test_a_flood_from_one_is_bounded_and_stops_nobody_else() -> None:
    world = started()
    heard = [code(ask(world, Write("t.plain", 1001), dt=0.01)) for _ in range(A_MINUTE)]
    assert heard == ["out_of_range"] * A_MINUTE
    flood = [code(ask(world, Write("t.plain", 150), dt=0.01)) for _ in range(50)]
    assert flood == ["flood"] * 50
    assert world.kinds().count("refused") == A_MINUTE + 1, "each is answered, one is written down"
    assert ask(world, Write("t.plain", 150), source="other").trial == "t1"
    world.t += 60.0
    assert code(ask(world, Write("t.slow", 9), expect=Expect("tcp.lost", Way.DOWN))) == ""


def test_a_flood_of_names_is_bounded_too_and_leaves_nothing_behind() -> None:
    world = started()
    for number in range(4 * A_MINUTE_OF_ALL):
        ask(world, Write("t.plain", 1001), dt=0.01, source=f"s{number}")
    assert len(world.state.offered) == A_MINUTE_OF_ALL
    assert len(world.state.last_refusal) <= A_MINUTE_OF_ALL + 1
    world.t += 61.0
    ask(world, Write("t.plain", 1001))
    assert len(world.state.offered) == 1 and len(world.state.last_refusal) <= 1


def test_rests_are_bounded() -> None:
    world = started()
    policy = msgspec.structs.replace(world.state.setup.policy, rest_s=1e9)
    world.state = msgspec.structs.replace(
        world.state, setup=msgspec.structs.replace(world.state.setup, policy=policy)
    )
    for number in range(RESTS + 5):
        value: Value = 101 + number % 99
        assert ask(world, Write("t.plain", value), dt=61.0, expect=Expect(f"m{number}", Way.UP)).trial
        answer(world, VerdictKind.REJECT)
    assert len(world.state.envelope.rests) == RESTS


def test_who_proposed_it_may_withdraw_it_open_or_kept() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    world.feed(ev.Withdrawn(world.t, "other", "t1"))
    assert code(world.answers[-1]) == "not_yours" and world.kernel["t.plain"] == 150
    world.feed(ev.Withdrawn(world.t, "agent", "t1"))
    assert world.answers[-1] == ev.Answer("agent", "t1")
    assert world.kernel == FOUND and not world.state.trials
    assert world.notes[-1].kind == "reverted" and "withdrawn by agent" in str(world.notes[-1].data["why"])
    assert ask(world, Write("t.plain", 150), dt=61.0).trial == "t2", "what was withdrawn does not rest"
    answer(world, VerdictKind.CONFIRM)
    world.feed(ev.Withdrawn(world.t, "agent", "t2"))
    assert world.kernel == FOUND and not world.state.held and not world.state.paused
    assert (world.notes[-1].kind, world.notes[-1].trial) == ("reverted", "t2")


def test_a_trial_that_began_from_what_is_withdrawn_goes_back_with_it() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    answer(world, VerdictKind.CONFIRM)
    observe(world, dt=100.0, app_p95=50.0)
    assert world.kernel["t.plain"] == 300 and case_of(world).id == "t2"
    world.feed(ev.Withdrawn(world.t, "agent", "t1"))
    assert world.kernel == FOUND and not world.state.trials and not world.state.held and not world.rows
    assert not world.state.originals


def test_nobody_withdraws_what_the_policy_did() -> None:
    world = started()
    observe(world, app_p95=50.0)
    for source in ("agent", "", "grow"):
        world.feed(ev.Withdrawn(world.t, source, "t1"))
        assert code(world.answers[-1]) == "not_yours"
    assert world.kernel["t.plain"] == 200


def test_a_knob_of_high_risk_waits_for_a_person_first() -> None:
    world = started()
    risky = CATALOGUE | {"t.plain": msgspec.structs.replace(CATALOGUE["t.plain"], risk=Risk.HIGH)}
    setup = msgspec.structs.replace(world.state.setup, catalogue=risky)
    world.state = msgspec.structs.replace(world.state, setup=setup)
    assert code(ask(world, Write("t.plain", 150))) == "risk", "where the policy asks nobody"
    policy = msgspec.structs.replace(setup.policy, approval=Approval(risk=Risk.HIGH))
    setup = msgspec.structs.replace(setup, policy=policy)
    world.state = msgspec.structs.replace(world.state, setup=setup)
    assert ask(world, Write("t.plain", 150)).trial == "t1"
    (question,) = pending(world.state)
    assert (question.trial, question.rule) == ("t1", "outside.agent") and world.kernel == FOUND
    world.feed(ev.Decided(world.t, "t1", True, 0, "root"))
    assert world.kernel["t.plain"] == 150 and case_of(world).id == "t1"


def test_an_overwrite_of_theirs_is_inside_the_envelope() -> None:
    world = started()
    ask(world, Write("t.plain", 150))
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 401))
    assert world.kernel["t.plain"] == 150 and world.kinds()[-1] == "ignored"
    answer(world, VerdictKind.OVERWRITE, Write("t.plain", 180))
    assert world.state.held["t.plain"].value == 180


def test_the_kernels_no_leaves_nothing_and_rests() -> None:
    world = started()
    world.refuse.add("t.plain")
    assert ask(world, Write("t.plain", 150)).trial == "t1"
    assert world.kernel == FOUND and not world.state.trials and world.kinds()[-1] == "failed"
    world.refuse.clear()
    assert code(ask(world, Write("t.plain", 150), dt=1.0)) == "resting"
