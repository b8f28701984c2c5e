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
    """`inode:9@/sys/block/vda/queue`: sysfs numbers each directory it makes anew, of the same name or not.

    Not diskseq: that counts media, too, and what was set stays when a card or a loop device's file changes.
    """
    queue = root / "sys/block" / knob.instance / "queue"
    try:
        return f"inode:{queue.stat().st_ino}@{queue}"
    except OSError:
        return ""


def facts(root: Path, knob: Knob) -> dict[str, float]:
    kib = number(root / "sys/block" / knob.instance / "queue/max_hw_sectors_kb")
    return {} if kib is None else {"disk_request": kib * 1024}
