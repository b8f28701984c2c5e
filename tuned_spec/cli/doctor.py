"""`doctor`: what this host offers, who else tunes it, and what to do about it.

Each check gives findings; a finding that is not ok says what to do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host
from tuned_spec.cli.check import asleep, load_policy
from tuned_spec.cli.sysctl_d import Owners
from tuned_spec.errors import JournalError, PolicyError
from tuned_spec.ledger import repair
from tuned_spec.ledger.history import read
from tuned_spec.model import Frozen, entry_of
from tuned_spec.sense.host import facts, running
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sensor import Sense

PROBLEM_FOUND = 1
CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 21, 24

# Other tuners: what they are called, their process (comm or a word of the command line), their unit.
TUNERS = {
    "TuneD": ("tuned", "tuned.service"),
    "bpftune": ("bpftune", "bpftune.service"),
    "TLP": ("tlp", "tlp.service"),
    "power-profiles-daemon": ("power-profiles-daemon", "power-profiles-daemon.service"),
    "auto-cpufreq": ("auto-cpufreq", "auto-cpufreq.service"),
}
COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


class Finding(Frozen, frozen=True):
    """`level`: ok, note (works with less) or problem (something should be done)."""

    topic: str
    level: str
    what: str
    do: str = ""


def main(args: argparse.Namespace) -> int:
    host = Host(args.root)
    findings = [finding for check in CHECKS for finding in check(host, args)]
    bad = any(f.level == "problem" for f in findings)
    if args.json:
        show.json_out({"v": 1, "command": "doctor", "findings": findings})
        return PROBLEM_FOUND if bad else 0
    rows = []
    for f in findings:
        rows.append((f.level, f.topic, f.what))
        if f.do:
            rows.append(("", "", f"-> {f.do}"))
    for line in show.table(rows).splitlines():
        level = line.split(" ")[0]
        print(show.paint(level, COLOURS.get(level, "dim")) + line[len(level) :])
    return PROBLEM_FOUND if bad else 0


def _privileges(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("user", "ok", "root")
    else:
        what = f"uid {os.geteuid()}: knobs cannot be written, `run` only observes"
        yield Finding("user", "note", what, "run it with sudo to tune")
    held = _capabilities()
    resource = bool(held >> CAP_SYS_RESOURCE & 1)
    if resource:
        yield Finding("CAP_SYS_RESOURCE", "ok", "held: pressure triggers with windows from 500 ms")
    else:
        what = "not held: pressure triggers need windows of 2 s, so a trigger is slower"
        yield Finding(
            "CAP_SYS_RESOURCE", "note", what, "AmbientCapabilities=CAP_SYS_RESOURCE in the service unit"
        )
    if not held >> CAP_SYS_ADMIN & 1:
        what = "not held: other writers are found by comparing each tick, not at once, and without their name"
        yield Finding("CAP_SYS_ADMIN", "note", what, "run as root, outside of a restricted container")


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _kernel(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    about = facts()
    size = f"{about.cpus} CPUs, {about.memory_bytes / (1 << 30):.1f} GiB, {about.swap_bytes >> 20} MiB swap"
    yield Finding("host", "ok", f"Linux {about.kernel}, {size}")
    for which in ("cpu", "memory", "io"):
        path = args.root / "proc/pressure" / which
        try:
            path.read_text()
            yield Finding(f"PSI {which}", "ok", str(path))
        except OSError as error:
            do = "boot with psi=1 (and a kernel with CONFIG_PSI); rules use their fallback until then"
            yield Finding(f"PSI {which}", "note", f"{path}: {error.strerror}", do)
    if (args.root / "sys/fs/cgroup/cgroup.controllers").exists():
        yield Finding("cgroup v2", "ok", "unified hierarchy at /sys/fs/cgroup")
    elif (args.root / "sys/fs/cgroup/unified/cgroup.procs").exists():
        what = "hybrid: version 2 at /sys/fs/cgroup/unified, controllers bound to version 1"
        yield Finding(
            "cgroup v2",
            "note",
            what,
            "if you want cgroup rules: systemd.unified_cgroup_hierarchy=1 on the kernel command line",
        )
    else:
        do = "mount it (systemd does by itself since v243) if you want rules on the pressure of cgroups"
        yield Finding("cgroup v2", "note", "not mounted", do)
    yield _debugfs(args.root)


def _debugfs(root: Path) -> Finding:
    sched = root / "sys/kernel/debug/sched"
    lockdown = root / "sys/kernel/security/lockdown"
    locked = lockdown.read_text() if lockdown.exists() else ""
    try:
        names = sorted(path.name for path in sched.iterdir())
        (sched / names[0]).read_text()
        return Finding("debugfs sched", "ok", f"{len(names)} files in {sched}")
    except FileNotFoundError:
        do = "mount -t debugfs debugfs /sys/kernel/debug, or do without its scheduler knobs"
        return Finding("debugfs sched", "note", f"{sched} is missing", do)
    except (OSError, IndexError) as error:
        if "[none]" not in locked and "[" in locked:
            mode = locked[locked.index("[") + 1 : locked.index("]")]
            do = "its knobs stay absent until a boot without lockdown (Secure Boot, lockdown=)"
            return Finding("debugfs sched", "note", f"blocked by kernel lockdown ({mode})", do)
        return Finding("debugfs sched", "note", f"{sched}: {error}", "run as root")


def _knobs(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    listed = [entry for _, entry in sorted(host.knobs.items()) if entry.per != "task"]  # those go by name
    knobs = [knob for entry in listed for knob in host.here(entry)]
    probes = {knob.id: host.live(knob).availability for knob in knobs}
    writable = [name for name, there in probes.items() if there.writable]
    yield Finding(
        "knobs", "ok" if writable else "note", f"{len(writable)} of {len(probes)} can be written here"
    )
    reasons: dict[str, list[str]] = {}
    for name, there in probes.items():
        if not there.writable:
            kind = "absent" if not there.present else "read-only"
            reasons.setdefault(kind, []).append(name)
    for kind, names in reasons.items():
        do = "rules on them are inert, others go on; `tuned-spec knobs --json` has each reason"
        yield Finding(f"knobs {kind}", "note", ", ".join(_families(names)), do)


def _families(names: list[str]) -> list[str]:
    """Names, and of three or more in one family how many: `block.bfq.* (9)`."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(entry_of(name).rpartition(".")[0], []).append(name)
    return [
        word
        for family, found in families.items()
        for word in ([f"{family}.* ({len(found)})"] if len(found) > 2 else found)
    ]


def _metrics(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    names = [name if metric.alone else f"{name}@**" for name, metric in METRICS.items()]
    sense = Sense(args.root, wanted=frozenset(names))
    try:
        absent = sense.absent()
    finally:
        sense.close()
    here = sorted(name for name in names if name not in absent)
    families: dict[str, list[str]] = {}
    for name in here:
        families.setdefault(name.partition(".")[0], []).append(name.partition(".")[2])
    for family, names in families.items():
        yield Finding(f"metrics {family}", "ok", " ".join(names))
    by_reason: dict[str, list[str]] = {}
    for name, why in absent.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        yield Finding("metrics absent", "note", f"{' '.join(names)}: {why}", "give rules on them a fallback")


def _rules(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    try:
        names = list(live.last(args.state_dir).policy)
    except JournalError:
        names = []
    try:
        policy = load_policy(names or ["default"], host, args).policy
    except PolicyError as error:
        if names:  # it was run from a file of its own, or has gone since
            what = f"{' + '.join(names)}, the last that ran, is no policy by that name"
            yield Finding("policy", "note", what, "tuned-spec check FILE tells which of its rules are inert")
            return
        do = "tuned-spec check shows all; correct them"
        yield Finding("policy", "problem", f"{len(error.problems)} problems: {error.problems[0]}", do)
        return
    sleeping = asleep(policy, host, args.root)
    for rule, why in sleeping:
        yield Finding(
            "inert rule",
            "note",
            f"{rule}: {why}",
            "nothing breaks; name a fallback or another knob in a drop-in, or disable it",
        )
    if not sleeping:
        what = f"{' + '.join(policy.names)}: none of {len(policy.rules)} rules is inert here"
        yield Finding("policy", "ok", what)


def _tuners(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    found = running({command for command, _unit in TUNERS.values()})
    enabled = _enabled_units()
    quiet = True
    for tuner, (command, unit) in TUNERS.items():
        do = f"let one of the two tune: systemctl disable --now {unit}, or leave its knobs out of your policy"
        pids = [str(pid) for pid, name in found.items() if name == command]
        if pids:
            yield Finding("other tuner", "problem", f"{tuner} is running (process {', '.join(pids)})", do)
        elif unit in enabled:
            yield Finding(
                "other tuner", "note", f"{tuner} is not running, but its unit {unit} is enabled", do
            )
        quiet = quiet and not pids and unit not in enabled
    if quiet:
        yield Finding("other tuners", "ok", f"none of {', '.join(TUNERS)}")


def _enabled_units() -> set[str]:
    """Units of TUNERS that systemd would start; none where there is no systemd."""
    units = [unit for _, unit in TUNERS.values()]
    try:
        done = subprocess.run(
            ["systemctl", "list-unit-files", "--no-legend", "--no-pager", "--state=enabled", *units],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {line.split()[0] for line in done.stdout.splitlines() if line.split()} & set(units)


def _sysctl_files(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    owners = Owners(args.root)
    owned = [(name, setting) for name, knob in sorted(host.knobs.items()) if (setting := owners.of(knob))]
    for name, setting in owned:
        what = f"{name} = {setting.text} in {setting.file}:{setting.line}"
        do = f"if it is a decision, keep it: leave {name} out of your policy; else remove the line"
        yield Finding("sysctl.d", "note", what, do)
    if not owned:
        yield Finding("sysctl.d", "ok", "no file sets a knob of the catalogue")


def _directories(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    for kind, path in (("runtime", args.runtime_dir), ("state", args.state_dir)):
        name, flag = f"{kind} directory", f"--{kind}-dir"
        there = next(p for p in (path, *path.parents) if p.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            what = f"{path} cannot be " + ("written" if there == path else f"made in {there}")
            yield Finding(name, "problem", what, f"run as root, or choose another with {flag}")
            continue
        space = os.statvfs(there)
        free = space.f_bavail * space.f_frsize
        if free < 16 << 20:
            what = f"{path}: {free >> 10} KiB free; without a journal nothing new is written"
            yield Finding(name, "problem", what, "free some space, 16 MiB will do")
        else:
            yield Finding(name, "ok", f"{path}" + ("" if path.exists() else " (will be made)"))
    try:
        last = live.last(args.state_dir)
        count = len(read(args.state_dir, limit=1))
    except JournalError as error:
        yield Finding("history", "problem", *str(error).rpartition("; ")[::2])
    else:
        seen = f"last entry {show.when(last.seen, time.time())}" if last.seen else "no run yet"
        yield Finding("history", "ok", seen if count else "empty")


def _leftovers(host: Host, args: argparse.Namespace) -> Iterator[Finding]:
    args = argparse.Namespace(**vars(args))  # the other checks are of this user's own directories
    live.look(args)
    daemon = live.daemon(args.runtime_dir)
    command = live.command("restore", args.runtime_dir)
    if daemon.state == "running":
        yield Finding("daemon", "ok", f"running, process {daemon.pid}")
        return
    if daemon.state == "hung":
        what = f"process {daemon.pid} holds the lock and does not answer"
        yield Finding("daemon", "problem", what, f"{command} ends it and puts everything back")
        return
    journal = live.journal(args.runtime_dir)
    rows, _ = live.undo_rows(args.runtime_dir)
    old = sum(row.status in repair.ACTIVE and row.boot_id != repair.boot_id() for row in rows)
    if journal.changed:
        names = ", ".join(c["knob"] for c in journal.changed)
        yield Finding("undo journal", "problem", f"no daemon, but still changed: {names}", command)
    for line in journal.damage:
        what, _, do = line.rpartition("; ") if "; " in line else (line, "", command)
        yield Finding("undo journal", "problem", what, do)
    if not journal.changed and not journal.damage:
        stale = f"; {old} rows of an earlier boot, which are never written" if old else ""
        yield Finding("undo journal", "ok", f"no daemon, nothing left changed{stale}")


CHECKS: tuple[Callable[[Host, argparse.Namespace], Iterator[Finding]], ...] = (
    _privileges,
    _kernel,
    _knobs,
    _metrics,
    _rules,
    _tuners,
    _sysctl_files,
    _directories,
    _leftovers,
)
