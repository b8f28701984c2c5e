"""What an onlooker sees of the demo: the knobs as the kernel shows them, and the figures the loads print.

Owns plain reads of files and pipes. Nothing here asks the daemon, so what it notes can be held against what
the daemon says. Of the package it uses the catalogue alone, for the list of knobs and where they lie.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from tuned_spec.errors import KnobError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue

Snapshot = dict[str, str]


def clock() -> float:
    """Seconds of CLOCK_BOOTTIME, as in the history and in what the loads print."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Witness:
    """Knob files of the catalogue that can be read here, and their story: `trace[knob]` is (when, text)."""

    def __init__(self) -> None:
        self.paths = _files()
        self.start = self.snapshot()
        self.trace: dict[str, list[tuple[float, str]]] = {}
        self.samples: dict[str, list[tuple[float, float]]] = {}

    def snapshot(self) -> Snapshot:
        """Every knob of the catalogue that this host shows; blanks folded."""
        return {knob: text for knob, path in self.paths.items() if (text := _read(path)) is not None}

    def differing(self) -> dict[str, tuple[str, str]]:
        """Knobs that are not as at the start: (then, now)."""
        now = self.snapshot()
        return {
            knob: (text, now.get(knob, "gone"))
            for knob, text in self.start.items()
            if now.get(knob, "gone") != text
        }

    def look(self, knobs: list[str]) -> None:
        """Note these knobs' values where they are new."""
        for knob in knobs:
            text = _read(self.paths[knob])
            seen = self.trace.setdefault(knob, [])
            if text is not None and (not seen or seen[-1][1] != text):
                seen.append((clock(), text))

    def listen(self, load: Load) -> None:
        """Collect what a load prints, from now on, in a thread of its own."""
        threading.Thread(target=self._collect, args=(load.output,), daemon=True).start()

    def _collect(self, output: IO[str]) -> None:
        for line in output:
            when, name, value = line.split()
            self.samples.setdefault(name, []).append((float(when), float(value)))


class Load:
    """One bundled load in a process of its own. It ends by itself after `for_s` seconds, or with us."""

    def __init__(self, module: str, for_s: float, metrics: Path, uid: int, null: bool) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", module, "--echo", "--for", str(for_s)),
                *("--socket", str(metrics), "--uid", str(uid)),
                *(["--null"] if null else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is the demo's to handle
        )
        assert self.process.stdout is not None
        self.output: IO[str] = self.process.stdout

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _files() -> dict[str, Path]:
    """Where the knobs of this host lie, as far as they are files: of disks, CPUs, interrupts and queues, too,
    but not of control groups, which come and go by themselves."""
    access = adapters()
    catalogue = Catalogue(load(), access)
    found: dict[str, Path] = {}
    for entry in catalogue.values():
        names = [f"@{name}" for name in catalogue.instances(entry.id)] if entry.per else [""]
        for name in names if not entry.per.startswith("cgroup") else ():
            try:
                address = access[entry.adapter].address(catalogue[entry.id + name])
            except KnobError:
                continue
            if address.startswith("/"):
                found[entry.id + name] = Path(address)
    return found


def _read(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(errors="replace").split())
    except OSError:
        return None
