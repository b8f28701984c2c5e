"""`record`: what this host does, as a trace that `policy test` can replay. Needs no daemon and no root."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tuned_spec.cli import show
from tuned_spec.cli.catalogue import Host
from tuned_spec.errors import UsageError
from tuned_spec.globs import matches
from tuned_spec.knobs.facts import host_facts
from tuned_spec.model import Value
from tuned_spec.sense import metrics
from tuned_spec.sense.metrics import METRICS, PER
from tuned_spec.sense.sensor import MIN_WINDOW_S, Sense
from tuned_spec.sense.trace import VERSION, Header, Writer

LONGEST_S = 7 * 86400.0
KEPT = (
    "",
    "disk",
    "cpu",
    "hugepage",
)  # knobs of these are in the trace: their names tell nothing about the host


def main(args: argparse.Namespace) -> int:
    for_s = show.seconds(args.for_s, "--for")
    interval_s = show.seconds(args.interval, "--interval")
    if not MIN_WINDOW_S <= interval_s <= for_s <= LONGEST_S:
        raise UsageError(
            f"--interval {args.interval}, --for {args.for_s}: an interval lasts at least {MIN_WINDOW_S:g} s "
            "and no longer than the recording, and that at most a week"
        )
    wanted = chosen([glob for text in args.metrics or ["*"] for glob in text.split(",")])
    path = Path(args.file)
    sense = Sense(args.root, wanted=wanted)
    try:
        missing = sense.absent()
        header = Header(
            version=VERSION,
            kernel=os.uname().release,
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            interval_s=interval_s,
            metrics=tuple(sorted(wanted - missing.keys())),
            note=args.note or "",
            facts=host_facts(args.root),
            knobs=knobs_now(Host(args.root)),
        )
        with Writer(path, header) as writer:
            count = _record(sense, writer, for_s, interval_s)
    finally:
        sense.close()
    document = {"file": str(path), "observations": count, "metrics": header.metrics, "absent": missing}
    if args.json:
        show.json_out({"v": 1, "command": "record", **document})
        return 0
    what = f"{show.count(count, 'observation')} of {show.count(len(header.metrics), 'metric')}"
    print(f"{path}: {what}, {path.stat().st_size} bytes")
    if missing:
        print(f"{len(missing)} absent on this host: {', '.join(missing)}")
    return 0


def chosen(globs: list[str]) -> frozenset[str]:
    """The metrics that these name: `*` and `?` in a name choose among the plain ones, and what stands behind
    an "@" is taken as it is. Raises UsageError for a name that chooses nothing."""
    wanted: set[str] = set()
    for glob in globs:
        base, at, instance = glob.partition("@")
        bases = [name for name in METRICS if matches(base, name)]
        found = [name + at + instance for name in bases if metrics.known(name + at + instance)]
        if not found:
            if base.startswith("app."):
                hint = "programs report it to the daemon, and a trace is only of what the kernel tells"
                raise UsageError(f"--metrics {glob}: {hint}")
            needs = ", ".join(sorted({PER[METRICS[name].per][1] for name in bases}))
            hint = f"say which, `{glob}@` and {needs}" if bases else "docs/metrics.md lists all"
            raise UsageError(f"--metrics {glob}: no metric of such a name; {hint}")
        wanted.update(found)
    return frozenset(wanted)


def knobs_now(host: Host) -> dict[str, Value]:
    """What stands in every knob that can be read, of the kinds whose names are no secret."""
    found: dict[str, Value] = {}
    for entry in host.knobs.values():
        if entry.per in KEPT:
            lives = {knob.id: host.live(knob).value for knob in host.here(entry)}
            found |= {name: value for name, value in lives.items() if value is not None}
    return found


def _record(sense: Sense, writer: Writer, for_s: float, interval_s: float) -> int:
    """One observation an interval, the first when there are rates; ^C ends it early, and well."""
    start = time.clock_gettime(time.CLOCK_BOOTTIME)
    sense.observe(start)
    count = 0
    try:
        while count < int(for_s / interval_s + 1e-9):
            due = start + (count + 1) * interval_s
            time.sleep(max(0.0, due - time.clock_gettime(time.CLOCK_BOOTTIME)))
            observation = sense.observe(time.clock_gettime(time.CLOCK_BOOTTIME))
            writer.write(observation)
            count += 1
    except KeyboardInterrupt:
        pass
    return count
