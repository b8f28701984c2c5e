"""What one look at the host costs, beside psutil and beside plain reading of the same files.

    python -m workloads.sense_bench [--rounds 400] [--only looks|rss|cgroups|sockets] [--json]

CPU time of this process (user and system), medians. All kinds are measured in turn in each round, so that
a noisy moment hits all of them. `all` is every metric of a host's files, `like_psutil` the part that psutil
has too, rates included; `plain` only opens, reads and splits the files that `all` makes metrics of.

`cgroups` makes cgroups of its own on the real cgroup2 (slices of 100), watches the CPU pressure of each, and
measures the first look, which reads all of them, a tick while nothing goes on in them, and one while 1% of
them have something to run: in as few slices as possible, and one in each slice, so that all are read.
`sockets` samples that many connections over loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tuned_spec.paths import cgroup2_root
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sensor import Sense

Part = dict[str, object]

# All that is in files of /proc and /sys: without sockets and perf counters.
ALL = frozenset(
    name for name, metric in METRICS.items() if metric.alone and metric.source.startswith(("/proc", "/sys"))
)
# What a default policy would watch.
FEW = frozenset(
    {"psi.memory.some", "psi.io.some", "psi.cpu.some", "mem.dirty_share", "tcp.listen_overflows_per_s"}
)
# What psutil has as well: CPU times and counts, memory, swap, disks.
LIKE_PSUTIL = frozenset(name for name in ALL if name.split(".")[0] in ("mem", "disk")) | {"cpu.busy"}

IMPORTS = {
    "bare": "pass",
    "msgspec": "import msgspec",
    "sense": "from tuned_spec.sense import gauges, sensor, triggers",
    "sense and cgroups": "from tuned_spec.sense import gauges, sensor, triggers, cgroups",
    "sense and sockets": "from tuned_spec.sense import gauges, sensor, triggers, sockets",
    "sense and perf": "from tuned_spec.sense import gauges, sensor, triggers, perf",
    "psutil": "import psutil",
}


def with_psutil() -> None:
    psutil.cpu_times()
    psutil.cpu_stats()
    psutil.virtual_memory()
    psutil.swap_memory()
    psutil.disk_io_counters(perdisk=True)


def plainly() -> None:
    for source in {METRICS[name].source for name in ALL}:
        try:
            text = Path(source).read_text()
        except OSError:
            continue
        [line.split() for line in text.splitlines()]


def looks(rounds: int) -> Part:
    senses = {
        "all": Sense(Path("/"), wanted=ALL),
        "few": Sense(Path("/"), wanted=FEW),
        "like_psutil": Sense(Path("/"), wanted=LIKE_PSUTIL),
    }
    kinds: dict[str, Callable[[], object]] = {
        "all": lambda: senses["all"].observe(time.monotonic()),
        "few": lambda: senses["few"].observe(time.monotonic()),
        "like_psutil": lambda: senses["like_psutil"].observe(time.monotonic()),
        "psutil": with_psutil,
        "plain": plainly,
    }
    costs: dict[str, list[int]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, look in kinds.items():
            start = time.process_time_ns()
            look()
            costs[kind].append(time.process_time_ns() - start)
        time.sleep(0.005)  # a tick finds cold caches, a tight loop does not
    for sense in senses.values():
        sense.close()
    medians = {kind: statistics.median(spent) / 1e3 for kind, spent in costs.items()}
    print(f"one look, median CPU time of {rounds} ({len(ALL)} metrics in `all`):")
    for kind, cost in medians.items():
        print(f"  {kind:12} {cost:7.0f} us   {cost / 1e4:6.3f}% of a core at one a second")
    return {"cpu_us": medians}


def rss(rounds: int) -> Part:
    sizes = {
        name: round(statistics.median(resident_kib(statement) for _ in range(5)) / 1024, 1)
        for name, statement in IMPORTS.items()
    }
    print("memory after import, MiB: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    return {"rss_mib": sizes}


def resident_kib(statement: str) -> int:
    """RSS of a fresh interpreter after `statement`."""
    program = f"{statement}\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


# ---------------------------------------------------------------------------------- cgroups

SIZES = (10, 100, 1_000, 10_000)
IN_SLICE = 100


@contextlib.contextmanager
def groups(count: int) -> Iterator[list[Path]]:
    """That many cgroups in slices of IN_SLICE, below one of our own; removed in the end."""
    mount = cgroup2_root(Path("/"))
    if mount is None or not os.access(mount, os.W_OK):
        raise SystemExit("needs root and a writable cgroup2")
    made = [mount / f"tuned-spec-bench-{os.getpid()}"]
    try:
        made[0].mkdir()
        leaves = []
        for number in range(count):
            if number % IN_SLICE == 0:
                parent = made[0] / f"slice-{number // IN_SLICE}"
                parent.mkdir()
                made.append(parent)
            leaf = parent / f"unit-{number}"
            leaf.mkdir()
            made.append(leaf)
            leaves.append(leaf)
        yield leaves
    finally:
        for path in reversed(made):
            if path.exists():
                path.rmdir()


@contextlib.contextmanager
def active(leaves: list[Path]) -> Iterator[None]:
    """A process in each of these cgroups that works for 1 ms five times a second: they want the CPUs at the
    same moments, so that all of them wait a little."""
    pids = []
    try:
        for leaf in leaves:
            pid = os.fork()
            if pid == 0:
                try:
                    (leaf / "cgroup.procs").write_text("0")
                    while True:
                        time.sleep(0.2 - time.monotonic() % 0.2)
                        end = time.perf_counter() + 0.001
                        while time.perf_counter() < end:
                            pass
                finally:
                    os._exit(1)
            pids.append(pid)
        time.sleep(1.0)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ticks(sense: Sense, rounds: int) -> tuple[float, int]:
    """CPU microseconds of a tick, and how many cgroups had waited since the last: medians."""
    costs, waited = [], []
    for _ in range(rounds):
        time.sleep(0.5)
        start = time.process_time_ns()
        values = sense.observe(time.monotonic()).values
        costs.append((time.process_time_ns() - start) / 1e3)
        waited.append(sum(value > 0 for name, value in values.items() if name.startswith("cgroup.")))
    return statistics.median(costs), int(statistics.median(waited))


def cgroups(rounds: int) -> Part:
    rounds = max(5, rounds // 20)
    bare = Sense(Path("/"), wanted=frozenset())
    bare.observe(time.monotonic())
    base, _ = ticks(bare, rounds)
    bare.close()
    print(f"CPU time, less the {base:.0f} us of a tick without cgroups; medians of {rounds}, microseconds")
    print("cgroups   first    each     idle    each   1% near    each  1% apart    each   waited")
    rows = []
    for size in SIZES:
        with groups(size) as leaves:
            name = f"cgroup.psi.cpu.some@{leaves[0].parents[1].name}/*/*"
            sense = Sense(Path("/"), wanted=frozenset({name}))
            start = time.process_time_ns()
            sense.observe(time.monotonic())
            first = (time.process_time_ns() - start) / 1e3
            sense.observe(time.monotonic())
            idle, _ = ticks(sense, rounds)
            costs = {"first": first - base, "idle": idle - base}
            counts = []
            for way, chosen in (("near", leaves[: -(-size // 100)]), ("apart", leaves[:: min(size, 100)])):
                with active(chosen):
                    sense.observe(time.monotonic())
                    cost, waited = ticks(sense, rounds)
                costs[way] = cost - base
                counts.append(waited)
            sense.close()
        rows.append({"cgroups": size, "waited": counts, **costs})
        shown = "  ".join(f"{cost:7.0f} {cost / size:7.2f}" for cost in costs.values())
        print(f"{size:7d} {shown}   {'/'.join(map(str, counts))}", flush=True)
    return {"cgroups_us": rows}


# ---------------------------------------------------------------------------------- sockets


def sockets(rounds: int) -> Part:
    names = frozenset(name for name in METRICS if name.startswith("sock."))
    costs = {}
    for count in (10, 100, 1_000):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            for _ in range(count // 2):  # both ends are ours
                stack.enter_context(socket.create_connection(server.getsockname()))
                stack.enter_context(server.accept()[0])
            sense, bare = Sense(Path("/"), wanted=names), Sense(Path("/"), wanted=frozenset())
            spent = []
            for _ in range(rounds):
                start = time.process_time_ns()
                sense.observe(time.monotonic())
                middle = time.process_time_ns()
                bare.observe(time.monotonic())
                spent.append((2 * middle - start - time.process_time_ns()) / 1e3)
                time.sleep(0.005)
            costs[count] = statistics.median(spent)
            sense.close()
            bare.close()
        print(f"all sock.* metrics, {count:5} connections on the host: {costs[count]:6.0f} us a look")
    return {"sockets_us": costs}


PARTS: dict[str, Callable[[int], Part]] = {
    "looks": looks,
    "rss": rss,
    "cgroups": cgroups,
    "sockets": sockets,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--json", action="store_true", help="and one JSON document, at the end")
    options = parser.parse_args()
    found: Part = {"v": 1, "rounds": options.rounds}
    for name in (options.only,) if options.only else PARTS:
        found |= PARTS[name](options.rounds)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
