"""Knobs for the ledger's tests and measurements: each kind of trouble once.

Coupled by zeroing, coupled by resetting, rounded, a triple, a bracketed choice. The device is a loop
device without a file behind it, so that nobody's disk is tuned.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuned_spec.model import Coupling, CouplingKind, Knob, KnobType


def _knob(
    id: str,
    target: str,
    type: KnobType = KnobType.INT,
    *,
    adapter: str = "sysctl",
    coupled: tuple[Coupling, ...] = (),
    quantum: int = 1,
    scope: str = "host",
    fields: tuple[str, ...] = (),
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
        fields=fields,
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
        _knob(TCP_RMEM, "net/ipv4/tcp_rmem", KnobType.INTS, scope="netns", fields=("min", "default", "max")),
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


@contextmanager
def alone() -> Iterator[None]:
    """A host has one set of knobs: runs of tests and measurements wait for each other."""
    with (Path(tempfile.gettempdir()) / f"tuned-spec-knobs-{os.geteuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
