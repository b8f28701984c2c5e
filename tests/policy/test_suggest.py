"""`suggest`: what a model may propose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.world import knob
from tests.policy.test_load import loaded, problems
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.model import Expect, Guard, KnobType, Risk, Suggest, Way
from tuned_spec.speculate.options import MOST_OPTIONS, entries, may_offer, meant

GOOD = """\
version: 1
metrics: {app.p95_ms: {owner: root}}
suggest:
  knobs: [vm.swappiness, net.ipv4.tcp_*]
  expect: [app.p95_ms falls by 10%, cpu.busy falls]
  guard: [cpu.busy may rise 20%]
  every: 2m
"""


def test_a_section_is_read_and_each_value_has_its_place(tmp_path: Path) -> None:
    found = loaded(tmp_path, GOOD)
    assert found.policy.suggest == Suggest(
        knobs=("vm.swappiness", "net.ipv4.tcp_*"),
        expect=(Expect("app.p95_ms", Way.DOWN, 0.1), Expect("cpu.busy", Way.DOWN)),
        guard=(Guard("cpu.busy", Way.DOWN, 0.2),),
        every_s=120.0,
        origin=f"{tmp_path}/p.yaml:4",
    )
    assert found.texts["suggest.every"] == "2m" and found.origins["suggest.every"].endswith("p.yaml:7")


def test_without_one_a_model_is_not_asked(tmp_path: Path) -> None:
    assert loaded(tmp_path, "version: 1").policy.suggest is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "[vm.swappiness, net.ipv4.tcp_*]",
            "[vm.nowhere*]",
            "p.yaml:4: suggest.knobs[0]: 'vm.nowhere*' means no",
        ),
        ("[vm.swappiness, net.ipv4.tcp_*]", "[]", "is an empty list"),
        ("[vm.swappiness, net.ipv4.tcp_*]", "vm.swappiness", "is not a list"),
        ("every: 2m", "every: 1s", "p.yaml:7: suggest.every: 1s is too often; write 10s or more"),
        ("every: 2m", "evry: 2m", "did you mean every?"),
        ("app.p95_ms falls by 10%", "app.p99_ms falls by 10%", "has no owner"),
        ("cpu.busy may rise 20%", "cpu.bsy may rise 20%", "unknown metric"),
        ("cpu.busy may rise 20%", "cpu.busy must not", "is not a guard"),
        ("  expect: [app.p95_ms falls by 10%, cpu.busy falls]\n", "", "suggest.expect: is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert any(said in problem for problem in problems(tmp_path, GOOD.replace(old, new)))


def test_what_no_model_may_touch_is_never_offered() -> None:
    assert may_offer(knob("a"))
    for facts in (
        {"risk": Risk.HIGH},
        {"irreversible_when": "set to 1"},
        {"stateless": True},
        {"per": "task"},
        {"type": KnobType.WORDS},
        {"type": KnobType.CHOICE},
    ):
        assert not may_offer(knob("a", **facts)), facts


def test_patterns_mean_entries_and_their_instances() -> None:
    catalogue = {
        k.id: k for k in (knob("a.x"), knob("a.y"), knob("b.x", per="disk"), knob("b.y", per="disk"))
    }

    def instances(name: str) -> tuple[str, ...]:
        assert name in ("b.x@s*", "b.y@s*")
        return ("sda", "sdb")

    assert entries("*", catalogue) == ("a.x", "a.y") and entries("b.x", catalogue) == ()
    assert meant(["a.y", "b.*@s*", "a.*"], catalogue, instances) == (
        *("a.y", "b.x@sda", "b.x@sdb", "b.y@sda", "b.y@sdb", "a.x"),
    )


def test_the_real_catalogue_offers_no_high_risk(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    offered = [catalogue[name] for pattern in ("**", "**@*") for name in entries(pattern, catalogue)]
    assert len(offered) > MOST_OPTIONS, "so that `**` has to be refused"
    assert not [k.id for k in offered if k.risk is Risk.HIGH or k.per == "task"]
