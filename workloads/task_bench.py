"""What tuning tasks costs: one change of 16 and of 200 threads, and the lookout under a storm of forks.

    python -m workloads.task_bench [--times 7] [--forks 20000]

Writes nice and slice of threads of its own only. Medians; CPU time of the process beside the wall clock
tells a busy host from a slow ledger.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from tests.tasks.crowd import crowd
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.lookout.messages import PACKET, Lost, Tasks, unpack
from tuned_spec.model import Write

# A shell that forks in a row, as fast as one can.
STORM = 'i=0; while [ $i -lt "$0" ]; do ( : ); i=$((i+1)); done'


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--forks", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for threads in (16, 200):
            changes(Path(name), threads, args.times)
    storm(args.forks)
    return 0


def changes(directory: Path, threads: int, times: int) -> None:
    by = adapters()
    journal = Journal(directory / f"run{threads}", repair.boot_id())
    ledger = Ledger(Catalogue(load(), by), by, journal, lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    with crowd(directory, threads) as some:
        for entry, value in (("nice", 5), ("slice_us", 20_000)):
            knob = f"task.{entry}@exe={some.exe}"
            steps: dict[str, Callable[[], object]] = {
                "look": partial(ledger.reversible, knob),
                "first": partial(ledger.apply, "t", "r", (Write(knob, value),)),
                "arm A": partial(ledger.apply, "t", "r", (Write(knob, 0),)),
                "arm B": partial(ledger.apply, "t", "r", (Write(knob, value),)),
                "audit": ledger.audit,
                "restore": ledger.restore,
            }
            taken: dict[str, list[tuple[float, float]]] = {step: [] for step in steps}
            for _ in range(times):
                for step, do in steps.items():
                    cpu, wall = time.process_time(), time.perf_counter()
                    do()
                    taken[step].append((time.process_time() - cpu, time.perf_counter() - wall))
            said = ", ".join(
                f"{step} {median(c for c, _ in t) * 1e3:.1f} ({median(w for _, w in t) * 1e3:.1f})"
                for step, t in taken.items()
            )
            print(f"{threads} threads, {entry}, ms of CPU (and of wall clock): {said}", flush=True)
    journal.close()


def storm(forks: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tuned_spec.lookout", "--fd", str(theirs.fileno()), "--hear", "tasks"]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as lookout, ours:
        theirs.close()
        if news := unpack(ours.recv(PACKET)):
            print(f"the lookout hears nothing: {news}")
            return
        before, start = cpu_s(lookout.pid), time.perf_counter()
        subprocess.run([shutil.which("dash") or "sh", "-c", STORM, str(forks)], check=True)
        seconds = time.perf_counter() - start
        with subprocess.Popen(["true"]) as last:
            last.wait()
        time.sleep(0.2)  # what was gathered is told
        ours.setblocking(False)
        packets = size = lost = execs = 0
        try:
            while packet := ours.recv(PACKET):
                packets, size = packets + 1, size + len(packet)
                news = unpack(packet)
                lost += sum(isinstance(piece, Lost) for piece in news)
                execs += sum(len(piece.exec) for piece in news if isinstance(piece, Tasks))
        except BlockingIOError:
            pass
        spent = cpu_s(lookout.pid) - before
        print(
            f"storm of {forks} forks at {forks / seconds:.0f}/s: lookout {spent / seconds:.1%} of a CPU,"
            f" {packets} packets, {size} bytes, {execs} programs told, {lost} times lost"
        )
        print(f"lookout's memory: {rss_mb(lookout.pid):.0f} MB")


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    raise SystemExit(main())
