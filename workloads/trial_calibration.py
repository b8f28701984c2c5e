"""Does the trial judge? Real knobs, a real noisy load, the real actor process, known answers.

    sudo python -m workloads.trial_calibration [--trials 200] [--planted 20] [--dwell 0.1] [--out FILE]

A small driver plays the daemon for one case at a time: it writes the knob, waits, collects. The load is
two processes that pass a byte to and fro with work in between and report their p95 every 30 ms, beside a
neighbour that hogs a processor on and off at random. The groups:

    nothing    vm.dirty_expire_centisecs 3000 -> 2000, which this load cannot feel: confirmed by chance only
    harm       a request is two rounds on arm B instead of one: none may be confirmed
    win        and one instead of two: all are to be confirmed
    halt-harm  guest_halt_poll_ns 200000 -> 0, on virtual machines that have it; no neighbour, no work
    halt-win   and 0 -> 200000

Every knob is put back and read again at the end. Exit 1 if one of the first four misses its promise
(halt-win depends on how idle the host leaves the machine).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from mmap import mmap
from multiprocessing import Process
from pathlib import Path
from statistics import median

import msgspec

from tuned_spec.actor import channel, stats
from tuned_spec.model import (
    Arm,
    Case,
    Expect,
    Knob,
    KnobType,
    Measure,
    Measurement,
    Mode,
    Verdict,
    VerdictKind,
    Way,
    Write,
)

DIRTY_EXPIRE = Path("/proc/sys/vm/dirty_expire_centisecs")
HALT_POLL = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
REPORT_S, SETTLE_S = 0.03, 0.02
ROUNDS, WORK, HOG = 0, 1, 2  # the dials: exchanges a request, work in each, does the neighbour hog?
ALPHA = 0.05


# ------------------------------------------------------------------------------------ the load


def echo(end: socket.socket) -> None:
    while byte := end.recv(1):
        end.send(byte)


def ping(end: socket.socket, report: socket.socket, dials: mmap) -> None:
    """Request after request without a pause; each report is one datagram "p95 max", in ms."""
    while True:
        requests: list[float] = []
        until = time.perf_counter() + REPORT_S
        while (start := time.perf_counter()) < until:
            for _ in range(dials[ROUNDS]):
                end.send(b"x")
                end.recv(1)
                for _ in range(dials[WORK]):
                    sum(range(500))
            requests.append((time.perf_counter() - start) * 1e3)
        requests.sort()
        report.send(b"%.6f %.6f" % (requests[int(0.95 * (len(requests) - 1))], requests[-1]))


def neighbour(seed: int, dials: mmap) -> None:
    rng = random.Random(seed)
    while True:
        until = time.perf_counter() + rng.uniform(0.05, 0.8)
        while dials[HOG] and time.perf_counter() < until:
            pass
        time.sleep(rng.uniform(0.05, 0.8))


def keep_apart(pids: list[int]) -> None:
    """Each then waits for the other's processor to wake, which is what polling before a halt shortens."""
    for pid, cpu in zip(pids, sorted(os.sched_getaffinity(0)), strict=False):
        os.sched_setaffinity(pid, {cpu})


@contextmanager
def running_load(seed: int) -> Iterator[tuple[socket.socket, mmap, list[int]]]:
    """The report socket, the dials, and the pids of the two that talk."""
    dials = mmap(-1, 3)
    dials[ROUNDS] = 1
    left, right = socket.socketpair()
    reports, reporter = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    processes = [
        Process(target=echo, args=(right,), daemon=True),
        Process(target=ping, args=(left, reporter, dials), daemon=True),
        Process(target=neighbour, args=(seed, dials), daemon=True),
    ]
    for process in processes:
        process.start()
    reports.setblocking(False)
    try:
        yield reports, dials, [process.pid or 0 for process in processes[:2]]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in (left, right, reports, reporter):
            end.close()


# ------------------------------------------------------------------- the daemon's part, for one case


@contextmanager
def running_actor(seed: int) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tuned_spec.actor", "--fd", str(theirs.fileno()), "--seed", str(seed)]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()]):
        theirs.close()
        try:
            yield ours
        finally:
            ours.close()  # its end of file, without which Popen would wait for ever


def collect(reports: socket.socket) -> dict[str, tuple[float, ...]]:
    """All reports that have come so far."""
    p95: list[float] = []
    worst: list[float] = []
    while True:
        try:
            first, second = reports.recv(64).split()
        except BlockingIOError:
            return {"app.p95_ms": tuple(p95), "app.max_ms": tuple(worst)}
        p95.append(float(first))
        worst.append(float(second))


def run_case(
    door: socket.socket, reports: socket.socket, case: Case, hold: Callable[[Arm], object]
) -> Verdict:
    decoder = channel.from_actor()
    door.sendall(channel.encode(case))
    while data := door.recv(1 << 16):
        for message in decoder.feed(data):
            match message:
                case Verdict():
                    return message
                case Measure():
                    hold(message.arm)
                    time.sleep(message.settle_s)
                    collect(reports)  # settling is thrown away
                    time.sleep(message.dwell_s)
                    samples = {"app.p95_ms": collect(reports)["app.p95_ms"]}
                    door.sendall(channel.encode(Measurement(case.id, message.seq, message.arm, samples)))
                case _:
                    pass  # hello
    raise RuntimeError("the actor left within a case; its complaint is above")


def make_case(name: str, dwell_s: float, max_pairs: int) -> Case:
    knob = Knob(name, "sysctl", name, KnobType.INT, "", "", "", dwell_s=dwell_s)
    return Case(
        id=name,
        mode=Mode.LOSSY,
        rule="calibration",
        reason="a planted answer",
        knobs=(knob,),
        before=(Write(name, 0),),
        after=(Write(name, 1),),
        seen={},
        expect=Expect("app.p95_ms", Way.DOWN, 0.05),
        guard=(),
        allowed=(),
        settle_s=SETTLE_S,
        dwell_s=dwell_s,
        alternable=True,
        fresh_instances=False,
        lease_s=60.0,
        alpha=ALPHA,
        max_pairs=max_pairs,
        history={},
    )


# ----------------------------------------------------------------------------------- the groups


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Puts the knob back, and reads again that it is."""
    original = path.read_text()
    try:
        yield
    finally:
        path.write_text(original)
        if path.read_text() != original:
            raise RuntimeError(
                f"{path} reads {path.read_text()!r} and was {original!r}; write it back by hand"
            )


@dataclass
class Group:
    """What arm A and arm B are, what the load does meanwhile, what is promised of the confirmations."""

    name: str
    trials: int
    hold: Callable[[Arm], object]
    dials: tuple[int, int, int]
    promise: Callable[[int], bool]
    apart: bool = False  # keep the two that talk on processors of their own from now on


def groups(dials: mmap, trials: int, planted: int) -> list[Group]:
    def rounds(a: int, b: int) -> Callable[[Arm], object]:
        return lambda arm: dials.__setitem__(ROUNDS, a if arm is Arm.A else b)

    def file(path: Path, a: int, b: int) -> Callable[[Arm], object]:
        return lambda arm: path.write_text(str(a if arm is Arm.A else b))

    found = [
        Group("nothing", trials, file(DIRTY_EXPIRE, 3000, 2000), (1, 60, 1), lambda n: n <= ALPHA * trials),
        Group("harm", planted, rounds(1, 2), (1, 60, 1), lambda n: n == 0),
        Group("win", planted, rounds(2, 1), (1, 60, 1), lambda n: n == planted),
    ]
    if HALT_POLL.exists():
        found += [
            Group("halt-harm", planted, file(HALT_POLL, 200_000, 0), (1, 0, 0), lambda n: n == 0, apart=True),
            Group("halt-win", planted, file(HALT_POLL, 0, 200_000), (1, 0, 0), lambda n: True, apart=True),
        ]
    return [group for group in found if group.trials]


def confirmations(verdicts: list[Verdict]) -> int:
    return sum(v.kind is not VerdictKind.REJECT for v in verdicts)


def summary(name: str, verdicts: list[Verdict], seconds: float) -> str:
    """One line: the bound is the exact one-sided one of the rate of confirmations, the rest are medians."""
    confirmed, trials = confirmations(verdicts), len(verdicts)
    pairs = median(v.pairs for v in verdicts)
    effect = median(v.effect if v.effect is not None else 0.0 for v in verdicts)
    return (
        f"{name:10} {trials:6} {confirmed:9} {stats.rate_bound(confirmed, trials):9.1%}"
        f" {pairs:6g} {effect:+8.1%} {seconds / trials:7.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Counts the trial's right and wrong verdicts.")
    parser.add_argument("--trials", type=int, default=200, help="trials of a change that does nothing")
    parser.add_argument("--planted", type=int, default=20, help="trials of each planted harm and win")
    parser.add_argument(
        "--dwell", type=float, default=0.1, help="seconds a window lasts; policies have 1 or more"
    )
    parser.add_argument("--max-pairs", type=int, default=24, help="as a policy's max_pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("calibration.jsonl"))
    args = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("toggling a real knob needs root: use sudo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the `finally`s, as Ctrl-C does
    with ExitStack() as stack:
        stack.enter_context(kept(DIRTY_EXPIRE))
        reports, dials, pids = stack.enter_context(running_load(args.seed))
        door = stack.enter_context(running_actor(args.seed))
        out = stack.enter_context(args.out.open("w"))
        if HALT_POLL.exists():
            stack.enter_context(kept(HALT_POLL))
        lines, kept_promises = [], True
        for group in groups(dials, args.trials, args.planted):
            dials[ROUNDS], dials[WORK], dials[HOG] = group.dials
            if group.apart:
                keep_apart(pids)
            start = time.monotonic()
            verdicts = []
            for number in range(group.trials):
                verdict = run_case(
                    door, reports, make_case(f"{group.name}-{number}", args.dwell, args.max_pairs), group.hold
                )
                verdicts.append(verdict)
                out.write(json.dumps({"group": group.name, **msgspec.to_builtins(verdict)}) + "\n")
                out.flush()
            lines.append(summary(group.name, verdicts, time.monotonic() - start))
            kept_promises &= group.promise(confirmations(verdicts))
    head = ("group", "trials", "confirmed", "95% bound", "pairs", "effect", "s/trial")
    print("{:10} {:>6} {:>9} {:>9} {:>6} {:>8} {:>7}".format(*head))
    print("\n".join(lines))
    return 0 if kept_promises else 1


if __name__ == "__main__":
    raise SystemExit(main())
