"""What a bench of several sections measured, and how it is told: a table, or one JSON document.

Owns rows, sections, the command line and the load averages around each. Must not know what is measured.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec

import tuned_spec


class Row(msgspec.Struct):
    """One measured figure. `samples` are in `unit`; the target is held against `figure`."""

    what: str
    unit: str
    target: float | None
    samples: list[float]
    figure: float
    note: str = ""

    @property
    def met(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.figure <= self.target else "NOT MET"


class Section(msgspec.Struct):
    name: str
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    rows: list[Row]


def reaction(what: str, target_ms: float | None, seconds: list[float], note: str = "") -> Row:
    ms = [s * 1e3 for s in seconds]
    return Row(what, "ms", target_ms, ms, median(ms) if ms else float("nan"), note)


Sections = Mapping[str, Callable[[bool], list[Row]]]  # told whether few repetitions will do


def run(name: str, sections: Sections, quick: bool) -> Section:
    before = os.getloadavg()
    rows = sections[name](quick)
    return Section(name, before, os.getloadavg(), rows)


def at(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


LINE = "{:44}{:>12}{:>10}{:>10}{:>10}{:>5}  {}"


def show(section: Section) -> None:
    loads = " -> ".join(
        " ".join(f"{x:.2f}" for x in load) for load in (section.load_before, section.load_after)
    )
    print(f"{section.name}: load average {loads}")
    for row in section.rows:
        target = "" if row.target is None else f"<= {row.target:g}"
        figures = (f"{x:.4g}" for x in (row.figure, at(row.samples, 0.95), max(row.samples, default=0.0)))
        print(LINE.format(f"  {row.what}, {row.unit}", target, *figures, len(row.samples), row.met).rstrip())
        if row.note:
            print(f"      {row.note}")
    sys.stdout.flush()


def main(argv: Sequence[str], prog: str, what: str, all_sections: Sections) -> int:
    """The command line of such a bench; `what` is its docstring. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=what.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that it works")
    parser.add_argument(
        "--only", choices=list(all_sections), action="append", help="this section (several: repeat)"
    )
    parser.add_argument("--json", action="store_true", help="one document with every sample")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print(f"{prog} writes kernel knobs and makes a network namespace: run it as root")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # daemon and loads end with us
    # As an installation has it, whatever PYTHONDONTWRITEBYTECODE says here.
    compileall.compile_dir(Path(tuned_spec.__file__).parent, quiet=1)
    python = platform.python_version()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {python}"
    if not args.json:
        print(machine)
        print(LINE.format("", "target", "median", "p95", "max", "n", ""))
    sections = []
    for name in args.only or all_sections:
        sections.append(run(name, all_sections, args.quick))
        if not args.json:
            show(sections[-1])
    if args.json:
        document = {
            "v": 1,
            "machine": machine,
            "quick": args.quick,
            "sections": msgspec.to_builtins(sections),
        }
        print(json.dumps(document))
    return 0
