"""What the daemon and its commands cost: memory, CPU time, time to start, on this kernel.

    python -m workloads.cost_bench [--quick] [--only NAME] [--json]

memory    RSS with the default policy, and with all that can be loaded
cpu       CPU time of the daemon with the default policy at ticks of 1 s, and of its actor
start     from the start of the process to READY=1
commands  `tuned-spec status` and `tuned-spec knobs` beside a bare interpreter

Everything in turn, and in the same turn a checkout of an earlier version, if TUNED_SPEC_BEFORE names one. The
bytecode of both is cached, as an installation has it, whatever PYTHONDONTWRITEBYTECODE says here. The default
policy may write what it finds wrong, and puts it back.

"All that can be loaded" is every shipped policy (without the rules that contradict each other's), a rule that
names every metric there is, and a memory of as many workloads and guesses as are ever kept.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tuned_spec.ledger import priors
from tuned_spec.ledger.history import read
from tuned_spec.model import Expect, Guard, Way, Write
from tuned_spec.sense.metrics import METRICS
from tuned_spec.speculate import prior, selection
from tuned_spec.speculate.foresight import Foresight
from tuned_spec.speculate.prior import Priors, Remembered, Setting
from tuned_spec.speculate.selection import Outcome, Record, Tally
from tuned_spec.speculate.signature import FEATURES, Signature
from workloads import figures
from workloads.figures import Row
from workloads.running import HERE, LOWAT, Daemon, Load, environment, own_network, policy_for

BEFORE = os.environ.get("TUNED_SPEC_BEFORE", "")
CHECKOUTS = {"now": HERE} | ({"before": Path(BEFORE)} if BEFORE else {})

# Two of these want the same CPU at the same moments: pressure enough for a tick of 1 s at a fifth of a core.
CROWD = """
import os, time
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
input()
while True:
    time.sleep(0.1 - time.time() % 0.1)
    end = time.process_time() + 0.008
    while time.process_time() < end: pass
"""


# The rules left out contradict one of another policy: one write of theirs resets what the other writes.
ALL_METRICS = """
version: 1
mode: lossy
disable: [full-speed, keep-more-free-by-hand]
rules:
  - id: tasks-too
    reason: a measurement; for knobs of tasks the daemon has a helper
    source: none
    when: [cpu.busy > 99% clear 98%]
    do: {task.nice@exe=tuned-spec-bench: set 1}
    expect: cpu.busy falls by 5%
  - id: all-metrics
    reason: a measurement
    source: none
    when: [cpu.busy > 99% clear 98%]
    do: {vm.swappiness: add 1}
    expect: cpu.busy falls by 5%
    guard:
"""

# -------------------------------------------------------------------------------- sections


def memory(quick: bool) -> list[Row]:
    """After two looks, and some more for what is done now and then."""
    found: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="cost-bench-") as name:
        everything = [
            *(p.stem for p in sorted((HERE / "policies").glob("*.yaml"))),
            str(all_metrics(Path(name))),
        ]
        for _ in range(1 if quick else 3):
            for version, checkout in CHECKOUTS.items():
                loads = {"default policy": ["default"]} | (
                    {"everything": everything} if version == "now" else {}
                )
                for load, policies in loads.items():
                    with started(checkout, *policies, remembering=load == "everything") as running:
                        running.wait()
                        time.sleep(5 if quick else 20)
                        rss, pss = memory_mib(running.process.pid)
                        beside = children(running.process.pid)
                    what = f"RSS, {load}, {version}"
                    found.setdefault(what, []).append(rss)
                    notes[what] = f"PSS {pss:.1f} MiB; beside it " + ", ".join(
                        f"{child} {size:.1f}" for child, size in sorted(beside.items())
                    )
    return [
        Row(what, "MiB", 45 if "everything" in what else 40, sizes, median(sizes), notes[what])
        for what, sizes in found.items()
    ]


def cpu(quick: bool) -> list[Row]:
    """To hold the tick at 1 s, two processes want the same CPU for 8 ms ten times a second."""
    shares: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for _ in range(1 if quick else 2):
        for version, checkout in CHECKOUTS.items():
            with started(checkout, "default") as running, Load(CROWD, CROWD) as crowd:
                running.wait()
                crowd.begin()
                time.sleep(6)  # a slow tick and its successor
                pid = running.process.pid
                spent, woken, start = cpu_s(pid), wakeups(pid), time.monotonic()
                ticks = []
                for _ in range(10):
                    time.sleep(3 if quick else 7.5)
                    ticks.append(float(running.status()["tick_s"]))
                length = time.monotonic() - start
                what = f"CPU, default policy, {version}"
                shares.setdefault(what, []).append((cpu_s(pid) - spent) / length * 100)
                changes = len(read(running.state, kinds=("applied",)))
                notes[what] = (
                    f"last: over {length:.0f} s, ticks of {min(ticks):.1f} to {max(ticks):.1f} s, "
                    f"{(wakeups(pid) - woken) / length:.1f} wake-ups/s, {changes} changes made"
                )
    return [
        Row(what, "% of a core", 0.3, values, median(values), notes[what]) for what, values in shares.items()
    ]


def start(quick: bool) -> list[Row]:
    took: dict[str, list[float]] = {}
    for _ in range(3 if quick else 15):
        for version, checkout in CHECKOUTS.items():
            with (
                tempfile.TemporaryDirectory(prefix="cost-bench-") as name,
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
            ):
                ready.bind(f"{name}/ready")
                ready.settimeout(30)
                begin = time.perf_counter()
                running = Daemon(Path(name), "default", checkout=checkout, ready=f"{name}/ready")
                try:
                    while not ready.recv(4096).startswith(b"READY=1"):
                        pass
                    took.setdefault(f"start to READY=1, {version}", []).append(
                        (time.perf_counter() - begin) * 1e3
                    )
                finally:
                    running.stop()
    return [Row(what, "ms", None, ms, median(ms)) for what, ms in took.items()]


def commands(quick: bool) -> list[Row]:
    """Each version's commands, `status` against its own daemon."""
    took: dict[str, list[tuple[float, float]]] = {}
    with own_network(), tempfile.TemporaryDirectory(prefix="cost-bench-") as name:
        policy = policy_for(Path(name), ("app.p95_ms > 10 clear 5", LOWAT))
        daemons: dict[str, Daemon] = {}
        try:
            for version, checkout in CHECKOUTS.items():
                place = Path(name) / version
                place.mkdir()
                daemons[version] = Daemon(place, policy, checkout=checkout)
            for running in daemons.values():
                running.wait()
            for _ in range(5 if quick else 30):
                for version, running in daemons.items():
                    for command in ("status", "knobs"):
                        program = [*running.program, command, *running.where()]
                        took.setdefault(f"tuned-spec {command}, {version}", []).append(
                            ran(program, running.checkout)
                        )
                took.setdefault("python -c pass", []).append(ran([sys.executable, "-c", "pass"], HERE))
        finally:
            for running in daemons.values():
                running.stop()
    rows = []
    for what, pairs in took.items():
        wall, cpu_ms = ([pair[part] * 1e3 for pair in pairs] for part in (0, 1))
        target = 150 if "status" in what else None
        rows.append(Row(f"{what}, wall", "ms", target, wall, median(wall), f"CPU {median(cpu_ms):.0f} ms"))
    return rows


SECTIONS: figures.Sections = {"memory": memory, "cpu": cpu, "start": start, "commands": commands}

# ------------------------------------------------------------------------------ what is loaded


@contextmanager
def started(checkout: Path, *policies: str, remembering: bool = False) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cost-bench-") as name:
        if remembering:
            remember(Path(name) / "state")
        running = Daemon(Path(name), *policies, checkout=checkout)
        try:
            yield running
        finally:
            running.stop()


def all_metrics(directory: Path) -> Path:
    """A policy with one rule, which names every metric; of those of many one that need not be there."""
    guards = [name if metric.alone else f"{name}@bench.slice" for name, metric in METRICS.items()]
    path = directory / "all-metrics.yaml"
    path.write_text(ALL_METRICS + "".join(f"      - {name} may rise 10%\n" for name in guards))
    return path


def remember(state: Path) -> None:
    """As many workloads, settings, rules and outcomes as are ever kept."""
    chance, now = random.Random(1), time.time()

    def signature(n: int) -> Signature:
        features = {name: round(chance.uniform(-4, 4), 3) for name in FEATURES}
        return Signature(features, dict.fromkeys(FEATURES, 0.5) if n > 1 else {}, n)

    workloads = [
        Remembered(
            f"{number:08x}",
            signature(prior.VISITS),
            tuple(
                Setting(
                    Write(f"net.ipv4.knob_{k}", k + 1),
                    f"rule-{k}",
                    Expect("app.p95_ms", Way.DOWN),
                    (Guard("cpu.busy", Way.DOWN),),
                    gain=0.2,
                    confirmed=2.0,
                    wall=now,
                    trial=f"t{number}.{k}",
                )
                for k in range(prior.SETTINGS)
            ),
            now,
        )
        for number in range(prior.WORKLOADS)
    ]
    outcomes = [
        tuple(Outcome(now, True, 0.1, signature(1)) for _ in range(selection.OUTCOMES)) for _ in range(64)
    ]
    record = Record({f"rule-{k}": Tally(64, 32, some) for k, some in enumerate(outcomes)})
    assert not priors.save(state, Priors(tuple(workloads)), record, Foresight())


# ---------------------------------------------------------------------------------- reading it


def children(pid: int) -> dict[str, float]:
    """Module -> MiB of the processes that the daemon has started."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        found[words[2] if len(words) > 2 else words[0]] = field(int(child), "status", "VmRSS") / 1024
    return found


def cpu_s(pid: int) -> float:
    """User and system time of all threads so far, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def field(pid: int, file: str, name: str) -> int:
    return int(Path(f"/proc/{pid}/{file}").read_text().split(f"{name}:")[1].split()[0])


def wakeups(pid: int) -> int:
    """How often a thread of the process went to sleep."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(field(pid, f"task/{thread.name}/status", "\nvoluntary_ctxt_switches") for thread in threads)


def memory_mib(pid: int) -> tuple[float, float]:
    return field(pid, "status", "VmRSS") / 1024, field(pid, "smaps_rollup", "\nPss") / 1024


def ran(program: list[str], checkout: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a program from start to end."""
    start = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, cwd=checkout, env=environment(checkout))
    _, code, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0, f"{program} failed"
    return wall, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(figures.main(sys.argv[1:], "cost_bench", __doc__ or "", SECTIONS))
