"""Each refusal has its code, and each code a case that earns it."""

from __future__ import annotations

import pytest

from tests.engine.world import CATALOGUE, POLICY, knob
from tuned_spec import envelope
from tuned_spec.envelope import CODES, Envelope, LastMove, OpenTrial, Rest, Situation
from tuned_spec.model import Expect, KnobType, Limit, Policy, Proposal, Risk, Value, Way, Write

LIVE: dict[str, Value] = {"t.plain": 100, "t.slow": 7, "t.bytes": 0, "t.ratio": 20}


def situation(**more: object) -> Situation:
    facts: dict[str, object] = {
        "t": 1000.0,
        "policy": POLICY,
        "catalogue": CATALOGUE,
        "memory": Envelope(),
        "paused": False,
        "journal_ok": True,
        "actor_alive": True,
        "foreign": frozenset(),
        "open_trials": (),
    }
    facts |= more
    policy = facts["policy"]
    assert isinstance(policy, Policy)
    limits = {limit.knob: limit for limit in policy.limits}
    return Situation(limits=limits, **facts)  # type: ignore[arg-type]


def proposal(*writes: Write, metric: str = "app.p95", rule: str = "grow") -> Proposal:
    return Proposal(rule, writes or (Write("t.plain", 150),), "why", {}, Expect(metric, Way.DOWN))


def code(guess: Proposal, now: Situation, live: dict[str, Value] = LIVE) -> str:
    refusal = envelope.judge(guess, live, LIVE, now)
    return refusal.code if refusal else ""


def test_a_sound_change_is_allowed() -> None:
    assert code(proposal(), situation()) == ""


RISKY = {**CATALOGUE, "t.plain": knob("t.plain", risk=Risk.HIGH)}
OTHER = OpenTrial(frozenset({"t.slow"}), "app.p95", False)


@pytest.mark.parametrize(
    ("expected", "guess", "now"),
    [
        ("paused", proposal(), situation(paused=True)),
        ("journal_failed", proposal(), situation(journal_ok=False)),
        ("no_actor", proposal(), situation(actor_alive=False)),
        ("unknown_knob", proposal(Write("t.none", 1)), situation()),
        ("risk", proposal(), situation(catalogue=RISKY)),
        ("foreign", proposal(), situation(foreign=frozenset({"t.plain"}))),
        ("foreign", proposal(Write("t.bytes", 5)), situation(foreign=frozenset({"t.ratio"}))),
        ("knob_busy", proposal(), situation(open_trials=(OpenTrial(frozenset({"t.plain"}), "x", True),))),
        (
            "knob_busy",
            proposal(Write("t.bytes", 5)),
            situation(open_trials=(OpenTrial(frozenset({"t.ratio"}), "x", True),)),
        ),
        ("metric_busy", proposal(), situation(open_trials=(OTHER,))),
        ("", proposal(), situation(open_trials=(OpenTrial(frozenset({"t.slow"}), "app.p95", True),))),
        ("resting", proposal(), situation(memory=Envelope(rests={"grow": Rest(1001.0, 1)}))),
        ("", proposal(), situation(memory=Envelope(rests={"grow": Rest(1000.0, 1)}))),
        ("cooldown", proposal(), situation(memory=Envelope(last={"t.plain": LastMove(950.0, "x", 1, 60.0)}))),
        ("", proposal(), situation(memory=Envelope(last={"t.plain": LastMove(930.0, "x", 1, 60.0)}))),
        (
            "hysteresis",
            proposal(Write("t.plain", 60)),
            situation(memory=Envelope(last={"t.plain": LastMove(930.0, "x", 1, 60.0)})),
        ),
        (
            "",
            proposal(Write("t.plain", 60)),
            situation(memory=Envelope(last={"t.plain": LastMove(930.0, "grow", 1, 60.0)})),
        ),
        ("budget", proposal(), situation(memory=Envelope(changes=(990.0,) * 6))),
        ("", proposal(), situation(memory=Envelope(changes=(940.0,) * 6))),
        ("type", proposal(Write("t.plain", "much")), situation()),
        ("type", proposal(Write("t.plain", (1, 2))), situation()),
        ("out_of_range", proposal(Write("t.plain", 49)), situation()),
        ("out_of_range", proposal(Write("t.slow", 1001)), situation()),
        ("bound", proposal(Write("t.plain", 401)), situation()),
        ("step", proposal(Write("t.plain", 201)), situation()),
        ("", proposal(Write("t.plain", 200)), situation()),
        ("", proposal(Write("t.plain", 50)), situation()),
        ("coupled", proposal(Write("t.bytes", 5), Write("t.ratio", 5)), situation()),
        ("coupled", proposal(Write("t.slow", 5), Write("t.slow", 6)), situation()),
        ("no_change", proposal(Write("t.plain", 100)), situation()),
        ("no_change", Proposal("r", (), "why", {}, Expect("m", Way.UP)), situation()),
    ],
)
def test_codes(expected: str, guess: Proposal, now: Situation) -> None:
    assert expected in CODES or not expected
    assert code(guess, now) == expected


def test_bound_is_from_the_original_not_from_the_last_value() -> None:
    assert code(proposal(Write("t.plain", 420)), situation(), {**LIVE, "t.plain": 400}) == "bound"


def test_a_knob_at_zero_can_leave_it_by_the_absolute_step() -> None:
    policy = Policy(names=(), limits=(Limit("t.bytes", step_ratio=2.0, step_abs=50),))
    assert code(proposal(Write("t.bytes", 50)), situation(policy=policy)) == ""
    assert code(proposal(Write("t.bytes", 52)), situation(policy=policy)) == "step"


def test_choices() -> None:
    words = knob("t.word", type=KnobType.CHOICE, choices=("a", "b", "c"), low=None, high=None)
    limit = Limit("t.word", choices=("a", "b"))
    assert envelope.judge_value(words, limit, "b", "a") is None
    refusal = envelope.judge_value(words, limit, "c", "a")
    assert refusal and refusal.code == "out_of_range"
    assert envelope.allowed(words, limit, "a").choices == ("a", "b")


def test_an_actor_is_told_the_range_it_will_be_held_to() -> None:
    entry, limit = CATALOGUE["t.plain"], POLICY.limits[0]
    told = envelope.allowed(entry, limit, 100)
    assert (told.low, told.high) == (50, 400)
    assert told.low is not None and told.high is not None
    for value, fits in ((told.low, True), (told.high, True), (told.low - 1, False), (told.high + 1, False)):
        assert (envelope.judge_value(entry, limit, value, 100) is None) is fits


def test_a_wrong_guess_rests_twice_as_long_each_time_and_a_right_one_wipes_that() -> None:
    memory = Envelope()
    rests = []
    for _ in range(10):
        memory = envelope.rested(memory, "grow", 10.0, 0.0)
        rests.append(memory.rests["grow"].until)
    assert rests[:4] == [10.0, 20.0, 40.0, 80.0] and max(rests) == 640.0
    assert envelope.right(memory, "grow").rests == {}


def test_toggles_have_their_own_budget() -> None:
    policy = Policy(names=(), toggles_per_minute=2)
    memory = Envelope()
    for t in (0.0, 1.0):
        assert envelope.may_toggle(memory, policy, t)
        memory = envelope.toggled(memory, t)
    assert not envelope.may_toggle(memory, policy, 2.0)
    assert envelope.may_toggle(memory, policy, 60.5)
    assert memory.changes == ()


def test_ratios_are_counted_as_they_are_written() -> None:
    limit = Limit("t.plain", bound_ratio=1.15, step_ratio=1.15)
    assert envelope.judge_value(CATALOGUE["t.plain"], limit, 115, 100) is None
    assert envelope.judge_step(CATALOGUE["t.plain"], limit, 115, 100) is None
    refusal = envelope.judge_value(CATALOGUE["t.plain"], limit, 116, 100)
    assert refusal and refusal.code == "bound"


def test_the_fields_of_a_triple_keep_their_order() -> None:
    triple = knob("t.triple", type=KnobType.INTS, fields=("min", "default", "max"))
    limit = Limit("t.triple")
    assert envelope.judge_value(triple, limit, (1, 5, 9), (1, 2, 3)) is None
    refusal = envelope.judge_value(triple, limit, (1, 5, 4), (1, 2, 3))
    assert refusal and refusal.code == "order"
    assert envelope.judge_value(triple, limit, (9, 5, 4), (3, 2, 1)) is None, "where it was so, it may be"


@pytest.mark.parametrize(
    ("tried_only", "tried", "code"), [(True, (), "untried"), (True, ("6.12",), ""), (False, (), "")]
)
def test_an_entry_that_no_kernel_is_on_record_for_is_only_observed(
    tried_only: bool, tried: tuple[str, ...], code: str
) -> None:
    catalogue = {**CATALOGUE, "t.plain": knob("t.plain", tried=tried)}
    now = situation(catalogue=catalogue, tried_only=tried_only)
    refusal = envelope.gate("grow", ["t.plain"], "app.p95", True, 5.0, now)
    assert (refusal.code if refusal else "") == code
