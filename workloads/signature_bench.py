"""Does the daemon know a workload again? Real ones, one after another, seen through Sense as it sees them.

    python -m workloads.signature_bench capture --out RAW.jsonl [--visits 3] [--seconds 14] [--only NAME ...]
    python -m workloads.signature_bench judge RAW.jsonl

`capture` visits each workload several times in shuffled order, each time at another intensity, and keeps what
was sensed each second, and how much of the CPUs others took. `judge` lets the speculator live through that:
it learns from the first visit and is asked in the others; then once more with each workload held out
entirely, when the only right answer is "unknown". Nothing is tuned and no knob is written; clients talk to
servers over loopback, files are in a directory of ours.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from tuned_spec.model import Expect, Frozen, Way, Write
from tuned_spec.sense.sensor import Sense
from tuned_spec.speculate.prior import Fate, Lesson, Priors, Recall, learn, recall
from tuned_spec.speculate.signature import Signature, Watched, signature, watch
from workloads import life

TICK_S = 1.0
REDIS, WEB, UDP = 16379, 18080, 18081
PYTHON = sys.executable
Commands = list[list[str]]

# what is missing of these is said before anything starts
PROGRAMS = ("sysbench", "fio", "redis-server", "redis-benchmark", "nginx", "wrk", "gcc")


def _fio(directory: Path, *options: str) -> list[str]:
    file = f"--filename={directory / 'fio'}"
    # In a thread: its processes would leave the session by which they are ended.
    return ["fio", "--name=load", file, "--size=1G", "--time_based", "--runtime=3600", "--thread", *options]


def _own(name: str, *arguments: object) -> list[str]:
    return [PYTHON, "-m", "workloads.signature_bench", "load", name, *map(str, arguments)]


def _module(name: str) -> list[str]:
    return [PYTHON, "-m", f"workloads.{name}", "--for", "3600"]


# workload -> the commands that make it up at an intensity of 1 or 2
LOADS: dict[str, Callable[[Path, int], Commands]] = {
    "idle": lambda d, n: [],
    "cpu": lambda d, n: [
        ["sysbench", "cpu", f"--threads={8 * n}", "--cpu-max-prime=80000", "--time=3600", "run"]
    ],
    "wakeups": lambda d, n: [_own("periodic"), *[_own("spin")] * (3 * n)],
    "pingpong": lambda d, n: [_module("pingpong")] * n,
    "redis": lambda d, n: [
        ["redis-benchmark", "-p", str(REDIS), "-c", str(20 * n), "-n", "1000000000", "-t", "get", "-q"]
    ],
    "web": lambda d, n: [
        *[["wrk", f"-c{40 * n}", "-t1", "-d3600", "-H", "Connection: close", f"http://127.0.0.1:{WEB}/"]]
    ],
    "fsync": lambda d, n: [
        _fio(d, "--rw=write", "--bs=4k", "--fsync=1", "--ioengine=psync", f"--numjobs={n}")
    ],
    "seqread": lambda d, n: [
        _fio(d, "--rw=read", "--bs=1M", "--direct=1", "--ioengine=libaio", f"--iodepth={2 * n}")
    ],
    "randread": lambda d, n: [
        _fio(d, "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio", f"--iodepth={8 * n}")
    ],
    "udp": lambda d, n: [_own("udp", 50 * n)],
    "walk": lambda d, n: [_own("walk")] * n,
    "compile": lambda d, n: [_own("compile", d / f"c{job}") for job in range(n)],
    "stream": lambda d, n: [_module("urgent")] * n,
    "memory": lambda d, n: [
        f"sysbench memory --threads={n} --memory-block-size=256M --memory-access-mode=rnd "
        "--memory-total-size=100T --time=3600 run".split()
    ],
}


# ------------------------------------------------------------------------------- loads of our own


def periodic() -> None:
    """Wakes every half millisecond and does next to nothing."""
    while True:
        time.sleep(0.0005)


def spin() -> None:
    while True:
        pass


def udp(burst: str) -> None:
    """Bursts of datagrams, 200 a second, from one process to another."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    parent = os.getpid()
    if os.fork() == 0:
        life.die_with_parent(parent)
        while True:
            receiver.recv(2048)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(receiver.getsockname())
    while True:
        for _ in range(int(burst)):
            sender.send(b"." * 200)
        time.sleep(0.005)


def walk() -> None:
    """Looks at every file below /usr, again and again."""
    while True:
        for directory, _, names in os.walk("/usr"):
            for name in names:
                with suppress(OSError):
                    os.lstat(f"{directory}/{name}")


def compile_(directory: str) -> None:
    """What `make -j` does: a compiler each for many small files."""
    place = Path(directory)
    place.mkdir(exist_ok=True)
    source = place / "a.c"
    body = "\n".join(f'int f{n}(int x) {{ return printf("%d", x * {n}) + x / {n + 1}; }}' for n in range(60))
    source.write_text(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{body}\n")
    while True:
        subprocess.run(["gcc", "-O2", "-c", source, "-o", place / "a.o"], check=True)


OWN: dict[str, Callable[..., None]] = {
    "periodic": periodic,
    "spin": spin,
    "udp": udp,
    "walk": walk,
    "compile": compile_,
}

# ---------------------------------------------------------------------------------- capture


@contextmanager
def servers(directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """redis and nginx on loopback, and the file that fio reads, before anything is measured."""
    conf = directory / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;\n"
        f"  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n"
        f'  server {{ listen 127.0.0.1:{WEB}; return 200 "{"x" * 600}"; }} }}\n'
    )
    subprocess.run(
        ["fio", "--name=lay", f"--filename={directory / 'fio'}", "--size=1G", "--rw=write", "--bs=1M"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    redis = ["redis-server", "--port", str(REDIS), "--save", "", "--dir", str(directory)]
    started = start([[*redis, "--daemonize", "no"], ["nginx", "-c", str(conf), "-p", str(directory)]])
    time.sleep(1.0)
    try:
        yield started
    finally:
        stop(started)


def start(commands: Commands) -> list[subprocess.Popen[bytes]]:
    parent = os.getpid()
    return [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: life.die_with_parent(parent),
        )
        for command in commands
    ]


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends them with all that they started."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def cpu_seconds(sessions: Collection[int]) -> float:
    """CPU time that the processes of these sessions have used so far, and what they waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[3]) in sessions:
                ticks += sum(map(int, words[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def capture(out: Path, visits: int, seconds: int, only: list[str], seed: int) -> None:
    """Runs everything and writes a line a tick. The tick in which a load begins is marked `mixed`."""
    dice = random.Random(seed)
    names = only or list(LOADS)
    with tempfile.TemporaryDirectory(prefix="tuned-spec-bench-", dir=out.parent) as scratch:
        directory = Path(scratch)
        sense = Sense(Path("/"))
        cpus = os.cpu_count() or 1
        with servers(directory) as served, out.open("a") as lines:
            next_tick = time.monotonic()
            for visit in range(visits):
                for name in dice.sample(names, len(names)):
                    intensity = 1 + (visit + names.index(name)) % 2
                    running = start(LOADS[name](directory, intensity))
                    sessions = {process.pid for process in (*running, *served)}
                    used, others = cpu_seconds(sessions), []
                    for tick in range(seconds + 1):
                        next_tick += TICK_S
                        time.sleep(max(0.0, next_tick - time.monotonic()))
                        seen = sense.observe(time.monotonic())
                        used, before = cpu_seconds(sessions), used
                        others.append(seen.values.get("cpu.busy", 0.0) - (used - before) / TICK_S / cpus)
                        row = Row(name, visit, intensity, tick, seen.t, seen.values, others[-1])
                        lines.write(msgspec.json.encode(row).decode() + "\n")
                    lines.flush()
                    if any(process.poll() is not None for process in running):
                        print(f"{name}: ended by itself: is it installed and allowed here?", file=sys.stderr)
                    stop(running)
                    print(
                        f"visit {visit} {name} x{intensity}, others {statistics.mean(others):.0%} of CPUs",
                        flush=True,
                    )
        sense.close()


# ------------------------------------------------------------------------------------ judge


class Row(Frozen, frozen=True):
    """One tick of a capture, as it is written."""

    workload: str
    visit: int
    intensity: int
    tick: int
    t: float
    values: dict[str, float]
    others: float = 0.0  # share of all CPUs that programs took which are not ours


class Tick(Frozen, frozen=True):
    """What is judged of it."""

    workload: str
    visit: int
    tick: int
    seen: Signature | None
    others: float = 0.0

    @property
    def place(self) -> tuple[str, int]:
        return self.workload, self.visit


def of_rows(rows: Sequence[Row], cpus: int) -> list[Tick]:
    return [Tick(row.workload, row.visit, row.tick, signature(row.values, cpus), row.others) for row in rows]


def lesson(name: str, signature: Signature, trial: str) -> Lesson:
    """As if a knob had been confirmed under this workload, whose value is the workload's name."""
    writes = (Write("bench", name),)
    return Lesson(trial, Fate.CONFIRMED, signature, writes, "bench", Expect("app.bench", Way.DOWN), gain=0.5)


def walk_through(rows: Sequence[Tick]) -> Iterator[tuple[Tick, Watched, bool]]:
    """What the daemon would know at each tick, and whether it saw a change."""
    memory = Watched()
    for number, row in enumerate(rows):
        memory, changed = watch(memory, row.seen, float(number))
        yield row, memory if row.seen else Watched(), changed


def learned(rows: Sequence[Tick], visits: Collection[int], without: str = "") -> Priors:
    """Priors after these visits, each of which taught one lesson at its end. Idling teaches nothing."""
    ends = {row.place: memory for row, memory, _ in walk_through(rows)}
    priors = Priors()
    for (name, visit), memory in ends.items():
        if visit in visits and name not in ("idle", without) and memory.usual:
            priors = learn(priors, lesson(name, memory.usual, f"{name}.{visit}"), wall=float(visit))
    return priors


def answers(rows: Sequence[Tick], priors: Priors) -> Iterator[tuple[Tick, str]]:
    """What is recalled at each tick: a workload's name, "unknown" or "idle"; not at the mixed first one."""
    for row, memory, _ in walk_through(rows):
        if row.tick == 0:
            continue
        if not memory.recent:
            yield row, "idle"
            continue
        said = recall(priors, memory.recent, wall=float(row.visit))
        yield row, str(said.settings[0].write.value) if isinstance(said, Recall) else "unknown"


def strangers(rows: Sequence[Tick]) -> tuple[int, list[str]]:
    """Each workload where only the others are known: ticks asked, and those taken for a known one."""
    asked, fooled = 0, []
    for name in sorted({row.workload for row in rows} - {"idle"}):
        priors = learned(rows, {row.visit for row in rows}, without=name)
        said = [(row, what) for row, what in answers(rows, priors) if row.workload == name and what != "idle"]
        asked += len(said)
        fooled += [f"{name}.{row.visit} as {what}" for row, what in said if what != "unknown"]
    return asked, fooled


def judge(rows: Sequence[Tick], taught: Collection[int]) -> None:
    names = sorted({row.workload for row in rows})
    columns = [*(name for name in names if name != "idle"), "unknown", "idle"]
    asked = sorted({row.visit for row in rows} - set(taught))
    priors = learned(rows, taught)
    said = [(row, what) for row, what in answers(rows, priors) if row.visit in asked]
    print(f"learned from visits {sorted(taught)}, asked in {asked}; ticks, rows actual, columns recalled\n")
    print("| |", " | ".join(columns), "| first right, ticks | others |")
    print("|---" * (len(columns) + 3) + "|")
    for name in names:
        counts = collections.Counter(what for row, what in said if row.workload == name)
        visits = {visit: [(r, w) for r, w in said if r.place == (name, visit)] for visit in asked}
        first = [
            str(next((r.tick for r, w in ticks if w == name), "-")) for ticks in visits.values() if ticks
        ]
        others = statistics.mean(row.others for row in rows if row.workload == name)
        cells = " | ".join(str(counts[column] or "") for column in columns)
        print(f"| {name} | {cells} | {' '.join(first)} | {others:.0%} |")
    right = sum(what == row.workload for row, what in said if row.workload != "idle")
    wrong = sum(what not in ("unknown", "idle", row.workload) for row, what in said)
    busy = sum(row.workload != "idle" and what != "idle" for row, what in said)
    print(f"\nright {right} of {busy} ticks ({right / busy:.0%}), wrong {wrong} of {len(said)} ticks")
    asked_of, fooled = strangers(rows)
    print(f"held out: {len(fooled)} of {asked_of} ticks taken for a known one: {collections.Counter(fooled)}")
    alarms = [(row, changed) for row, _, changed in walk_through(rows)]
    later = [changed for row, changed in alarms if row.tick > 2]
    soon = {row.place for row, changed in alarms if changed and row.tick <= 2}
    print(
        f"changes: {len(soon)} of {len({row.place for row in rows})} visits noticed within 2 ticks after the "
        f"one they began in; later {sum(later)} alarms in {len(later)} ticks"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("capture")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--visits", type=int, default=3)
    verb.add_argument("--seconds", type=int, default=14)
    verb.add_argument("--only", nargs="*", default=[], choices=list(LOADS))
    verb.add_argument("--seed", type=int, default=1)
    verb = verbs.add_parser("judge")
    verb.add_argument("raw", type=Path, nargs="+")
    verb.add_argument("--learn", type=int, nargs="+", default=[0], metavar="VISIT")
    verb.add_argument("--cpus", type=int, default=os.cpu_count(), help="of the host of the capture")
    verb = verbs.add_parser("load")
    verb.add_argument("name", choices=list(OWN))
    verb.add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    if arguments.verb == "load":
        OWN[arguments.name](*arguments.arguments)
    if arguments.verb == "judge":
        lines = [line for raw in arguments.raw for line in raw.read_bytes().splitlines()]
        rows = [msgspec.json.decode(line, type=Row) for line in lines]
        judge(of_rows(rows, arguments.cpus), arguments.learn)
    if arguments.verb == "capture":
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            sys.exit(
                f"not installed: {', '.join(missing)}; "
                "apt-get install sysbench fio redis-server redis-tools nginx-light wrk gcc"
            )
        capture(arguments.out.resolve(), arguments.visits, arguments.seconds, arguments.only, arguments.seed)


if __name__ == "__main__":
    main()
