"""Rules with a glob: one guess, made for each disk, cgroup or NIC that this host has now. Pure.

`block.read_ahead_kb@nvme*` in a rule's `do` makes it a template. Every glob in it, in knobs and in metrics
(`disk.read_share@*`), binds to the same instance; the rule of an instance is named after it: `rule@nvme0n1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tuned_spec import globs
from tuned_spec.model import Condition, Rule

MOST = 256  # rules that one template makes: each is looked at with every observation

replace = msgspec.structs.replace


def is_glob(name: str) -> bool:
    """Of `ENTRY@INSTANCE`; a selector of tasks is no glob, whatever it matches."""
    instance = name.partition("@")[2]
    return not instance.startswith(("exe=", "cgroup=")) and globs.is_glob(instance)


def is_template(rule: Rule) -> bool:
    return any(is_glob(action.knob) for action in rule.do)


def instantiate(rules: Iterable[Rule], instances: Callable[[str], tuple[str, ...]]) -> tuple[Rule, ...]:
    """The rules with every template replaced by those of its instances, at most MOST, in order.

    `instances` gives what `ENTRY@GLOB` means now. A template of several knobs is made for the instances
    that all of them have.
    """
    made: list[Rule] = []
    for rule in rules:
        patterns = [action.knob for action in rule.do if is_glob(action.knob)]
        if not patterns:
            made.append(rule)
            continue
        names = list(instances(patterns[0]))
        for other in patterns[1:]:
            also = set(instances(other))
            names = [name for name in names if name in also]
        made += [bind(rule, name) for name in names[:MOST]]
    return tuple(made)


def bind(rule: Rule, instance: str) -> Rule:
    """The rule for one instance."""

    def named(name: str) -> str:
        return f"{name.partition('@')[0]}@{instance}" if is_glob(name) else name

    def condition(one: Condition) -> Condition:
        fallback = condition(one.fallback) if one.fallback else None
        return replace(one, metric=named(one.metric), fallback=fallback)

    return replace(
        rule,
        id=f"{rule.id}@{instance}",
        when=tuple(condition(one) for one in rule.when),
        do=tuple(replace(action, knob=named(action.knob)) for action in rule.do),
        expect=replace(rule.expect, metric=named(rule.expect.metric)),
        guard=tuple(replace(guard, metric=named(guard.metric)) for guard in rule.guard),
    )
