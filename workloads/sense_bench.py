"""What one look at the host costs, beside psutil and beside plain reading of the same files.

    python -m workloads.sense_bench [--rounds 400] [--json]

CPU time of this process (user and system), medians. All kinds are measured in turn in each round, so that
a noisy moment hits all of them. `like_psutil` is the part of the metrics that psutil has too, rates included;
`plain` only opens, reads and splits the files that `all` makes metrics of.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sensor import Sense

# What a default policy would watch.
FEW = frozenset(
    {"psi.memory.some", "psi.io.some", "psi.cpu.some", "mem.dirty_share", "tcp.listen_overflows_per_s"}
)
# What psutil has as well: CPU times and counts, memory, swap, disks.
LIKE_PSUTIL = frozenset(name for name in METRICS if name.split(".")[0] in ("mem", "disk")) | {"cpu.busy"}

IMPORTS = {
    "bare": "pass",
    "msgspec": "import msgspec",
    "sense": "from tuned_spec.sense import gauges, sensor, triggers",
    "psutil": "import psutil",
}


def with_psutil() -> None:
    psutil.cpu_times()
    psutil.cpu_stats()
    psutil.virtual_memory()
    psutil.swap_memory()
    psutil.disk_io_counters(perdisk=True)


def plainly() -> None:
    for source in {metric.source for metric in METRICS.values()}:
        try:
            text = Path(source).read_text()
        except OSError:
            continue
        [line.split() for line in text.splitlines()]


def median_costs(rounds: int) -> dict[str, float]:
    """kind -> median CPU microseconds of one look."""
    senses = {
        "all": Sense(Path("/")),
        "few": Sense(Path("/"), wanted=FEW),
        "like_psutil": Sense(Path("/"), wanted=LIKE_PSUTIL),
    }
    looks: dict[str, Callable[[], object]] = {
        "all": lambda: senses["all"].observe(time.monotonic()),
        "few": lambda: senses["few"].observe(time.monotonic()),
        "like_psutil": lambda: senses["like_psutil"].observe(time.monotonic()),
        "psutil": with_psutil,
        "plain": plainly,
    }
    costs: dict[str, list[int]] = {kind: [] for kind in looks}
    for _ in range(rounds):
        for kind, look in looks.items():
            start = time.process_time_ns()
            look()
            costs[kind].append(time.process_time_ns() - start)
        time.sleep(0.005)  # a tick finds cold caches, a tight loop does not
    for sense in senses.values():
        sense.close()
    return {kind: statistics.median(spent) / 1e3 for kind, spent in costs.items()}


def resident_kib(statement: str) -> int:
    """RSS of a fresh interpreter after `statement`."""
    program = f"{statement}\nprint(open('/proc/self/status').read().split('VmRSS:')[1].split()[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    costs = median_costs(options.rounds)
    rss = {
        name: round(statistics.median(resident_kib(statement) for _ in range(5)) / 1024, 1)
        for name, statement in IMPORTS.items()
    }
    if options.json:
        print(json.dumps({"v": 1, "rounds": options.rounds, "cpu_us": costs, "rss_mib": rss}))
        return
    print(f"one look, median CPU time of {options.rounds}:")
    for kind, cost in costs.items():
        print(f"  {kind:12} {cost:7.0f} us   {cost / 1e4:6.3f}% of a core at one a second")
    print(f"  psutil / like_psutil {costs['psutil'] / costs['like_psutil']:5.2f}")
    print(f"  plain  / all         {costs['plain'] / costs['all']:5.2f}")
    print("memory after import, MiB: " + ", ".join(f"{name} {size}" for name, size in rss.items()))


if __name__ == "__main__":
    main()
