"""Lossless: with probes run ahead the host and the actor see what they would see without, only sooner."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.replayed import Replayed, differs, play, play_on
from tuned_spec.engine import events as ev
from tuned_spec.engine.probing import Probing
from tuned_spec.engine.state import Run
from tuned_spec.engine.turn import Turn
from tuned_spec.model import Probe, ProbeAnswer
from tuned_spec.probes.names import PROBES
from tuned_spec.speculate.foresight import Foresight

SEEDS = range(40)


@pytest.fixture(scope="module")
def memory() -> Foresight:
    """What is known after a few sessions like these."""
    known = Foresight()
    for seed in range(1000, 1006):
        known = play(0, seed, known).state.learned.foresight
    return known


def both(seed: int, memory: Foresight) -> tuple[Replayed, Replayed]:
    return play(0, seed, memory), play(3, seed, memory)


def test_the_same_states_writes_and_answers_as_in_sequence(memory: Foresight) -> None:
    hits = asked = 0
    for seed in SEEDS:
        sequential, ahead = both(seed, memory)
        assert differs(sequential, ahead) == "", seed
        assert sequential.state.probing.tally.hits == sequential.state.probing.tally.started == 0
        hits, asked = hits + ahead.state.probing.tally.hits, asked + ahead.state.probing.tally.asked
    assert asked > 200 and hits > asked / 5, "or there was nothing to be different"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(2000, 10**9))
def test_the_same_whatever_comes(memory: Foresight, seed: int) -> None:
    assert differs(*both(seed, memory)) == ""


def never_moves(turn: Turn) -> None:
    pass


def always_true(turn: Probing, run: Run) -> bool:
    return True


def whatever_the_ledger_did(turn: Probing, run: Run) -> bool:
    return run.workload == turn.state.learned.workloads


def whatever_the_workload(turn: Probing, run: Run) -> bool:
    return run.deeds == turn.state.deeds


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (Probing, "holds", always_true),
        (Probing, "holds", whatever_the_ledger_did),
        (Probing, "holds", whatever_the_workload),
        (Turn, "deed", never_moves),
    ],
)
def test_an_engine_that_serves_what_is_not_true_is_noticed(
    monkeypatch: pytest.MonkeyPatch, memory: Foresight, owner: type, name: str, wrong: Callable[..., object]
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    assert any(differs(*both(seed, memory)) for seed in SEEDS)


class Restless(Replayed):
    """Its answers change all the time: each is the moment its run was started. `late`: sampled ones that were
    served although they were as old as their bound when they were asked for, or older."""

    def __init__(self, seed: int, learned: Foresight) -> None:
        super().__init__(3, seed, learned)
        self.late: list[str] = []
        self.from_ahead = 0
        self.asked_at: dict[tuple[str, int], float] = {}

    def shows(self, name: str, args: dict[str, str]) -> str:
        return f"{name} {self.t}"

    def feed(self, event: ev.Event) -> None:
        if isinstance(event, ev.ActorSaid) and isinstance(event.message, Probe):
            self.asked_at[event.message.case, event.message.seq] = self.t
        super().feed(event)

    def execute(self, command: ev.Command) -> ev.Event | None:
        if (
            isinstance(command, ev.Tell)
            and isinstance(answer := command.message, ProbeAnswer)
            and answer.answer
        ):
            name, sampled_at = answer.answer.split()
            if float(sampled_at) < self.asked_at[answer.case, answer.seq]:
                self.from_ahead += 1
                if not PROBES[name].exact and self.t - float(sampled_at) >= PROBES[name].max_age_s:
                    self.late.append(f"{answer} at {self.t}")
        return super().execute(command)


def test_no_sampled_answer_is_served_beyond_its_bound(memory: Foresight) -> None:
    hosts = [play_on(Restless(seed, memory), seed) for seed in SEEDS]
    assert [host.late for host in hosts if host.late] == []
    assert sum(host.from_ahead for host in hosts) > 100, "or there was nothing to be late"


def test_an_engine_that_forgets_the_time_is_noticed(
    monkeypatch: pytest.MonkeyPatch, memory: Foresight
) -> None:
    monkeypatch.setattr(Probing, "holds", whatever_the_time)
    assert any(play_on(Restless(seed, memory), seed).late for seed in SEEDS)


def whatever_the_time(turn: Probing, run: Run) -> bool:
    return run.deeds == turn.state.deeds and run.workload == turn.state.learned.workloads
