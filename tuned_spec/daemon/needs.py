"""What a policy needs of the senses: which metrics are read, and where pressure triggers are armed.

Pure: knows rules, not files.
"""

from __future__ import annotations

from tuned_spec.model import Condition, Policy
from tuned_spec.speculate import signature
from tuned_spec.speculate.climb import as_rule
from tuned_spec.speculate.rules import metrics as metrics_of


def wanted_metrics(policy: Policy) -> frozenset[str]:
    """What rules and searches read, and what workloads are known by: nothing else is sensed but the pace."""
    searched = (as_rule(climb) for climb in policy.climbs)
    return signature.NEEDS | {name for rule in (*policy.rules, *searched) for name in metrics_of(rule)}


def pressure_levels(policy: Policy) -> dict[str, float]:
    """Pressure metric -> the lowest level that a rule waits for: where its trigger is armed."""
    levels: dict[str, float] = {}
    for rule in policy.rules:
        for first in rule.when:
            condition: Condition | None = first
            while condition is not None:
                if "psi." in condition.metric and "avg10" not in condition.metric and condition.op == ">":
                    before = levels.get(condition.metric, condition.level)
                    levels[condition.metric] = min(before, condition.level)
                condition = condition.fallback
    return levels
