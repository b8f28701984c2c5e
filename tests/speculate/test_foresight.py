"""What is learnt of sessions, and what is expected of the next."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuned_spec.model import Expect, Guard, Proposal, Way, Write
from tuned_spec.speculate import foresight
from tuned_spec.speculate.foresight import CONTEXTS, MEASURE, SYMBOLS, VERDICT, Foresight, Query, Setting

SLICE = "system.slice/nginx.service"


def case(knob: str = "vm.swappiness", metric: str = "app.p95_ms", rule: str = "calm") -> Setting:
    guess = Proposal(rule, (Write(knob, 1),), "a test", {}, Expect(metric, Way.DOWN))
    return foresight.setting(guess)


def trained(*sessions: list[str], times: int = 10, place: Setting | None = None) -> Foresight:
    memory = Foresight()
    for _ in range(times):
        for one in sessions:
            memory = foresight.learn(memory, place or case(), one, ended=True)
    return memory


def names(place: Setting, memory: Foresight, *asked: str, k: int = 2, depth: int = 1) -> list[str]:
    return [branch.query.name for branch in foresight.ahead(memory, place, asked, k, depth)]


def test_a_question_about_ones_own_knob_is_expected_of_the_next_about_its_own() -> None:
    first, other = case("vm.swappiness"), case("net.core.somaxconn", "app.rate", "another")
    asked = foresight.symbol(first, Query("knob", (("knob", "vm.swappiness"),)))
    memory = trained([asked, "memory"], place=first)
    (branch,) = foresight.ahead(memory, other, (), 1, 1)
    assert branch.query == Query("knob", (("knob", "net.core.somaxconn"),))


def test_the_cgroup_and_the_unit_of_a_knob_or_metric_are_slots() -> None:
    guess = Proposal(
        "rule",
        (Write(f"cgroup.memory.high@{SLICE}", 1),),
        "a test",
        {},
        Expect("app.p95_ms", Way.DOWN),
        (Guard("cgroup.psi.cpu.some@user.slice", Way.DOWN),),
    )
    place = foresight.setting(guess)
    assert foresight.symbol(place, Query("cgroup", (("cgroup", SLICE),))) == "cgroup cgroup=$instance0"
    assert foresight.symbol(place, Query("unit", (("unit", "nginx.service"),))) == "unit unit=$unit0"
    assert foresight.symbol(place, Query("cgroup", (("cgroup", "user.slice"),))) == "cgroup cgroup=$instance1"
    assert foresight.query(case(), "cgroup cgroup=$instance0") is None, "this case is of no cgroup"


@pytest.mark.parametrize("word", [VERDICT, MEASURE, "", "rm", "memory path=/etc", "unit unit=$knob0", "knob"])
def test_what_is_no_question_is_none(word: str) -> None:
    assert foresight.query(case(), word) is None


@pytest.mark.parametrize("word", ["sockets", "top_processes by=io", "knob knob=$knob0", "knob knob=vm.other"])
def test_a_symbol_is_the_question_it_was_made_of(word: str) -> None:
    found = foresight.query(case(), word)
    assert found is not None and foresight.symbol(case(), found) == word


def test_order_counts_and_what_was_asked_is_not_expected_again() -> None:
    memory = trained(["memory", "disks", "sockets"], ["disks", "memory", "kernel_log"])
    assert names(case(), memory, "memory", "disks", k=1) == ["sockets"]
    assert names(case(), memory, "disks", "memory", k=1) == ["kernel_log"]
    assert "memory" not in names(case(), memory, "memory", k=1)


def test_a_stray_question_does_not_end_the_foresight() -> None:
    memory = trained(["memory", "disks", "sockets", "changes"])
    assert "disks" in names(case(), memory, "memory", "kernel_log", k=3)


def test_a_rule_of_its_own_kind_is_foreseen_by_its_kind() -> None:
    cpu, net = case("sched.slice", "psi.cpu.some", "cpu"), case("net.core.somaxconn", "net.drops", "net")
    memory = trained(["pressure by=cpu"], place=cpu)
    for _ in range(30):
        memory = foresight.learn(memory, net, ["sockets"], ended=True)
    assert names(cpu, memory, k=1) == ["pressure"] and names(net, memory, k=1) == ["sockets"]


def test_probabilities_are_some_and_leave_room_for_the_unseen() -> None:
    memory = trained(["memory", "disks"], ["sockets"])
    for asked in ((), ("memory",), ("disks", "kernel_log")):
        found = foresight.likely(memory, case(), asked)
        assert all(p >= 0.0 for p in found.values()) and 0.5 < sum(found.values()) < 1.0
    assert foresight.likely(Foresight(), case(), ()) == {}


def test_two_deep_and_nothing_behind_a_verdict_or_a_window() -> None:
    memory = trained(["memory", "disks"], ["memory", MEASURE, "sockets"])
    (first,) = foresight.ahead(memory, case(), (), 1, 2)
    assert first.query.name == "memory" and [b.query.name for b in first.then] == ["disks"]
    assert "sockets" in names(case(), memory, "memory", MEASURE)
    sure = foresight.ahead(memory, case(), ("memory",), 1, 1, without=frozenset({MEASURE}))
    unsure = foresight.ahead(memory, case(), ("memory",), 1, 1)
    assert sure[0].p > unsure[0].p, "who has been silent for long asks for no window"


def test_launched_is_what_is_expected_to_save_more_than_it_costs() -> None:
    memory = trained(["memory"], ["memory"], ["disks"])
    memory = foresight.thought(memory, 4.0)
    assert foresight.worth(memory, foresight.ahead(memory, case(), (), 3, 1), 0.2) == (), (
        "how long they take?"
    )
    memory = foresight.ran(foresight.ran(memory, "memory", 1.0), "disks", 1.0)
    tree = foresight.ahead(memory, case(), (), 3, 1)
    assert [q.name for q in foresight.worth(memory, tree, 0.2)] == ["memory", "disks"], "surest first"
    assert [q.name for q in foresight.worth(memory, tree, 0.5)] == ["memory"]
    assert foresight.worth(memory, tree, 1.0) == ()
    brief = foresight.ran(msgspec.structs.replace(memory, seconds={}), "memory", 0.001)
    assert foresight.worth(brief, foresight.ahead(brief, case(), (), 3, 1), 0.2) == (), (
        "nor does what is brief"
    )
    hasty = msgspec.structs.replace(memory, thinking=foresight.Mean(0.01, 1))
    assert foresight.worth(hasty, tree, 0.2) == (), "a thought that is over at once saves nothing"


def test_what_is_not_seen_any_more_fades() -> None:
    memory = trained(["memory"], times=50)
    for _ in range(60):
        memory = foresight.learn(memory, case(), ["disks"], ended=True)
    assert names(case(), memory, k=1) == ["disks"]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_memory_is_bounded_and_saved_as_it_is(seed: int) -> None:
    draw = random.Random(seed)
    memory = Foresight()
    for n in range(60):
        place = case(f"t.knob{draw.randrange(60)}", f"app.m{draw.randrange(9)}", f"rule{n % 80}")
        words = [f"unit unit=u{draw.randrange(400)}.service" for _ in range(draw.randrange(70))]
        memory = foresight.learn(memory, place, words, ended=draw.random() < 0.8)
    assert len(memory.contexts) <= CONTEXTS
    assert max(len(counts) for counts in memory.contexts.values()) <= SYMBOLS
    assert msgspec.json.decode(msgspec.json.encode(memory), type=Foresight) == memory
