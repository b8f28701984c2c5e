"""`knobs`: the catalogue on this host, or as a page."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase

from tuned_spec import globs
from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host, Live, bounds, text, unit
from tuned_spec.cli.sysctl_d import Owners
from tuned_spec.knobs.catalogue import load
from tuned_spec.ledger import repair
from tuned_spec.model import Knob
from tuned_spec.report.knobs import page

NO_MATCH = 1


def main(args: argparse.Namespace) -> int:
    if args.markdown:
        print(page(load()), end="")
        return 0
    host = Host(args.root)
    shown, damage = matching(args.pattern or "", host, args)
    if args.json:
        document = [told(*one) for one in shown]
        show.json_out({"v": 1, "command": "knobs", "knobs": document})
        return 0 if shown else NO_MATCH
    if not shown:
        print(f"no knob matches {args.pattern}; `tuned-spec knobs` lists all {len(host.knobs)}")
        return NO_MATCH
    head = ("KNOB", "VALUE", "RANGE", "RISK", "OWNER")
    print(show.table([_row(*one) for one in shown], head))
    for line in damage:
        print(show.wrapped(f"owners may be missing: {line}", 2))
    return 0


def matching(
    pattern: str, host: Host, args: argparse.Namespace
) -> tuple[list[tuple[Knob, Live, str]], list[str]]:
    """The knobs here whose ids contain or match the pattern, each as it is and whose it is; and what of the
    journal cannot be trusted."""
    owners = Owners(args.root)
    rows, damage = live.undo_rows(args.runtime_dir)
    ours = {
        row.knob: row for row in rows if row.status in ("open", "held") and row.boot_id == repair.boot_id()
    }
    shown = []
    knobs = {knob.id: knob for entry in host.knobs.values() for knob in host.here(entry)}
    if pattern.partition("@")[0] in host.knobs:  # asked for by name: other network namespaces, too
        entry = pattern.partition("@")[0]
        knobs |= {id: host.knobs[id] for name in host.knobs.instances(pattern) if (id := f"{entry}@{name}")}
        if "@" in pattern and not globs.is_glob(pattern) and pattern in host.knobs:
            knobs[pattern] = host.knobs[pattern]  # a loop device, a program: named, though not for a glob
    # What is never enumerated (tasks), or went away since, is still in the journal.
    knobs |= {id: host.knobs[id] for id in ours if id in host.knobs}
    for id, knob in sorted(knobs.items()):
        if pattern not in id and not fnmatchcase(id, pattern):
            continue
        here, setting = host.live(knob), owners.of(knob)
        owner = f"tuned-spec ({ours[id].rule})" if id in ours else ""
        if not owner and setting:
            owner = f"{setting.file}:{setting.line}"
        shown.append((knob, here, owner))
    return shown, damage


def told(knob: Knob, here: Live, owner: str) -> dict[str, object]:
    """Every field of the entry, and what this host shows."""
    fields = {name: getattr(knob, name) for name in knob.__struct_fields__ if name != "id"}
    return {
        "knob": knob.id,
        "value": here.value,
        "present": here.availability.present,
        "writable": here.availability.writable,
        "why": here.why,
        "owner": owner,
        **fields,
    }


def _row(knob: Knob, here: Live, owner: str) -> tuple[str, ...]:
    there = here.availability
    missing = "(none here)" if knob.per and not knob.instance else "(absent)"
    if knob.per == "task" and not knob.instance:
        missing = "(by name)"  # of programs or cgroups: tasks are not listed
    value = text(here.value) if there.present else missing
    locked = "" if there.writable or not there.present else " (read-only)"
    return (knob.id, value + locked, bounds(knob) + unit(knob), knob.risk.value, owner or "-")
