"""Kill the ledger anywhere, repair with the system's own python3, compare the host with before.

    python -m workloads.kill_matrix [--runs 1000] [--seed 1] [--boundaries]

Children are forked, write real knobs (coupled, rounded, two-step, a triple, a choice; of a disk, of an
interface and its queueing discipline, of a program that forks all the while), and die by SIGKILL: at each
checkpoint of apply, undo, hold and restore (--boundaries), or at random moments of a busy loop (--runs).
Every third repair of the random kills is killed too, and repaired again. Then each knob must show what it
showed before, read from outside. Prints one summary line; exit 1 on any mismatch.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from tuned_spec.errors import KnobRefused
from tuned_spec.knobs.adapters import adapters
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal, take_lock
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write, Writes
from workloads import trouble as e
from workloads.kill_stage import CHANGES as STAGED
from workloads.kill_stage import Stage, stage

PYTHON = "/usr/bin/python3"
LIBC = ctypes.CDLL(None)
BY = adapters()
PATHS = {id: Path(BY[knob.adapter].address(knob)) for id, knob in e.CATALOGUE.items()}
CATALOGUE = dict(e.CATALOGUE)
SHOWS: dict[str, Callable[[], str]] = {knob: path.read_text for knob, path in PATHS.items()}

CHANGES: list[tuple[Writes, Writes]] = [  # two arms each
    ((Write(e.SWAPPINESS, 31),), (Write(e.SWAPPINESS, 47),)),
    (
        (Write(e.DIRTY_BYTES, 64 << 20), Write(e.BACKGROUND_BYTES, 100_000_001)),
        (Write(e.DIRTY_RATIO, 33), Write(e.BACKGROUND_RATIO, 7)),
    ),
    ((Write(e.TCP_RMEM, (4096, 131072, 1 << 24)),), (Write(e.TCP_RMEM, (8192, 65536, 1 << 23)),)),
    ((Write(e.DEFRAG, "never"),), (Write(e.DEFRAG, "defer"),)),
    ((Write(e.READ_AHEAD, 131),), (Write(e.READ_AHEAD, 66), Write(e.SWAPPINESS, 12))),
    (
        (Write(e.SCHEDULER, "mq-deadline"), Write(e.NR_REQUESTS, 60)),
        (Write(e.SCHEDULER, "kyber"), Write(e.NR_REQUESTS, 99)),
    ),
]
HOSTS = len(CHANGES)
REFUSED: Writes = (Write(e.DIRTY_BYTES, 32 << 20), Write(e.SWAPPINESS, 999))  # the second is EINVAL


def snapshot() -> dict[str, str]:
    return {knob: show() for knob, show in SHOWS.items()}


@contextmanager
def on(stage: Stage) -> Iterator[None]:
    """The stage's knobs are changed, too."""
    CATALOGUE.update(stage.catalogue)
    SHOWS.update(stage.shows)
    CHANGES.extend(STAGED)
    try:
        yield
    finally:
        stage.reset()
        del CHANGES[HOSTS:]
        for knob in stage.catalogue:
            del CATALOGUE[knob]
        for knob in stage.shows:
            del SHOWS[knob]


def tour(ledger: Ledger) -> None:
    """Every path of the ledger once."""
    for n, (a, b) in enumerate(CHANGES):
        if n == 4:
            ledger.restore([e.SWAPPINESS])
        first = ledger.apply(f"t{n}", "tour", a)
        ledger.apply(f"t{n}", "tour", b)
        if n == 1:
            ledger.apply(f"t{n}", "tour", first.before)
            ledger.apply(f"t{n}", "tour", first.after)
    ledger.hold("t1")
    ledger.restore([e.SWAPPINESS, e.DIRTY_BYTES])
    with suppress(KnobRefused):
        ledger.apply("t9", "tour", REFUSED)
    ledger.apply("t9", "tour", CHANGES[1][0])
    ledger.restore()


def busy(ledger: Ledger, rng: random.Random) -> NoReturn:
    """Apply, toggle, hold, restore for ever. Scheduler switches are slow (25 ms), so they are rare."""
    trial = 0
    while True:
        trial += 1
        quick = (0, 1, 1, 2, 3, 4, *range(HOSTS, len(CHANGES)))
        a, b = CHANGES[rng.choice(quick if rng.random() < 0.97 else (5,))]
        name = f"t{trial}"
        try:
            for _ in range(rng.randrange(1, 6)):
                ledger.apply(name, "busy", rng.choice((a, b)))
            if rng.random() < 0.2:
                ledger.apply(name, "busy", REFUSED)
        except KnobRefused:
            pass
        match rng.randrange(4):
            case 0:
                ledger.hold(name)
                ledger.audit()
            case 1:
                ledger.restore([w.knob for w in a])
                continue
            case 2:
                ledger.restore()
        ledger.restore([row.knob for row in ledger.rows() if row.trial == name and row.status == "open"])


def child(directory: Path, work: Callable[[Ledger], None], checkpoint: repair.Checkpoint) -> int:
    """Fork a daemon's worth of ledger that does `work` and exits 0, or 1 with a traceback."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no busy loop outlives this program
        lock = take_lock(directory)
        ledger = Ledger(CATALOGUE, BY, Journal(directory, repair.boot_id()), time.monotonic, checkpoint)
        work(ledger)
        os.close(lock)
        code = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(code)


class Dies:
    """A checkpoint at which the process kills itself: the n-th that it passes."""

    def __init__(self, at: int) -> None:
        self.at, self.passed = at, 0

    def __call__(self, name: str) -> None:
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def repaired(directory: Path) -> subprocess.Popen[bytes]:
    """A repair as systemd or a person would start it: the copy in the runtime directory, nothing of ours."""
    return subprocess.Popen(
        [PYTHON, "-I", "-S", str(directory / "repair.py"), "--runtime-dir", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={},
    )


@contextmanager
def ground() -> Iterator[tuple[Path, dict[str, str]]]:
    """A runtime directory in memory as /run is, and the host before; put back whatever happens."""
    before = snapshot()
    with tempfile.TemporaryDirectory(dir="/run" if os.access("/run", os.W_OK) else None) as name:
        try:
            yield Path(name), before
        finally:
            put_back(before)


def put_back(before: dict[str, str]) -> None:
    """The last resort of this program itself; not what is tested."""
    for _ in range(2):
        for knob in PATHS:
            text = before[knob]
            if PATHS[knob].read_text() != text and text.strip() != "0":
                with suppress(OSError):  # the mismatch is what is reported
                    PATHS[knob].write_text(repair.shown(e.CATALOGUE[knob].type, text))


def mismatch(before: dict[str, str], output: bytes, code: int | None, where: str) -> str:
    """ "" if every knob is back and the repair said so."""
    now = snapshot()
    wrong = [f"{k}: {before[k].strip()!r} is now {now[k].strip()!r}" for k in before if now[k] != before[k]]
    if not wrong and code == 0:
        return ""
    return f"{where}: exit {code}; {'; '.join(wrong)}\n{output.decode(errors='replace')}"


def boundaries() -> tuple[int, list[str]]:
    """Die at each checkpoint of the tour in turn: how many there were, and what went wrong."""
    wrong: list[str] = []
    at = 0
    while True:
        at += 1
        with ground() as (directory, before):
            pid = child(directory, tour, Dies(at))
            _, status = os.waitpid(pid, 0)
            if os.WIFEXITED(status):
                if os.WEXITSTATUS(status) or snapshot() != before:
                    wrong.append(f"the tour itself failed: status {status}")
                return at - 1, wrong
            process = repaired(directory)
            output, _ = process.communicate()
            if said := mismatch(before, output, process.returncode, f"checkpoint {at}"):
                wrong.append(said)


DYING_REPAIR = """
import importlib.util, os, signal, sys
path, at = sys.argv[1], int(sys.argv[2])
spec = importlib.util.spec_from_file_location("repair", os.path.join(path, "repair.py"))
repair = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repair)
passed = 0
def checkpoint(name):
    global passed
    passed += 1
    if passed == at:
        os.kill(os.getpid(), signal.SIGKILL)
sys.exit(repair.main(["--runtime-dir", path], checkpoint))
"""


def changed(ledger: Ledger) -> None:
    """Every change at once, then death without a word."""
    for n in (1, 2, 3, *range(5, len(CHANGES) - 1)):
        ledger.apply(f"t{n}", "changed", CHANGES[n][0])
    os.kill(os.getpid(), signal.SIGKILL)


def repair_boundaries() -> tuple[int, list[str]]:
    """Kill the repair at each of its checkpoints in turn, then repair: how many, and what went wrong."""
    wrong: list[str] = []
    at = 0
    while True:
        at += 1
        with ground() as (directory, before):
            os.waitpid(child(directory, changed, repair.nothing), 0)
            dying = subprocess.run(
                [PYTHON, "-I", "-S", "-c", DYING_REPAIR, str(directory), str(at)], capture_output=True
            )
            if dying.returncode != -signal.SIGKILL:
                said = mismatch(before, dying.stdout + dying.stderr, dying.returncode, "repair left alone")
                return at - 1, [*wrong, said] if said else wrong
            process = repaired(directory)
            output, _ = process.communicate()
            if said := mismatch(before, output, process.returncode, f"repair killed at its checkpoint {at}"):
                wrong.append(said)


def random_kills(runs: int, seed: int) -> tuple[int, list[str]]:
    """`runs` kills of a busy loop; how many repairs were killed too, and what went wrong."""
    rng = random.Random(seed)
    killed_repairs = 0
    wrong: list[str] = []
    for run in range(runs):
        with ground() as (directory, before):
            own = random.Random(rng.random())
            pid = child(directory, lambda ledger, own=own: busy(ledger, own), repair.nothing)  # type: ignore[misc]
            while not (directory / repair.INDEX).exists():  # else most would die before the first write
                if os.waitpid(pid, os.WNOHANG) != (0, 0):
                    return killed_repairs, [*wrong, f"run {run}: the busy loop ended by itself"]
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status):
                wrong.append(f"run {run}: the busy loop failed: status {status}")
            if run % 3 == 0:
                process = repaired(directory)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0.02, 0.09))
                if process.poll() is None:
                    process.kill()
                    killed_repairs += 1
                process.communicate()
            process = repaired(directory)
            output, _ = process.communicate()
            if said := mismatch(before, output, process.returncode, f"run {run}"):
                wrong.append(said)
    return killed_repairs, wrong


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kill_matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--boundaries", action="store_true", help="also die at every checkpoint")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("kill_matrix writes kernel knobs: run it as root")
        return 2
    start = time.monotonic()
    wrong: list[str] = []
    with e.alone(), stage() as own, on(own):
        if args.boundaries:
            for name, matrix in (("ledger", boundaries), ("repair", repair_boundaries)):
                points, failed = matrix()
                wrong += failed
                print(
                    f"{name}: {points - len(failed)} of {points} checkpoints with every knob back", flush=True
                )
        killed_repairs, lost = random_kills(args.runs, args.seed)
    print(
        f"random kills: {args.runs - len(lost)} of {args.runs} with every knob back; "
        f"{killed_repairs} repairs killed too; seed {args.seed}, {time.monotonic() - start:.0f} s"
    )
    for line in wrong + lost:
        print(line, file=sys.stderr)
    return 1 if wrong or lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
