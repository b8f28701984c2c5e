"""A daemon of ours as its own process, a network namespace for the knobs that it turns, and loads.

Owns starting and ending them, and the check that all is as it was. Must not know what is measured.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuned_spec.cli import live
from tuned_spec.daemon.shell import clock
from tuned_spec.ledger.history import read
from tuned_spec.sense.gauges import send

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h; os.unshare is Python 3.12

# Two knobs of a network namespace that nobody else is in.
FILES = {
    "net.ipv4.tcp_notsent_lowat": Path("/proc/sys/net/ipv4/tcp_notsent_lowat"),
    "net.ipv4.tcp_limit_output_bytes": Path("/proc/sys/net/ipv4/tcp_limit_output_bytes"),
}
LOWAT, LIMIT = FILES

HERE = Path(__file__).resolve().parent.parent

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


class Daemon:
    """One daemon process, judged from outside: by the kernel's files and by what it answers."""

    def __init__(
        self,
        place: Path,
        *policies: str,
        checkout: Path = HERE,
        ready: str = "",
        mode: str = "lossy",
        actor: Path | None = None,
    ) -> None:
        """`ready`: the socket on which it says that it is. `actor`: the file of one that asks a model."""
        self.place, self.runtime, self.state = place, place / "run", place / "state"
        self.program = [sys.executable, "-m", "tuned_spec"]
        self.checkout, self.environment = checkout, environment(checkout) | {"NOTIFY_SOCKET": ready}
        program = [*self.program, "run", "--mode", mode, *(["--actor", str(actor)] if actor else [])]
        for policy in policies:
            program += ["--policy", policy]
        with (place / "log").open("wb") as log:
            # A session of its own, as init would give it: it must not share the loads' scheduling group.
            self.process = subprocess.Popen(
                [*program, *self.where()],
                cwd=checkout,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it has its actor."""
        wait_for(lambda: self.status()["actor"]["alive"], 30, "the daemon and its actor did not start")

    def where(self) -> list[str]:
        return ["--runtime-dir", str(self.runtime), "--state-dir", str(self.state)]

    def ask(self, do: str, *knobs: str) -> dict[str, Any]:
        return live.ask(self.runtime, do, knobs) or {}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status").get("status", {"actor": {"alive": False}, "tick_s": 0.0})
        return status

    def send(self, value: float, name: str = "p95_ms") -> None:
        assert send(self.runtime / "metrics.sock", name, value)

    def applied_at(self, since: float) -> float:
        """When the first change after `since` was made, as the daemon's own history has it."""

        def changes() -> list[float]:
            return [e.t for e in read(self.state, kinds=("applied",)) if e.t > since]

        wait_for(changes, 5, "no change is on record")
        return changes()[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)


def environment(checkout: Path) -> dict[str, str]:
    """As an installation has it: modules of that checkout, their bytecode cached."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return ours | {"PYTHONPATH": str(checkout)}


def policy_for(directory: Path, *rules: tuple[str, str]) -> str:
    """The file of a policy with one rule for each (condition, knob)."""
    text = HEAD
    for number, (when, knob) in enumerate(rules):
        text += (
            RULE.replace("NUMBER", str(number))
            .replace("WHEN", when)
            .replace("KNOB", knob)
            .replace("METRIC", when.split()[0])
        )
    policy = directory / "bench.yaml"
    policy.write_text(text)
    return str(policy)


@contextmanager
def daemon(*rules: tuple[str, str]) -> Iterator[Daemon]:
    """A daemon with one rule for each (condition, knob)."""
    with tempfile.TemporaryDirectory(prefix="daemon-bench-") as name:
        place = Path(name)
        running = Daemon(place, policy_for(place, *rules))
        try:
            running.wait()
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
