"""Templates: one rule for each instance, every glob of it bound to the same one."""

from __future__ import annotations

import pytest

from tuned_spec.model import Action, Condition, Expect, Guard, Op, Rule, Way
from tuned_spec.speculate.templates import MOST, instantiate, is_glob

HERE = {"block.read_ahead_kb@*": ("nvme0n1", "vda"), "block.nr_requests@*": ("vda",)}


def template(*knobs: str) -> Rule:
    return Rule(
        id="ahead",
        when=(
            Condition("disk.read_share@*", ">", 0.8, 0.5, fallback=Condition("disk.util@*", ">", 0.5, 0.2)),
        ),
        do=tuple(Action(knob, Op.SET, 128) for knob in knobs),
        expect=Expect("disk.read_ms@*", Way.DOWN),
        guard=(Guard("cpu.busy", Way.DOWN), Guard("disk.write_ms@*", Way.DOWN)),
        reason="r",
        source="s",
    )


def test_each_instance_gets_a_rule_whose_globs_are_its_own() -> None:
    first, second = instantiate([template("block.read_ahead_kb@*")], HERE.__getitem__)
    assert (first.id, second.id) == ("ahead@nvme0n1", "ahead@vda")
    assert second.do[0].knob == "block.read_ahead_kb@vda"
    (condition,) = second.when
    assert condition.metric == "disk.read_share@vda"
    assert condition.fallback is not None and condition.fallback.metric == "disk.util@vda"
    assert second.expect.metric == "disk.read_ms@vda"
    assert [guard.metric for guard in second.guard] == ["cpu.busy", "disk.write_ms@vda"]


def test_a_rule_of_two_knobs_is_made_where_both_are() -> None:
    (only,) = instantiate([template("block.read_ahead_kb@*", "block.nr_requests@*")], HERE.__getitem__)
    assert only.id == "ahead@vda"


def test_a_rule_without_globs_is_itself() -> None:
    rule = template("block.read_ahead_kb@vda")
    assert instantiate([rule], HERE.__getitem__) == (rule,)


def test_a_template_makes_a_bounded_number_of_rules() -> None:
    many = tuple(f"d{n}" for n in range(MOST + 5))
    assert len(instantiate([template("block.read_ahead_kb@*")], lambda _: many)) == MOST


@pytest.mark.parametrize(
    ("name", "glob"),
    [
        ("task.nice@exe=redis*", False),
        ("task.nice@cgroup=a.slice/*", False),
        ("net.ipv4.tcp_rmem@netns=*", True),
        ("cgroup.memory.high@system.slice/*.service", True),
        ("vm.swappiness", False),
        ("block.read_ahead_kb@vda", False),
    ],
)
def test_a_selector_of_tasks_is_no_glob(name: str, glob: bool) -> None:
    assert is_glob(name) is glob
