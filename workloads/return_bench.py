"""A known workload comes back: how long until what helped it is in the kernel again?

    python -m workloads.return_bench [--visits 10] [--json]

A daemon with a rule learns from `workloads.urgent` what the actor confirms (a real trial), and is stopped.
Then, visit after visit, a daemon is started anew with what was learned, in whose policy the rule cannot hold,
and on the calm host a load begins: the same one, or as a control one that nothing was learned about.
Measured is the time from its start to another value of the knob in the kernel. All in a network namespace
made for it; the knob is compared at the end of each visit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from tuned_spec import paths
from tuned_spec.daemon.shell import clock
from tuned_spec.ledger.history import read
from workloads.running import FILES, HERE, LOWAT, Daemon, own_network, seen_changed, wait_for

KNOWN, CONTROL = "workloads.urgent", "workloads.bulk"
LEARN_S = 90.0
CALM_S = 3.0  # after the start of a daemon, before the load
VISIT_S = 6.0
# A look at the calm host each second, the next half a second after it stirs, then one each second.
TWO_TICKS_S = 2.5

POLICY = """
version: 1
mode: lossy
settings: {changes_per_minute: 30, rest: 15s}
metrics:
  app.urgent_p95_ms: {owner: root, stale: 3s}
  app.bulk_mb_per_s: {owner: root, stale: 3s}
rules:
  - id: urgent-first
    reason: What is urgent waits behind megabytes that were written before it.
    source: Documentation/networking/ip-sysctl.rst, tcp_notsent_lowat
    when: [app.urgent_p95_ms > LEVEL for 6s clear 15]
    do: {net.ipv4.tcp_notsent_lowat: set 1MiB}
    expect: app.urgent_p95_ms falls by 20%
    cooldown: 5s
    lease: 80s
"""


class Visit(msgspec.Struct):
    load: str
    seconds: float | None  # from its start to the knob; None: not in VISIT_S
    rule: str = ""  # whose guess it was


class Found(msgspec.Struct):
    v: int
    load: tuple[tuple[float, ...], tuple[float, ...]]
    verdict: str
    visits: list[Visit]


def policy(place: Path, level: str) -> str:
    path = place / "return.yaml"
    path.write_text(POLICY.replace("LEVEL", level))
    return str(path)


@contextmanager
def started(state: Path | None, level: str) -> Iterator[Daemon]:
    """A daemon that has its actor, with what was learned in `state`."""
    with tempfile.TemporaryDirectory(prefix="return-bench-") as name:
        place = Path(name)
        if state is not None:
            (place / "state").mkdir()
            shutil.copy(state / paths.PRIORS, place / "state" / paths.PRIORS)
        running = Daemon(place, policy(place, level))
        try:
            running.wait()
            yield running
        finally:
            running.stop()


@contextmanager
def load(module: str, running: Daemon) -> Iterator[float]:
    """When it was begun."""
    words = [sys.executable, "-m", module, "--for", "200", "--socket", str(running.runtime / paths.METRICS)]
    begun = clock()
    process = subprocess.Popen(words, cwd=HERE, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield begun
    finally:
        process.terminate()
        process.wait(10)


def learn(kept: Path) -> str:
    """Until the actor has judged; the kind of its verdict. What was learned is in `kept`."""
    with started(None, "20") as running:
        time.sleep(CALM_S)
        with load(KNOWN, running):
            wait_for(lambda: read(running.state, kinds=("verdict",)), LEARN_S, "no verdict")
        [verdict] = read(running.state, kinds=("verdict",))
        wait_for((running.state / paths.PRIORS).exists, 10, f"nothing was learned: {verdict.data['reason']}")
        shutil.copy(running.state / paths.PRIORS, kept / paths.PRIORS)
    return str(verdict.data["kind"])


def visit(module: str, kept: Path, original: bytes) -> Visit:
    with started(kept, "1000000000") as running:
        time.sleep(CALM_S)
        with load(module, running) as begun:
            seen = seen_changed({LOWAT: original}, VISIT_S, every_s=0.005)
        applied = read(running.state, kinds=("applied",))
    assert FILES[LOWAT].read_bytes() == original, f"{LOWAT} was not put back"
    seconds = seen[LOWAT] - begun if seen else None
    return Visit(module, seconds, applied[0].rule if applied else "")


def measure(visits: int) -> Found:
    before = os.getloadavg()
    with own_network() as originals, tempfile.TemporaryDirectory(prefix="return-bench-") as name:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        found = Found(1, (before, before), learn(Path(name)), [])
        for _ in range(visits):
            for module in (KNOWN, CONTROL):
                found.visits.append(visit(module, Path(name), originals[LOWAT]))
                print(found.visits[-1], file=sys.stderr, flush=True)
    found.load = before, os.getloadavg()
    return found


def show(found: Found) -> None:
    print("load average", " -> ".join(" ".join(f"{x:.1f}" for x in load) for load in found.load))
    print(f"learned: {found.verdict}")
    for module in (KNOWN, CONTROL):
        visits = [visit for visit in found.visits if visit.load == module]
        took = sorted(visit.seconds for visit in visits if visit.seconds is not None)
        print(f"{module}: set in {len(took)} of {len(visits)} visits within {VISIT_S:g} s", end="")
        if took:
            soon = sum(seconds <= TWO_TICKS_S for seconds in took)
            print(f"; median {median(took):.2f}, most {took[-1]:.2f} s; {soon} in {TWO_TICKS_S:g} s", end="")
        print()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="return_bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--visits", type=int, default=10, help="of each load")
    parser.add_argument("--json", action="store_true", help="one document with every visit")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("return_bench writes a kernel knob and makes a network namespace: run it as root")
        return 2
    found = measure(args.visits)
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
