"""Does the daemon know a workload again? Real ones, one after another, seen through Sense as it would see them.

    python -m workloads.signature_bench capture --out RAW.jsonl [--visits 3] [--seconds 14] [--only NAME ...]
    python -m workloads.signature_bench judge RAW.jsonl

`capture` visits each workload several times in shuffled order, each time at another intensity, and keeps what was
sensed each second. `judge` lets the speculator live through the capture: it learns from the first visit and is
asked in the others; then once more with each workload held out entirely, when the only right answer is "unknown".
Nothing is tuned and no knob is written; clients talk to servers over loopback, files are in a directory of ours.
"""

from __future__ import annotations

import argparse
import json
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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuned_spec.sense.sensor import Sense
from workloads import life

TICK_S = 1.0
REDIS, WEB, UDP = 16379, 18080, 18081
PYTHON = sys.executable
Commands = list[list[str]]

# what is missing of these is said before anything starts: apt install sysbench fio redis-server nginx-light wrk gcc
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
        ["sysbench", "memory", "--memory-block-size=256M", "--memory-access-mode=rnd"]
        + ["--memory-total-size=100T", f"--threads={n}", "--time=3600", "run"]
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
                        row = {
                            "workload": name,
                            "visit": visit,
                            "intensity": intensity,
                            "tick": tick,
                            "t": round(seen.t, 3),
                            # of all CPUs, by programs that are not ours
                            "others": round(others[-1], 3),
                            "values": seen.values,
                        }
                        lines.write(json.dumps(row) + "\n")
                    lines.flush()
                    if any(process.poll() is not None for process in running):
                        print(f"{name}: ended by itself: is it installed and allowed here?", file=sys.stderr)
                    stop(running)
                    print(
                        f"visit {visit} {name} x{intensity}, others {statistics.mean(others):.0%} of the CPUs",
                        flush=True,
                    )
        sense.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("capture")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--visits", type=int, default=3)
    verb.add_argument("--seconds", type=int, default=14)
    verb.add_argument("--only", nargs="*", default=[], choices=list(LOADS))
    verb.add_argument("--seed", type=int, default=1)
    verb = verbs.add_parser("load")
    verb.add_argument("name", choices=list(OWN))
    verb.add_argument("arguments", nargs="*")
    arguments = parser.parse_args()
    if arguments.verb == "load":
        OWN[arguments.name](*arguments.arguments)
    if arguments.verb == "capture":
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            sys.exit(
                f"not installed: {', '.join(missing)}; apt-get install sysbench fio redis-server nginx-light wrk gcc"
            )
        capture(arguments.out.resolve(), arguments.visits, arguments.seconds, arguments.only, arguments.seed)


if __name__ == "__main__":
    main()
