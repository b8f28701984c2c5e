"""A real daemon on the real kernel, in directories of its own, with real samples sent to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuned_spec.ledger.history import Entry, read
from tuned_spec.sense.gauges import send

# A knob that every kernel has, that nothing here depends on, and that takes effect at once.
KNOB = "vm.page-cluster"
FILE = Path("/proc/sys/vm/page-cluster")

POLICY = """
version: 1
mode: lossy
settings: {changes_per_minute: 60, rest: 1s}
metrics:
  app.p95_ms: {owner: root}
rules:
  - id: guess
    reason: a test
    source: none
    when: [app.p95_ms > 10 clear 5]
    do: {vm.page-cluster: multiply 0.5}
    expect: app.p95_ms falls by 5%
    cooldown: 1s
    settle: SETTLE
    dwell: SETTLE
    lease: LEASE
"""


class Host:
    """One daemon process. `send` reports a gauge to it; `history` reads what it decided."""

    def __init__(self, place: Path, settle: str = "1s", lease: str = "5m") -> None:
        self.place, self.runtime, self.state = place, place / "run", place / "state"
        self.policy = place / "test.yaml"
        self.policy.write_text(POLICY.replace("SETTLE", settle).replace("LEASE", lease))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, **env: str) -> None:
        with (self.place / "log").open("ab") as log:
            program = [sys.executable, "-m", "tuned_spec", "run", "--policy", str(self.policy)]
            self.process = subprocess.Popen(
                [*program, *self.where(), *more],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **env},
            )
        until(lambda: "start" in self.kinds(), f"the daemon did not start:\n{self.said()}")

    def start_with(self, *actor: str, stderr: int | None = None, cwd: Path | None = None) -> None:
        """As `start`, but with that program as the actor (see stranger.py)."""
        options = {"policy": str(self.policy), "runtime": str(self.runtime), "state": str(self.state)}
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.daemon.stranger", json.dumps(options), json.dumps(actor)],
                stderr=log if stderr is None else stderr,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
            )
        until(lambda: "start" in self.kinds(), f"the daemon did not start:\n{self.said()}")

    def where(self) -> list[str]:
        return ["--runtime-dir", str(self.runtime), "--state-dir", str(self.state)]

    def said(self) -> str:
        return (self.place / "log").read_text()

    def send(self, value: float, name: str = "p95_ms") -> None:
        send(self.runtime / "metrics.sock", name, value)

    def history(self) -> list[Entry]:
        return read(self.state)

    def kinds(self) -> list[str]:
        try:
            return [e.kind for e in self.history()]
        except Exception:  # not there yet
            return []

    def entry(self, kind: str) -> Entry:
        return next(e for e in self.history() if e.kind == kind)

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        verb, *rest = words
        return subprocess.run(
            [sys.executable, "-m", "tuned_spec", verb, *self.where(), *rest],
            capture_output=True,
            text=True,
            timeout=30,
            check=check,
        )

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.command("status", "--json", check=False).stdout)
        return status

    def ask(self, line: bytes, uid: int = 0) -> bytes:
        """One line to the control socket as that user; returns the answer."""
        program = (
            "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]);"
            "os.setuid(int(sys.argv[2])); s.settimeout(10); s.connect('control.sock');"
            "s.sendall(sys.stdin.buffer.read()); sys.stdout.buffer.write(s.makefile('rb').readline())"
        )
        words = [sys.executable, "-c", program, str(self.runtime), str(uid)]
        return subprocess.run(words, input=line + b"\n", stdout=subprocess.PIPE, check=True).stdout

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    def stop(self) -> int:
        return self.kill(signal.SIGTERM)


@contextmanager
def host(place: Path, **more: str) -> Iterator[Host]:
    """The knob is what it was, whatever a test did; a daemon left behind is ended."""
    original = FILE.read_text()
    machine = Host(place, **more)
    try:
        yield machine
    finally:
        if machine.process and machine.process.poll() is None:
            machine.stop()
        FILE.write_text(original)
        assert FILE.read_text() == original


def until(true: Callable[[], bool], otherwise: str, seconds: float = 15.0) -> None:
    """Wait for something to become true; no figure of the wait is ever asserted."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
