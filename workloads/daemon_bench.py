"""How fast the daemon reacts, and what it costs: a real one, on the real kernel, in directories of its own.

    python -m workloads.daemon_bench [--quick] [--only NAME] [--json]

socket    from the datagram whose value crosses the level to the knob's new value in /proc
pressure  from a PSI trigger of ours, the twin of the daemon's, to the same, under real CPU pressure
busy      from the start of a load to the same, found by a tick, on a host that is busy already
idle      the same on an idle host, where ticks are far between
cost      memory and CPU time of the daemon and its actor, policies/default.yaml, lossy, ticks of 1 s
status    `tuned-spec status` beside a bare interpreter, in turn

What is written belongs to a network namespace made for the purpose (cost may write what the default policy
finds wrong, and puts it back); each section checks that all is as it was. Loads are few processes, ended by
their own pid. Times are CLOCK_BOOTTIME. The load average before and after each section is part of its result.
"""

from __future__ import annotations

import argparse
import compileall
import ctypes
import json
import os
import platform
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

import tuned_spec
from tuned_spec.cli import live
from tuned_spec.daemon.serve import clock
from tuned_spec.ledger.history import read
from tuned_spec.sense.gauges import send
from tuned_spec.sense.triggers import Trigger, open_triggers

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h; os.unshare is Python 3.12
LEVEL = 0.5  # of the pressure rule
EARLY_S = 0.005  # a knob written this long before our trigger fired was not that trigger's doing

# Two knobs of a network namespace that nobody else is in.
FILES = {
    "net.ipv4.tcp_notsent_lowat": Path("/proc/sys/net/ipv4/tcp_notsent_lowat"),
    "net.ipv4.tcp_limit_output_bytes": Path("/proc/sys/net/ipv4/tcp_limit_output_bytes"),
}
LOWAT, LIMIT = FILES

HEAD = """
version: 1
mode: lossy
settings: {changes_per_minute: 600, toggles_per_minute: 6000, rest: 0s}
metrics:
  app.p95_ms: {owner: root}
rules:
"""
RULE = """
  - id: rule-NUMBER
    reason: a measurement
    source: none
    when: [WHEN]
    do: {KNOB: set 131072}
    expect: METRIC falls by 5%
    cooldown: 0s
"""

# Each waits for a line, so that a load begins when it is told to and not when Python has started.
SPIN = "input()\nwhile True: pass"
SWITCH = "import time\ninput()\nwhile True: time.sleep(1e-5)"
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


class Row(msgspec.Struct):
    """One measured figure. `samples` are in `unit`; the target is held against `figure`."""

    what: str
    unit: str
    target: float | None
    samples: list[float]
    figure: float
    note: str = ""

    @property
    def met(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.figure <= self.target else "NOT MET"


class Section(msgspec.Struct):
    name: str
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    rows: list[Row]


def reaction(what: str, target_ms: float | None, seconds: list[float], note: str = "") -> Row:
    ms = [s * 1e3 for s in seconds]
    return Row(what, "ms", target_ms, ms, median(ms) if ms else float("nan"), note)


# ------------------------------------------------------------------------ daemon and loads


class Daemon:
    """One daemon process, judged from outside: by the kernel's files and by what it answers."""

    def __init__(self, place: Path, policy: str) -> None:
        self.place, self.runtime, self.state = place, place / "run", place / "state"
        program = [sys.executable, "-m", "tuned_spec", "run", "--policy", policy, "--mode", "lossy"]
        with (place / "log").open("wb") as log:
            # A session of its own, as init would give it: it must not share the loads' scheduling group.
            self.process = subprocess.Popen(
                [*program, *self.where()], stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
            )
        wait_for(lambda: self.status()["actor"]["alive"], 30, "the daemon and its actor did not start")

    def where(self) -> list[str]:
        return ["--runtime-dir", str(self.runtime), "--state-dir", str(self.state)]

    def ask(self, do: str) -> dict[str, Any]:
        return live.ask(self.runtime, do) or {}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status").get("status", {"actor": {"alive": False}, "tick_s": 0.0})
        return status

    def send(self, value: float) -> None:
        assert send(self.runtime / "metrics.sock", "p95_ms", value)

    def applied_at(self, since: float) -> float:
        """When the first change after `since` was made, as the daemon's own history has it."""

        def changes() -> list[float]:
            return [e.t for e in read(self.state, kinds=("applied",)) if e.t > since]

        wait_for(changes, 5, "no change is on record")
        return changes()[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)


@contextmanager
def daemon(*rules: tuple[str, str]) -> Iterator[Daemon]:
    """A daemon with one rule for each (condition, knob), or with the default policy if there is none."""
    with tempfile.TemporaryDirectory(prefix="daemon-bench-") as name:
        place, policy = Path(name), "default"
        if rules:
            text = HEAD
            for number, (when, knob) in enumerate(rules):
                text += (
                    RULE.replace("NUMBER", str(number))
                    .replace("WHEN", when)
                    .replace("KNOB", knob)
                    .replace("METRIC", when.split()[0])
                )
            policy = str(place / "bench.yaml")
            Path(policy).write_text(text)
        running = Daemon(place, policy)
        try:
            yield running
        finally:
            running.stop()


@contextmanager
def own_network() -> Iterator[dict[str, bytes]]:
    """A network namespace whose knobs are nobody else's; checks that they end as they began."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace of our own (are we root?)")
    try:
        originals = {knob: path.read_bytes() for knob, path in FILES.items()}
        yield originals
        for knob, path in FILES.items():
            assert path.read_bytes() == originals[knob], f"{knob} was not put back"
    finally:
        libc.setns(outside, CLONE_NEWNET)
        os.close(outside)


class Load:
    """Processes that begin when told to, in a session of their own, and end with the block."""

    def __init__(self, *programs: str) -> None:
        self.processes = [
            subprocess.Popen([sys.executable, "-c", p], stdin=subprocess.PIPE, start_new_session=True)
            for p in programs
        ]
        time.sleep(0.2)  # until they wait

    def begin(self) -> float:
        t = clock()
        for process in self.processes:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()
        return t

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdin
            process.stdin.close()


def wait_for(true: Callable[[], Any], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.05)


def seen_changed(originals: dict[str, bytes], within_s: float, every_s: float = 0.0) -> dict[str, float]:
    """When each knob first showed another value; those that did not within the time are missing."""
    fds = {knob: os.open(FILES[knob], os.O_RDONLY) for knob in originals}
    seen: dict[str, float] = {}
    end = clock() + within_s
    try:
        while len(seen) < len(fds) and clock() < end:
            for knob, fd in fds.items():
                if knob not in seen and os.pread(fd, 64, 0) != originals[knob]:
                    seen[knob] = clock()
            if every_s:
                time.sleep(every_s)
    finally:
        for fd in fds.values():
            os.close(fd)
    return seen


def changed(originals: dict[str, bytes]) -> bool:
    return any(FILES[knob].read_bytes() != original for knob, original in originals.items())


def take_back(running: Daemon, originals: dict[str, bytes]) -> None:
    running.ask("restore")
    for knob, path in FILES.items():
        assert path.read_bytes() == originals[knob], f"{knob} was not put back"


def calm(running: Daemon, tick_s: float, longest_s: float) -> float:
    """Wait until the daemon itself takes the host for idle; returns the tick that it came to."""
    with suppress(TimeoutError):
        wait_for(lambda: running.status()["tick_s"] >= tick_s, longest_s, "never idle")
    return float(running.status()["tick_s"])


# -------------------------------------------------------------------------------- sections


def by_socket(quick: bool) -> list[Row]:
    took: list[float] = []
    with own_network() as originals, daemon(("app.p95_ms > 10 clear 5", LOWAT)) as running:
        watched = {LOWAT: originals[LOWAT]}
        for _ in range(20 if quick else 100):
            running.send(1)
            time.sleep(random.uniform(0.02, 0.15))  # so that the daemon sleeps, at no fixed place in its tick
            start = clock()
            running.send(100)
            seen = seen_changed(watched, 5)
            took.append(seen[LOWAT] - start)
            running.send(1)
            take_back(running, originals)
            running.ask("resume")
    return [reaction("metric over the socket -> knob written", 10, took)]


def by_pressure(quick: bool) -> list[Row]:
    trigger = own_trigger()
    took: list[float] = []
    from_load: list[float] = []
    early = spoiled = 0
    poller = select.poll()
    poller.register(trigger.fd, select.POLLPRI)
    rule = (f"psi.cpu.some > {LEVEL:.0%} clear {LEVEL / 2:.0%}", LOWAT)
    spinners = 2 * len(os.sched_getaffinity(0))
    with own_network() as originals, daemon(rule) as running, prompt():
        watched = {LOWAT: originals[LOWAT]}
        while len(took) < (1 if quick else 12) and early + spoiled < (4 if quick else 30):
            with Load(*[SPIN] * spinners) as load:
                time.sleep(6)  # the start of the spinners is pressure too: until it is in a tick that is over
                calm(running, 4.0, 20)
                running.ask("resume")
                poller.poll(0)
                time.sleep(random.uniform(0, trigger.window_s))
                # A trial that is open already may just be in its arm A.
                if poller.poll(0) or changed(watched) or running.status()["open"]:
                    spoiled += 1
                    take_back(running, originals)
                    continue
                began = load.begin()
                fired = clock() if poller.poll(10_000) else None
                seen = seen_changed(watched, 5, every_s=0.0002)
            # It may have been there before we came to look: then the daemon's record has the time.
            written = min(seen[LOWAT], running.applied_at(began))
            from_load.append(written - began)
            if fired is None or written < fired - EARLY_S:
                early += 1
            else:
                took.append(written - fired)
            take_back(running, originals)
    os.close(trigger.fd)
    note = (
        f"window {trigger.window_s:g} s; {spinners} spinners; {early} more were found by a tick before "
        f"that; {spoiled} spoiled by other load"
    )
    return [
        reaction("PSI trigger fires -> knob written", 50, took, note),
        reaction("the same, from the start of the load", None, from_load, "the window's wait is in it"),
    ]


def own_trigger() -> Trigger:
    """The twin of the daemon's: armed by the same code at the same level."""
    triggers, reasons = open_triggers(Path("/"), levels={"psi.cpu.some": LEVEL})
    ours = next((t for t in triggers if t.name == "psi.cpu.some"), None)
    for trigger in triggers:
        if trigger is not ours:
            os.close(trigger.fd)
    if ours is None:
        raise OSError(f"no pressure trigger here: {'; '.join(reasons)}")
    return ours


@contextmanager
def prompt() -> Iterator[None]:
    """Real-time priority, so that the time at which we see a trigger is not our own wait for a CPU."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        print("no real-time priority: the trigger is seen late, the figures are too good", file=sys.stderr)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def by_tick_busy(quick: bool) -> list[Row]:
    return by_tick("busy", [SPIN], 0.65, 1.0, 4 if quick else 15)


def by_tick_idle(quick: bool) -> list[Row]:
    return by_tick("idle", [], 0.3, 4.0, 2 if quick else 10)


def by_tick(host: str, before: list[str], level: float, tick_s: float, times: int) -> list[Row]:
    """Two rules at once, on two rates that the load drives far past their levels."""
    took: dict[str, list[float]] = {LOWAT: [], LIMIT: []}
    ticks: list[float] = []
    spoiled = 0
    rules = (
        (f"cpu.busy > {level:.0%} clear {level - 0.05:.0%}", LOWAT),
        ("cpu.ctxt_per_s > 8000 clear 6000", LIMIT),
    )
    with own_network() as originals, daemon(*rules) as running, Load(*before) as base:
        base.begin()
        while len(ticks) < times and spoiled < 2 * times:
            with Load(SPIN, SWITCH) as load:
                # Ticks without the load, and without its start: the rules have cleared.
                time.sleep(6 if tick_s > 1 else 2.5)
                tick = calm(running, tick_s, 20)
                running.ask("resume")
                time.sleep(random.uniform(0, tick))
                if tick < tick_s or changed(originals):
                    spoiled += 1
                    take_back(running, originals)
                    continue
                ticks.append(tick)
                began = load.begin()
                seen = seen_changed(originals, 12, every_s=0.001)
            for knob, t in seen.items():
                took[knob].append(t - began)
            take_back(running, originals)
    note = f"ticks of {min(ticks, default=0):.1f} to {max(ticks, default=0):.1f} s"
    note += (
        f"; {2 * len(ticks) - sum(map(len, took.values()))} not seen in 12 s; {spoiled} spoiled by other load"
    )
    return [
        reaction(f"tick, {host} host: cpu.ctxt_per_s -> knob", 1200, took[LIMIT], note),
        reaction(f"tick, {host} host: cpu.busy -> knob", 1200, took[LOWAT], f"level {level:.0%}; {note}"),
    ]


def cost(quick: bool) -> list[Row]:
    seconds = 30 if quick else 300
    with daemon() as running, Load(CROWD, CROWD) as crowd:
        crowd.begin()
        time.sleep(6)  # a slow tick and its successor
        status = running.status()
        processes = {"daemon": running.process.pid, "actor": int(status["actor"]["pid"])}
        spent = {name: cpu_s(pid) for name, pid in processes.items()}
        woken, start = wakeups(processes["daemon"]), clock()
        ticks = []
        for _ in range(10):
            time.sleep(seconds / 10)
            ticks.append(float(running.status()["tick_s"]))
        length = clock() - start
        share = {name: (cpu_s(pid) - spent[name]) / length * 100 for name, pid in processes.items()}
        rate = (wakeups(processes["daemon"]) - woken) / length
        memory = {name: memory_mib(pid) for name, pid in processes.items()}
        changes = len(read(running.state, kinds=("applied",)))
    note = (
        f"over {length:.0f} s, ticks of {min(ticks):.1f} to {max(ticks):.1f} s, {rate:.1f} wake-ups/s, "
        f"{changes} changes made"
    )
    rows = []
    for name, targets in (("daemon", (40, 0.3)), ("actor", (None, None))):
        rss, pss = memory[name]
        rows.append(Row(f"{name} RSS", "MiB", targets[0], [rss], rss, f"PSS {pss:.1f} MiB"))
        rows.append(Row(f"{name} CPU", "% of a core", targets[1], [share[name]], share[name], note))
    return rows


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


def status(quick: bool) -> list[Row]:
    figures: dict[str, list[tuple[float, float]]] = {"status": [], "bare": []}
    with own_network(), daemon(("app.p95_ms > 10 clear 5", LOWAT)) as running:
        programs = {
            "status": [sys.executable, "-m", "tuned_spec", "status", *running.where()],
            "bare": [sys.executable, "-c", "pass"],
        }
        for _ in range(5 if quick else 30):
            for name, program in programs.items():
                figures[name].append(ran(program))
    rows = []
    for index, what in enumerate(("wall", "CPU")):
        ms = {name: [pair[index] * 1e3 for pair in pairs] for name, pairs in figures.items()}
        middle = median(ms["status"])
        ratio = f"x{middle / median(ms['bare']):.1f} of `python -c pass` ({median(ms['bare']):.0f} ms)"
        rows.append(
            Row(f"tuned-spec status, {what}", "ms", None if index else 150, ms["status"], middle, ratio)
        )
    return rows


def ran(program: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a program from start to end."""
    start = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(code)
    assert process.returncode == 0, f"{program} failed"
    return wall, usage.ru_utime + usage.ru_stime


SECTIONS: dict[str, Callable[[bool], list[Row]]] = {
    "socket": by_socket,
    "pressure": by_pressure,
    "busy": by_tick_busy,
    "idle": by_tick_idle,
    "cost": cost,
    "status": status,
}


# --------------------------------------------------------------------------------- output


def run(name: str, quick: bool) -> Section:
    before = os.getloadavg()
    rows = SECTIONS[name](quick)
    return Section(name, before, os.getloadavg(), rows)


def at(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


LINE = "{:44}{:>12}{:>10}{:>10}{:>10}{:>5}  {}"


def show(section: Section) -> None:
    loads = " -> ".join(
        " ".join(f"{x:.2f}" for x in load) for load in (section.load_before, section.load_after)
    )
    print(f"{section.name}: load average {loads}")
    for row in section.rows:
        target = "" if row.target is None else f"<= {row.target:g}"
        figures = (f"{x:.4g}" for x in (row.figure, at(row.samples, 0.95), max(row.samples, default=0.0)))
        print(LINE.format(f"  {row.what}, {row.unit}", target, *figures, len(row.samples), row.met).rstrip())
        if row.note:
            print(f"      {row.note}")
    sys.stdout.flush()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="daemon_bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that it works")
    parser.add_argument(
        "--only", choices=list(SECTIONS), action="append", help="this section (several: repeat)"
    )
    parser.add_argument("--json", action="store_true", help="one document with every sample")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("daemon_bench writes kernel knobs and makes a network namespace: run it as root")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # daemon and loads end with us
    # As an installation has it, whatever PYTHONDONTWRITEBYTECODE says here.
    compileall.compile_dir(Path(tuned_spec.__file__).parent, quiet=1)
    python = platform.python_version()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {python}"
    if not args.json:
        print(machine)
        print(LINE.format("", "target", "median", "p95", "max", "n", ""))
    sections = []
    for name in args.only or SECTIONS:
        sections.append(run(name, args.quick))
        if not args.json:
            show(sections[-1])
    if args.json:
        document = {
            "v": 1,
            "machine": machine,
            "quick": args.quick,
            "sections": msgspec.to_builtins(sections),
        }
        print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
