"""`knobs`: the catalogue on this host."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase

from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host, Live, bounds, text
from tuned_spec.cli.sysctl_d import Owners
from tuned_spec.ledger import repair
from tuned_spec.model import Knob

NO_MATCH = 1


def main(args: argparse.Namespace) -> int:
    host, owners = Host(args.root), Owners(args.root)
    rows, damage = live.undo_rows(args.runtime_dir)
    ours = {
        row.knob: row for row in rows if row.status in ("open", "held") and row.boot_id == repair.boot_id()
    }
    pattern = args.pattern or ""
    shown = []
    for name, knob in sorted(host.knobs.items()):
        if pattern not in name and not fnmatchcase(name, pattern):
            continue
        here, setting = host.live(knob), owners.of(knob)
        owner = f"tuned-spec ({ours[name].rule})" if name in ours else ""
        if not owner and setting:
            owner = f"{setting.file}:{setting.line}"
        shown.append((knob, here, owner))
    if args.json:
        document = [
            {
                "knob": knob.id,
                "value": here.value,
                "low": knob.low,
                "high": knob.high,
                "choices": knob.choices,
                "unit": knob.unit,
                "risk": knob.risk,
                "present": here.availability.present,
                "writable": here.availability.writable,
                "why": here.why,
                "owner": owner,
                "summary": knob.summary,
                "source": knob.source,
            }
            for knob, here, owner in shown
        ]
        show.json_out({"v": 1, "command": "knobs", "knobs": document})
        return 0 if shown else NO_MATCH
    if not shown:
        print(f"no knob matches {pattern}; `tuned-spec knobs` lists all {len(host.knobs)}")
        return NO_MATCH
    head = ("KNOB", "VALUE", "RANGE", "RISK", "OWNER")
    print(show.table([_row(*one) for one in shown], head))
    for line in damage:
        print(show.wrapped(f"owners may be missing: {line}", 2))
    return 0


def _row(knob: Knob, here: Live, owner: str) -> tuple[str, ...]:
    there = here.availability
    value = text(here.value) if there.present else "(absent)"
    locked = "" if there.writable or not there.present else " (read-only)"
    unit = "" if knob.choices or knob.type == "bool" else " " + knob.unit.partition(" (")[0]
    return (knob.id, value + locked, bounds(knob) + unit, knob.risk.value, owner or "-")
