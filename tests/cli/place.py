"""A host in a directory: a root with a few knobs, a runtime and a state directory, and the commands on it.

What a daemon leaves behind is made by a real process through the ledger's and the history's own doors,
and that process is killed like a real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SWAPPINESS, DIRTY = "vm.swappiness", "vm.dirty_expire_centisecs"

ACT = """
import os, signal, sys, time
from pathlib import Path
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.adapters import adapters
from tuned_spec.ledger import repair
from tuned_spec.ledger.history import History, read
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import *

root, run, state = map(Path, sys.argv[1:4])
boot = repair.boot_id()
run.mkdir(parents=True, exist_ok=True)
lock = repair.take_lock(str(run))
history = History(state)
journal = Journal(run, boot)
ledger = Ledger(load(), adapters(root), journal, time.monotonic)

def note(kind, trial="", knobs=(), rule="", /, **data):
    history.record(Record(kind, time.monotonic(), trial, rule, knobs, data), time.time(), boot)

def change(trial, knob, value):
    note("proposed", trial, (knob,), "guess", writes=(Write(knob, value),), reason="memory is short",
         seen={"psi.memory.some": 0.31}, expect=Expect("psi.memory.some", Way.DOWN), confidence=0.5)
    done = ledger.apply(trial, "guess", (Write(knob, value),))
    note("applied", trial, (knob,), "guess", before=done.before, after=done.after, rounded=done.rounded,
         seconds=done.seconds)

def judge(trial, knob, kind, value, **figures):
    verdict = Verdict(trial, VerdictKind(kind), figures.pop("reason", "as measured"), **figures)
    import msgspec
    note("verdict", trial, (knob,), "guess", **msgspec.to_builtins(verdict))
    if kind == "confirm":
        ledger.hold(trial)
        note("confirmed", trial, (knob,), "guess", writes=(Write(knob, value),))
    else:
        outcomes = ledger.restore([knob])
        note("reverted", trial, (knob,), "guess", why="rejected", outcomes=outcomes)

def finish():
    assert history.close(10)

note("start", pid=os.getpid(), mode="lossy", policy=["default"], alpha=0.05, actor="trial", boot_id=boot,
     version="0")
"""

KILL = "\nfinish()\nos.kill(os.getpid(), signal.SIGKILL)\n"
STOP = """
note("stop", why="stopped by SIGTERM", outcomes=ledger.restore(None))
finish()
"""
HANG = "\nfinish()\nprint('ready', flush=True)\ntime.sleep(60)\n"


class Place:
    def __init__(self, base: Path) -> None:
        self.root, self.run, self.state = base / "root", base / "run", base / "state"
        self.sysctl(SWAPPINESS).parent.mkdir(parents=True)
        self.sysctl(SWAPPINESS).write_text("60\n")
        self.sysctl(DIRTY).write_text("3000\n")

    def sysctl(self, knob: str) -> Path:
        return self.root / "proc/sys" / knob.replace(".", "/")

    def argv(self, *words: str) -> list[str]:
        verb, *rest = words
        where = ("--root", self.root, "--runtime-dir", self.run, "--state-dir", self.state)
        return [sys.executable, "-m", "tuned_spec", verb, *map(str, where), *rest]

    def tell(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=30, env=environment(env)
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.tell(*words, "--json").stdout)
        assert document["v"] == 1
        return document

    def act(self, deeds: str, end: str = KILL) -> None:
        """A daemon's life: what it does, and how it ends."""
        argv = [sys.executable, "-c", ACT + deeds + end, str(self.root), str(self.run), str(self.state)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == (-signal.SIGKILL if end == KILL else 0), done.stderr

    def hang(self, deeds: str) -> subprocess.Popen[str]:
        """The same, and it stays: holding the lock, answering nobody. The caller ends it."""
        argv = [sys.executable, "-c", ACT + deeds + HANG, str(self.root), str(self.run), str(self.state)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process


def environment(more: dict[str, str]) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "COLUMNS": "90", **more}
