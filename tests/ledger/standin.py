"""A file adapter and the few catalogue entries that the ledger's own tests need.

The real ones are in tuned_spec.knobs; these keep the tests of this room from depending on that one.
"""

from __future__ import annotations

import os
from pathlib import Path

from tuned_spec.errors import KnobAbsent, KnobRefused
from tuned_spec.ledger import repair
from tuned_spec.model import Coupling, CouplingKind, Frozen, Knob, KnobType, Receipt, Value


class Availability(Frozen, frozen=True):
    present: bool
    writable: bool
    why: str


class FileAdapter:
    """Knobs that are files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, knob: Knob) -> Path:
        return self.root / knob.target

    def probe(self, knob: Knob) -> Availability:
        path = self.path(knob)
        if not path.exists():
            return Availability(False, False, f"{path} does not exist")
        return Availability(True, os.access(path, os.W_OK), f"{path} cannot be written")

    def read_text(self, knob: Knob) -> str:
        try:
            return self.path(knob).read_text().strip()
        except FileNotFoundError as e:
            raise KnobAbsent(knob.id, "read", str(e), e.errno or 0) from e

    def parse(self, knob: Knob, text: str) -> Value:
        text = repair.shown(knob.type, text)
        match knob.type:
            case KnobType.INT | KnobType.BOOL:
                return int(text)
            case KnobType.INTS:
                return tuple(map(int, text.split()))
            case KnobType.CHOICE:
                return text

    def format(self, knob: Knob, value: Value) -> str:
        return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    def canonical(self, knob: Knob, value: Value) -> Value:
        return value - value % knob.quantum if isinstance(value, int) else value

    def identity(self, knob: Knob) -> str:
        return f"netns:[{Path('/proc/self/ns/net').stat().st_ino}]" if knob.scope == "netns" else ""

    def write(self, receipt: Receipt, knob: Knob) -> None:
        assert (receipt.knob, receipt.target) == (knob.id, str(self.path(knob)))
        fd = os.open(self.path(knob), os.O_WRONLY)
        try:
            os.write(fd, receipt.text.encode())
        except OSError as e:
            raise KnobRefused(
                knob.id, "write", f"{receipt.text!r} refused", e.errno or 0, "try another"
            ) from e
        finally:
            os.close(fd)


def adapters(root: Path = Path("/")) -> dict[str, FileAdapter]:
    return {"sysctl": FileAdapter(root / "proc/sys"), "sysfs": FileAdapter(root / "sys")}


def _knob(
    id: str,
    target: str,
    type: KnobType = KnobType.INT,
    *,
    adapter: str = "sysctl",
    coupled: tuple[Coupling, ...] = (),
    quantum: int = 1,
    scope: str = "host",
) -> Knob:
    return Knob(
        id=id,
        adapter=adapter,
        target=target,
        type=type,
        unit="",
        summary="for tests",
        source="Documentation/admin-guide/sysctl",
        coupled=coupled,
        quantum=quantum,
        scope=scope,
    )


def _zeroes(partner: str) -> tuple[Coupling, ...]:
    return (Coupling(partner, CouplingKind.ZEROES),)


SWAPPINESS, DIRTY_BYTES, DIRTY_RATIO = "vm.swappiness", "vm.dirty_bytes", "vm.dirty_ratio"
BACKGROUND_BYTES, BACKGROUND_RATIO = "vm.dirty_background_bytes", "vm.dirty_background_ratio"
TCP_RMEM, DEFRAG = "net.ipv4.tcp_rmem", "thp.defrag"
SCHEDULER, NR_REQUESTS, READ_AHEAD = (
    "block.loop0.scheduler",
    "block.loop0.nr_requests",
    "block.loop0.read_ahead_kb",
)

CATALOGUE = {
    knob.id: knob
    for knob in (
        _knob(SWAPPINESS, "vm/swappiness"),
        _knob(DIRTY_BYTES, "vm/dirty_bytes", coupled=_zeroes(DIRTY_RATIO)),
        _knob(DIRTY_RATIO, "vm/dirty_ratio", coupled=_zeroes(DIRTY_BYTES)),
        _knob(BACKGROUND_BYTES, "vm/dirty_background_bytes", coupled=_zeroes(BACKGROUND_RATIO)),
        _knob(BACKGROUND_RATIO, "vm/dirty_background_ratio", coupled=_zeroes(BACKGROUND_BYTES)),
        _knob(TCP_RMEM, "net/ipv4/tcp_rmem", KnobType.INTS, scope="netns"),
        _knob(DEFRAG, "kernel/mm/transparent_hugepage/defrag", KnobType.CHOICE, adapter="sysfs"),
        _knob(
            SCHEDULER,
            "block/loop0/queue/scheduler",
            KnobType.CHOICE,
            adapter="sysfs",
            coupled=(Coupling(NR_REQUESTS, CouplingKind.RESETS),),
        ),
        _knob(NR_REQUESTS, "block/loop0/queue/nr_requests", adapter="sysfs"),
        _knob(READ_AHEAD, "block/loop0/queue/read_ahead_kb", adapter="sysfs", quantum=4),
    )
}
