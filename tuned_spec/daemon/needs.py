"""What a policy needs: which metrics are read, where pressure triggers are armed, what the lookout hears.

Pure: knows rules, not files.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuned_spec.engine.suggesting import judged_by
from tuned_spec.model import Condition, Knob, Policy, entry_of
from tuned_spec.speculate import signature
from tuned_spec.speculate.climb import as_rule
from tuned_spec.speculate.rules import metrics as metrics_of


def wanted_metrics(policy: Policy) -> frozenset[str]:
    """What rules, searches and a model's proposals go by, and what workloads are known by: nothing else is
    sensed but the pace."""
    searched = (as_rule(climb) for climb in policy.climbs)
    names = {name for rule in (*policy.rules, *searched) for name in metrics_of(rule)}
    if policy.suggest is not None:
        names.update(judged_by(policy.suggest))
    return signature.NEEDS | names


def pressure_levels(policy: Policy) -> dict[str, float]:
    """Pressure metric -> the lowest level that a rule waits for: where its trigger is armed."""
    levels: dict[str, float] = {}
    for rule in policy.rules:
        for first in rule.when:
            condition: Condition | None = first
            while condition is not None:
                metric = condition.metric.partition("@")[0]  # an instance may be called anything
                if "psi." in metric and "avg10" not in metric and condition.op == ">":
                    before = levels.get(condition.metric, condition.level)
                    levels[condition.metric] = min(before, condition.level)
                condition = condition.fallback
    return levels


# what there is one knob of each of -> the lookout's ear for their coming and going
EARS = {"task": "tasks"}


def ears(policy: Policy, catalogue: Mapping[str, Knob]) -> tuple[str, ...]:
    """What the lookout must hear for this policy's knobs; none: it need not run."""
    knobs = {entry_of(action.knob) for rule in policy.rules for action in rule.do}
    return tuple(sorted({EARS[per] for knob in knobs if (per := catalogue[knob].per) in EARS}))
