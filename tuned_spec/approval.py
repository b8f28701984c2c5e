"""Whose yes a change needs: which ones a person is asked about, and when.

Pure questions to a policy's `approval:` section. Must not know how a person is asked or what an answer does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tuned_spec.globs import matches
from tuned_spec.model import Approval, Asking, Knob, Risk, entry_of

RISKS = (Risk.LOW, Risk.MEDIUM, Risk.HIGH)


def needed(
    approval: Approval, rules: Collection[str], knobs: Collection[str], catalogue: Mapping[str, Knob]
) -> bool:
    """Whether a change of these knobs, that comes of these rules, waits for a person."""
    if any(entry_of(rule) in approval.rules for rule in rules):
        return True
    return any(_named(approval, name) or _risky(approval, catalogue[name]) for name in knobs)


def before(approval: Approval, knobs: Collection[str], catalogue: Mapping[str, Knob]) -> bool:
    """Whether they are asked before anything is written: of high risk always."""
    return approval.ask is Asking.BEFORE_TRIAL or any(catalogue[name].risk is Risk.HIGH for name in knobs)


def _named(approval: Approval, knob: str) -> bool:
    return any(matches(glob, name) for glob in approval.knobs for name in (knob, entry_of(knob)))


def _risky(approval: Approval, knob: Knob) -> bool:
    return approval.risk is not None and RISKS.index(knob.risk) >= RISKS.index(approval.risk)
