"""The policies that come with the package, against the catalogue and the metrics that come with it."""

from __future__ import annotations

import re

import pytest

from tests.policy.catalogue import FACTS
from tuned_spec import windows
from tuned_spec.daemon.needs import wanted_metrics
from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Climb, Knob, KnobType, Mode, Risk, Rule, entry_of
from tuned_spec.paths import shipped_policies
from tuned_spec.policy.load import Loaded, load
from tuned_spec.policy.replay import Paper
from tuned_spec.speculate import selection

catalogue = pytest.importorskip("tuned_spec.knobs.catalogue", reason="the catalogue is not there")
metrics = pytest.importorskip("tuned_spec.sense.metrics", reason="the table of metrics is not there")

SHIPPED = sorted(path.stem for path in shipped_policies().glob("*.yaml"))
USERS = {"www-data": 33, "root": 0}
BY_HAND = "-by-hand"  # of rules that only say what a person might do
BIG = {"page": 65536.0, "ram": 2.0 * (1 << 40), "cpus": 256.0, "line_rate": 12.5e9}
SMALL = {"page": 4096.0, "ram": 256.0 * (1 << 20), "cpus": 1.0}


def shipped(*names: str, facts: Facts = FACTS) -> Loaded:
    return load(
        names,
        shipped=shipped_policies(),
        dropins=None,
        catalogue=Paper(catalogue.load(), facts),
        metrics=metrics.known,
        uid_of=USERS.__getitem__,
        facts=facts,
        sensed={name: metric.per for name, metric in metrics.METRICS.items()},
    )


def test_the_nine_are_there() -> None:
    assert set(SHIPPED) == {
        *("default", "web", "database", "batch", "network-server", "file-server"),
        *("desktop", "virtualisation-host", "low-latency"),
    }


@pytest.mark.parametrize("facts", [FACTS, BIG, SMALL], ids=["usual", "big", "small"])
@pytest.mark.parametrize("name", SHIPPED)
def test_each_loads_on_hosts_of_any_size_alone_and_beside_the_default(name: str, facts: Facts) -> None:
    alone = shipped(name, facts=facts).policy
    assert alone.rules and alone.mode is Mode.LOSSY
    beside = {rule.id for rule in shipped("default", name, facts=facts).policy.rules}
    assert {rule.id for rule in alone.rules} <= beside


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_is_careful(name: str) -> None:
    policy, knobs = shipped(name).policy, Paper(catalogue.load(), FACTS)
    limited = {limit.knob for limit in policy.limits}
    for rule in policy.rules:
        assert rule.guard, rule.id
        assert rule.cooldown_s >= 60, rule.id
        assert windows.of(rule, knobs).pairs >= windows.LEAST_PAIRS, rule.id
        assert all(condition.for_s > 0 for condition in rule.when), rule.id
        risks = {knobs[action.knob].risk for action in rule.do}
        assert (Risk.HIGH in risks) == rule.id.endswith(BY_HAND), rule.id
        for action in rule.do:
            knob: Knob = knobs[action.knob]
            free = knob.type in (KnobType.BOOL, KnobType.CPUMASK)
            assert free or entry_of(action.knob) in limited, f"{rule.id}: {action.knob}"
    for climb in policy.climbs:
        assert climb.guard and climb.source, climb.id


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_is_worth_a_first_trial(name: str) -> None:
    """By its own words, before anything is on record; a rule that never is could as well not be there."""
    knobs = Paper(catalogue.load(), FACTS)
    for rule in shipped(name).policy.rules:
        guess = selection.candidate(rule, knobs)
        chosen = selection.choose([guess], selection.Record(), None, 0.0, 1)
        assert (chosen.launch == ()) == rule.id.endswith(BY_HAND), chosen.skip


@pytest.mark.parametrize("name", SHIPPED)
def test_every_source_is_a_document(name: str) -> None:
    """Of the kernel, a manual page, an RFC, a paper, or a peer's published rule."""
    policy = shipped(name).policy
    guesses: list[Rule | Climb] = [*policy.rules, *policy.climbs]
    for guess in guesses:
        documents = (
            r"Documentation/|RFC \d|\w\(\d\)|bpftune, |TuneD, |senpai|ACM Queue|arXiv|kernel/|kernel, mm/"
        )
        assert re.search(documents, guess.source), guess.id


@pytest.mark.parametrize("name", SHIPPED)
def test_limits_that_are_set_go_with_a_rule_or_a_search(name: str) -> None:
    policy = shipped(name).policy
    moved = {entry_of(a.knob) for rule in policy.rules for a in rule.do}
    moved |= {entry_of(span.knob) for climb in policy.climbs for span in climb.spans}
    assert {limit.knob for limit in policy.limits} <= moved


def test_the_default_policy_is_cheap() -> None:
    """No figure of single sockets, cgroups, devices or performance counters: those cost the most."""
    wanted = wanted_metrics(shipped("default").policy)
    dear = [m for m in wanted if "@" in m or m.startswith(("sock.", "cgroup."))]
    assert not dear and not wanted & {"cpu.ipc", "cpu.migrations_per_s"}


def test_the_default_policy_needs_no_program_to_report_and_no_psi() -> None:
    for rule in shipped("default").policy.rules:
        for condition in rule.when:
            last = condition
            while last.fallback is not None:
                last = last.fallback
            assert not last.metric.startswith(("app.", "psi.")), rule.id
        assert not rule.expect.metric.startswith("app."), rule.id
