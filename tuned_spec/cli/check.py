"""`check`: policy files, all problems at once, or what they come to on this host."""

from __future__ import annotations

import argparse
import pwd
from collections.abc import Iterator
from pathlib import Path

from tuned_spec import paths
from tuned_spec.cli import show
from tuned_spec.cli.catalogue import Host
from tuned_spec.errors import PolicyError
from tuned_spec.knobs.adapters import Availability
from tuned_spec.knobs.facts import host_facts
from tuned_spec.model import Condition, Knob, Policy, entry_of
from tuned_spec.policy.load import Loaded, load
from tuned_spec.sense import metrics
from tuned_spec.sense.sensor import Sense
from tuned_spec.speculate.rules import inert
from tuned_spec.speculate.templates import instantiate, is_glob, is_template


def main(args: argparse.Namespace) -> int:
    host = Host(args.root)
    try:
        loaded = load_policy([*args.policies, *args.policy] or ["default"], host, args)
    except PolicyError as error:
        return problems(error, args.json, "check")
    policy = loaded.policy
    sleeping = asleep(policy, host, args.root)
    named = {limit.knob for limit in policy.limits} | {a.knob for r in policy.rules for a in r.do}
    limited = sorted(name for name in named if not _is_many(host.knobs[name]))
    missing = [(name, there.why) for name in limited if not (there := _there(host, name)).writable]
    if args.json:
        show.json_out(
            {
                "v": 1,
                "command": "check",
                "ok": True,
                "files": [str(f) for f in loaded.files],
                "policy": policy,
                "values": {
                    key: {"text": loaded.texts[key], "from": loaded.origins[key]} for key in loaded.origins
                },
                "inert": [{"rule": rule, "reason": reason} for rule, reason in sleeping],
                "unavailable": [{"knob": knob, "why": why} for knob, why in missing],
            }
        )
        return 0
    count = show.count(len(policy.rules), "rule") + (
        f" and {show.count(len(policy.climbs), 'search', 'searches')}" if policy.climbs else ""
    )
    print(f"{' + '.join(policy.names)}: {count}, mode {policy.mode.value}, no problems")
    print("".join(f"  {path}\n" for path in loaded.files))
    print(show.table(merged(loaded), ("KEY", "FROM", "VALUE")))
    if sleeping:
        print(f"\n{show.heading('inert on this host')}")
        print(show.table(sleeping, ("RULE", "WHY"), indent=2))
    if missing:
        print(f"\n{show.heading('knobs that cannot be written here')}")
        print(show.table(missing, ("KNOB", "WHY"), indent=2))
    return 0


def problems(error: PolicyError, json: bool, command: str) -> int:
    """Shows them all; the exit code."""
    if json:
        show.json_out({"v": 1, "command": command, "ok": False, "problems": error.problems})
    else:
        print(error)
        count = len(error.problems)
        print(f"\n{count} problem{'s' if count > 1 else ''}; nothing would be run")
    return error.exit_code


def load_policy(names: list[str], host: Host, args: argparse.Namespace) -> Loaded:
    """As the daemon loads it. Raises PolicyError with every problem."""
    return load(
        names,
        shipped=paths.shipped_policies(),
        dropins=args.root / paths.DROPINS.relative_to("/"),
        catalogue=host.knobs,
        metrics=metrics.known,
        uid_of=lambda user: int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid,
        facts=host_facts(args.root),
        sensed={name: metric.per for name, metric in metrics.METRICS.items()},
    )


def asleep(policy: Policy, host: Host, root: Path) -> list[tuple[str, str]]:
    """Rules and searches that can do nothing on this host, which lacks a metric or a knob: (id, reason)."""
    rules = instantiate(policy.rules, host.knobs.instances)
    knobs = {action.knob for rule in rules for action in rule.do}
    knobs |= {span.knob for climb in policy.climbs for span in climb.spans}
    sense = Sense(root, policy.cgroups, frozenset(_metrics(policy)))
    try:
        absent = sense.absent()
    finally:
        sense.close()
    unwritable = {name: there.why for name in knobs if not (there := _there(host, name)).writable}
    made = {entry_of(rule.id) for rule in rules}
    nowhere = [
        (rule.id, f"nothing here is {' and '.join(action.knob for action in rule.do)}")
        for rule in policy.rules
        if is_template(rule) and rule.id not in made
    ]
    gone = {**absent, **unwritable}
    needs = {c.id: dict.fromkeys([c.expect.metric, *(span.knob for span in c.spans)]) for c in policy.climbs}
    searches = [
        (id, "; ".join(f"{name}: {gone[name]}" for name in names if name in gone))
        for id, names in needs.items()
        if names.keys() & gone.keys()
    ]
    return inert(rules, gone) + nowhere + searches


def _is_many(knob: Knob) -> bool:
    """A template or a glob over its instances: what a rule makes of it is said of the rule."""
    return bool(knob.per) and (not knob.instance or is_glob(knob.id))


def _there(host: Host, name: str) -> Availability:
    return host.live(host.knobs[name]).availability


def _metrics(policy: Policy) -> Iterator[str]:
    yield from (climb.expect.metric for climb in policy.climbs)
    for rule in policy.rules:
        yield rule.expect.metric
        yield from (guard.metric for guard in rule.guard)
        for condition in rule.when:
            link: Condition | None = condition
            while link:
                yield link.metric
                link = link.fallback


def merged(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Each value with the line that gave it; files by their names, which are listed above in full."""
    short = {str(path): path.name for path in loaded.files}
    rows = []
    for key, text in loaded.texts.items():
        file, colon, line = loaded.origins[key].rpartition(":")
        rows.append((key, f"{short.get(file, file)}{colon}{line}", text))
    return rows
