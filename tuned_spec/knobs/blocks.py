"""Disks: which there are, which one a name means, where its knobs are.

A disk counts if there is a device behind it (loop, ram, zram, dm and md have none: the disks below them do
the work), it is no hidden path of a multipath disk, and it holds a medium. Must not know what a knob means.
"""

from __future__ import annotations

from pathlib import Path

from ..model import Knob
from .facts import number


def disks(root: Path, entry: Knob) -> tuple[str, ...]:
    """Names as in /sys/block, sorted."""
    return tuple(sorted(disk.name for disk in (root / "sys/block").glob("*") if _is_real(disk)))


def _is_real(disk: Path) -> bool:
    return (disk / "device").exists() and number(disk / "hidden") != 1 and bool(number(disk / "size"))


def identity(root: Path, knob: Knob) -> str:
    """`diskseq:9@vda`: the kernel (5.15) numbers all disks it meets, of the same name or not."""
    try:
        sequence = (root / "sys/block" / knob.instance / "diskseq").read_text().strip()
    except OSError:
        return ""
    return f"diskseq:{sequence}@{knob.instance}"


def facts(root: Path, knob: Knob) -> dict[str, float]:
    kib = number(root / "sys/block" / knob.instance / "queue/max_hw_sectors_kb")
    return {} if kib is None else {"disk_request": kib * 1024}
