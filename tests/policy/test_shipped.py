"""The policies that come with the package, against the catalogue and the metrics that come with it."""

from __future__ import annotations

import pytest

from tests.policy.catalogue import FACTS
from tuned_spec import windows
from tuned_spec.model import Knob, KnobType, Mode, Risk
from tuned_spec.paths import shipped_policies
from tuned_spec.policy.load import Loaded, load

catalogue = pytest.importorskip("tuned_spec.knobs.catalogue", reason="the catalogue is not there")
metrics = pytest.importorskip("tuned_spec.sense.metrics", reason="the table of metrics is not there")

SHIPPED = ("default", "web")
USERS = {"www-data": 33}


def shipped(*names: str) -> Loaded:
    return load(
        names,
        shipped=shipped_policies(),
        dropins=None,
        catalogue=catalogue.load(),
        metrics=metrics.known,
        uid_of=USERS.__getitem__,
        facts=FACTS,
        sensed={name: metric.per for name, metric in metrics.METRICS.items()},
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_each_loads_against_the_real_catalogue_and_metrics(name: str) -> None:
    assert shipped(name).policy.rules


def test_together_they_load_too() -> None:
    policy = shipped("default", "web").policy
    assert policy.mode is Mode.LOSSY


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_is_careful(name: str) -> None:
    policy, knobs = shipped(name).policy, catalogue.load()
    limited = {limit.knob for limit in policy.limits}
    for rule in policy.rules:
        assert rule.guard, rule.id
        assert rule.cooldown_s >= 60, rule.id
        assert windows.of(rule, knobs).pairs >= windows.LEAST_PAIRS, rule.id
        assert all(condition.for_s > 0 for condition in rule.when), rule.id
        for action in rule.do:
            knob: Knob = knobs[action.knob]
            assert knob.risk is not Risk.HIGH, rule.id
            assert knob.type is KnobType.BOOL or action.knob in limited, f"{rule.id}: {action.knob}"


def test_the_default_policy_needs_no_program_to_report_and_no_psi() -> None:
    for rule in shipped("default").policy.rules:
        for condition in rule.when:
            last = condition
            while last.fallback is not None:
                last = last.fallback
            assert not last.metric.startswith(("app.", "psi.")), rule.id
        assert not rule.expect.metric.startswith("app."), rule.id
