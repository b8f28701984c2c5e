"""A model as speculator: when it is asked, what it is told, and what of its answer counts."""

from __future__ import annotations

import msgspec
import pytest

from tests.engine.test_step import answer, case_of, observe
from tests.engine.world import FOUND, POLICY, World
from tuned_spec.engine import events as ev
from tuned_spec.engine.suggesting import PATIENCE_S
from tuned_spec.engine.trials import CONSULTED_A_TRIAL
from tuned_spec.model import (
    Allowed,
    Consulted,
    Expect,
    Guard,
    Mode,
    Outlook,
    Suggest,
    Suggestion,
    VerdictKind,
    Way,
    Write,
)
from tuned_spec.speculate import prior

SUGGEST = Suggest(
    knobs=("t.*",),
    expect=(Expect("app.other", Way.UP, 0.1), Expect("tcp.lost", Way.DOWN)),
    guard=(Guard("app.max", Way.DOWN),),
    every_s=30.0,
)
OPTIONS = ("t.plain", "t.slow", "t.bytes")


def started(mode: Mode = Mode.LOSSY, speculates: bool = True) -> World:
    """Without rules and searches, so that only the model guesses."""
    policy = msgspec.structs.replace(POLICY, suggest=SUGGEST, rules=(), climbs=())
    world = World(mode, policy)
    setup = msgspec.structs.replace(world.state.setup, options=OPTIONS)
    world.state = msgspec.structs.replace(world.state, setup=setup)
    world.feed(ev.ActorChanged(world.t, True, "started", 20.0, speculates))
    return world


def look(world: World, dt: float = 1.0, **values: float) -> list[Outlook]:
    """A second on the host; the questions that it brought."""
    before = len(world.told)
    observe(world, dt=dt, app_other=7.0)
    observe(world, dt=0.0, cpu_busy=0.5, **values)
    return [message for message in world.told[before:] if isinstance(message, Outlook)]


def say(world: World, outlook: Outlook, *writes: Write, metric: str = "app.other", **more: object) -> None:
    said = Suggestion(outlook.id, writes, metric, "because", **more)  # type: ignore[arg-type]
    world.feed(ev.ActorSaid(world.t, said))


def test_it_is_told_what_it_may_choose() -> None:
    world = started()
    (outlook,) = look(world)
    assert [(o.knob.id, o.value) for o in outlook.options] == [
        ("t.plain", 100),
        ("t.slow", 7),
        ("t.bytes", 0),
    ]
    assert outlook.options[0].allowed == Allowed("t.plain", 50, 400)
    assert outlook.metrics["app.other"] == (7.0,) and outlook.metrics["cpu.busy"] == (0.5,)
    assert outlook.expect == (SUGGEST.expect[0],), "what is not known now judges nothing"


def test_its_change_goes_the_way_of_a_rules() -> None:
    world = started()
    (outlook,) = look(world)
    say(world, outlook, Write("t.plain", 150), confidence=0.8)
    assert world.kernel["t.plain"] == 150
    case = case_of(world)
    assert (case.rule, case.expect, case.guard) == ("outside.model", SUGGEST.expect[0], SUGGEST.guard)
    assert world.kinds() == ["actor", "suggested", "proposed", "applied"]
    assert not look(world, dt=29.5), "one of them is on trial"
    answer(world, VerdictKind.CONFIRM)
    assert world.state.held["t.plain"].value == 150
    assert look(world)


def test_it_is_asked_now_and_then_only() -> None:
    world = started()
    (first,) = look(world)
    say(world, first)
    assert world.kinds()[-1] == "suggested" and world.kernel == FOUND, "nothing is worth trying: so be it"
    assert not look(world, dt=29.0)
    (second,) = look(world, dt=1.5)
    assert second.id != first.id


def test_what_is_not_answered_is_asked_anew_after_a_while() -> None:
    world = started()
    (first,) = look(world)
    assert not look(world, dt=31.0), "it may think longer than the pace"
    (second,) = look(world, dt=PATIENCE_S)
    say(world, first, Write("t.plain", 150))
    assert world.kernel == FOUND and world.kinds()[-1] == "actor", "an old question's answer is none"
    say(world, second, Write("t.plain", 150))
    say(world, second, Write("t.slow", 9))
    assert world.kernel["t.plain"] == 150 and world.kernel["t.slow"] == 7, "and one answer is enough"


@pytest.mark.parametrize(
    ("writes", "metric", "code"),
    [
        ((Write("t.search", 100),), "app.other", "not_offered"),
        ((Write("t.plain", 150), Write("t.search", 100)), "app.other", "not_offered"),
        ((Write("vm.nowhere", 1),), "app.other", "unknown_knob"),
        ((Write("t.plain", 150),), "cpu.busy", "not_offered"),
        ((Write("t.plain", 150),), "tcp.lost", "not_offered"),  # the policy's, but not of this outlook
        ((Write("t.plain", 401),), "app.other", "bound"),
        ((Write("t.plain", 250),), "app.other", "step"),
        ((Write("t.plain", -1),), "app.other", "out_of_range"),
        ((Write("t.plain", "lots"),), "app.other", "type"),
        ((Write("t.plain", 150), Write("t.plain", 160)), "app.other", "coupled"),
    ],
)
def test_what_it_was_not_asked_for_and_what_is_not_allowed_is_refused(
    writes: tuple[Write, ...], metric: str, code: str
) -> None:
    world = started()
    (outlook,) = look(world)
    say(world, outlook, *writes, metric=metric)
    assert world.kernel == FOUND and not world.state.trials
    assert world.notes[-1].kind == "refused" and world.notes[-1].data["code"] == code


def test_nobody_is_asked_who_does_not_speculate_or_may_not_change() -> None:
    assert not look(started(speculates=False))
    world = started()
    world.feed(ev.Pause(world.t))
    assert not look(world)
    world.feed(ev.Resume(world.t))
    world.feed(ev.JournalChanged(world.t, False, "full"))
    assert not look(world)
    world.feed(ev.JournalChanged(world.t, True, "again"))
    (outlook,) = look(world)
    world.feed(ev.ActorChanged(world.t, False, "died"))
    say(world, outlook, Write("t.plain", 150))
    assert world.kernel == FOUND, "who died said nothing"
    assert not look(world, dt=100.0)


def test_knobs_in_a_trial_and_foreign_ones_are_not_offered() -> None:
    world = started()
    (outlook,) = look(world)
    say(world, outlook, Write("t.slow", 9))
    world.outsider("t.slow", 5)
    (outlook,) = look(world, dt=40.0)
    assert [o.knob.id for o in outlook.options] == ["t.plain", "t.bytes"]


def test_in_lossless_its_change_is_written_when_the_actor_measures() -> None:
    world = started(Mode.LOSSLESS)
    (outlook,) = look(world)
    say(world, outlook, Write("t.plain", 150))
    assert not world.written and case_of(world).after == (Write("t.plain", 150),)


def test_a_rejected_suggestion_rests() -> None:
    world = started()
    (outlook,) = look(world)
    say(world, outlook, Write("t.slow", 9))
    answer(world, VerdictKind.REJECT)
    (outlook,) = look(world, dt=31.0)
    say(world, outlook, Write("t.slow", 9))
    assert world.notes[-1].data["code"] == "resting" and world.kernel == FOUND


def test_what_was_said_about_it_is_on_record_so_much_of_it_as_of_a_trial() -> None:
    world = started()
    (outlook,) = look(world)
    for number in range(50):
        talk = Consulted(outlook.id, "m", "digest", "prompt", (), f"exchange {number}")
        world.feed(ev.ActorSaid(world.t, talk))
    notes = [note for note in world.notes if note.kind == "consulted"]
    assert len(notes) == CONSULTED_A_TRIAL
    assert {(note.trial, note.rule, note.data["case"]) for note in notes} == {
        ("", "outside.model", outlook.id),
    }
    world.feed(ev.ActorSaid(world.t, Consulted("o99", "m", "", "", (), "about nothing")))
    assert len([note for note in world.notes if note.kind == "consulted"]) == CONSULTED_A_TRIAL


def test_it_is_told_what_became_of_changes_of_these_knobs() -> None:
    world = started()
    setup = msgspec.structs.replace(world.state.setup, host={"kernel": "6.1"})
    judged = prior.Judged("t0", "grow", (Write("t.plain", 150),), prior.Fate.REJECTED, 0.0, "trial")
    learned = msgspec.structs.replace(world.state.learned, priors=prior.judged(prior.Priors(), judged))
    world.state = msgspec.structs.replace(world.state, setup=setup, learned=learned)
    (outlook,) = look(world)
    assert outlook.host == {"kernel": "6.1"}
    assert [(past.rule, past.fate) for past in outlook.past] == [("grow", "rejected")]


def test_what_is_too_long_to_be_meant_leaves_little_on_record() -> None:
    world = started()
    (outlook,) = look(world)
    say(world, outlook, *(Write("t.plain", "y" * 60) for _ in range(500)))
    assert world.kernel == FOUND and not world.state.trials
    assert len(msgspec.json.encode(world.notes)) < 2000
    assert "500 writes" in str(world.notes[-1].data["reason"])
