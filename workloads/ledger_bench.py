"""What a journaled write costs, beside a bare write and read of the same knob in the same run.

    python -m workloads.ledger_bench [--times 5000] [--runtime-dir D]

Rounds alternate between the bare knob, a first apply with its restore, a journaled toggle, and a toggle of a
coupled pair, so that noise of the host falls on all alike. Then a restore of 100 knobs at once, in a network
namespace of its own. Every knob is put back.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from tuned_spec.errors import KnobRefused
from tuned_spec.knobs.adapters import adapters
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Knob, KnobType, Write
from workloads import trouble as e

BY = adapters()


def bare(values: list[int]) -> None:
    path = BY["sysctl"].address(e.CATALOGUE[e.SWAPPINESS])
    text = str(values[0]).encode()
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text)
    os.close(fd)
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)
    values.reverse()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def line(name: str, us: list[float], base: list[float]) -> str:
    def at(series: list[float], share: float) -> float:
        return sorted(series)[min(len(series) - 1, int(len(series) * share))]

    figures = [f"{median(us):9.0f}", *(f"{at(us, share):9.0f}" for share in (0.99, 0.999))]
    ratios = f"x{median(us) / median(base):.1f} of bare, p99 x{at(us, 0.99) / at(base, 0.99):.1f}"
    return f"{name:34}{''.join(figures)}   {ratios}"


def swappiness(directory: Path, times: int) -> list[str]:
    """Bare and journaled, in turn."""
    journal = Journal(directory, repair.boot_id())
    ledger = Ledger(e.CATALOGUE, BY, journal, time.perf_counter)
    original = ledger.value(e.SWAPPINESS)
    ratio = ledger.value(e.DIRTY_RATIO)
    assert isinstance(original, int) and isinstance(ratio, int)
    figures: dict[str, list[float]] = {"bare": [], "toggle": [], "first": [], "restore": [], "coupled": []}
    arms = [31, 47]
    pair = [Write(e.DIRTY_BYTES, 64 << 20), Write(e.DIRTY_RATIO, ratio)]
    try:
        for n in range(times):
            figures["bare"].append(timed(lambda: bare(arms)))
            os.write(
                fd := os.open(BY["sysctl"].address(e.CATALOGUE[e.SWAPPINESS]), os.O_WRONLY), b"%d" % original
            )
            os.close(fd)
            arm = (Write(e.SWAPPINESS, arms[0]),)
            figures["first"].append(timed(lambda arm=arm: ledger.apply("t1", "bench", arm)))  # type: ignore[misc]
            arm = (Write(e.SWAPPINESS, arms[1]),)
            figures["toggle"].append(timed(lambda arm=arm: ledger.apply("t1", "bench", arm)))  # type: ignore[misc]
            figures["restore"].append(timed(lambda: ledger.restore([e.SWAPPINESS])))
            if n % 5 == 0 and ratio:
                change = (pair[n // 5 % 2],)
                figures["coupled"].append(timed(lambda c=change: ledger.apply("t2", "bench", c)))  # type: ignore[misc]
    finally:
        ledger.restore()
        journal.close()
    names = {
        "bare": "bare write + read",
        "toggle": "journaled apply",
        "first": "first apply (new original, proof)",
        "restore": "restore of one knob",
        "coupled": "journaled apply, coupled pair",
    }
    return [line(names[kind], us, figures["bare"]) for kind, us in figures.items() if us]


def hundred(directory: Path, rounds: int) -> str:
    """A hundred knobs of a network namespace of our own: change each, then restore all at once."""
    ctypes.CDLL(None, use_errno=True).unshare(0x40000000)  # CLONE_NEWNET; os.unshare is Python 3.12
    root = Path("/proc/sys")
    found: dict[str, Knob] = {}
    for path in sorted(
        [*root.glob("net/ipv4/tcp_*"), *root.glob("net/ipv4/*"), *root.glob("net/ipv4/neigh/lo/*")]
    ):
        target = str(path.relative_to(root))
        if (
            path.is_file()
            and not path.name.startswith(MOVED_BY_OTHERS)
            and path.read_text().strip().isdigit()
        ):
            found[target] = Knob(
                id=target,
                adapter="sysctl",
                target=target,
                type=KnobType.INT,
                unit="",
                summary="",
                source="Documentation/networking/ip-sysctl.rst",
                scope="netns",
            )
    took: list[float] = []
    for n in range(rounds):
        journal = Journal(directory / str(n), repair.boot_id())
        ledger = Ledger(found, BY, journal, time.perf_counter)
        changed = 0
        for knob in found:
            value = ledger.value(knob)
            assert isinstance(value, int)
            with suppress(KnobRefused):  # the kernel bounds many of them
                ledger.apply("t1", "bench", (Write(knob, value + 1 if value != 1 else 0),))
                changed += 1
            if changed == 100:
                break
        took.append(timed(ledger.restore) / 1000)
        assert changed == 100 and all(row.status == "restored" for row in ledger.rows())
        journal.close()
    return (
        f"restore of 100 knobs: median {median(took):.1f} ms, longest {max(took):.1f} ms in {rounds} rounds"
    )


# Files that move with another one (the same number in another unit), or that bound each other.
MOVED_BY_OTHERS = ("base_reachable_time", "retrans_time", "ipfrag", "unres_qlen", "tcp_fastopen_key")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="ledger_bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=5000)
    parser.add_argument(
        "--runtime-dir", type=Path, help="where the journal lies (default: a new one in /run)"
    )
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("ledger_bench writes kernel knobs: run it as root")
        return 2
    with tempfile.TemporaryDirectory(dir=args.runtime_dir or "/run") as name:
        print(f"{'us':34}{'median':>9}{'p99':>9}{'p99.9':>9}   {args.times} rounds, journal in {name}")
        with e.alone():
            for text in swappiness(Path(name), args.times):
                print(text)
        print(hundred(Path(name), 20))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
