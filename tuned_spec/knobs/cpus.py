"""CPUs, their interrupts, the queues of NICs: which there are, and which one a name means.

Must not know what a knob means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ..model import Knob
from .facts import number

# /proc/self/stat: the 22nd field, counted from behind the name, which may hold blanks and brackets
_START = 19


def irqs(root: Path, entry: Knob) -> tuple[str, ...]:
    """The interrupts that somebody handles, by number."""
    numbers = [irq.name for irq in (root / "proc/irq").glob("[0-9]*") if _actions(irq)]
    return tuple(sorted(numbers, key=int))


def irq_identity(root: Path, knob: Knob) -> str:
    """`irq:virtio1-req.0@36`: a number is given again to another device, whose handlers have other names."""
    return f"irq:{_actions(root / 'proc/irq' / knob.instance)}@{knob.instance}"


def _actions(irq: Path) -> str:
    """Whose interrupt it is: each has a directory in that of the number."""
    try:
        return ",".join(sorted(entry.name for entry in irq.iterdir() if entry.is_dir()))
    except OSError:
        return ""


def found(place: str, between: str = "") -> Callable[[Path, Knob], tuple[str, ...]]:
    """Instances by looking: `cpufreq/{}/scaling_governor` has as many as there are such files.

    With `between` a name is of two directories, with that one between them: `eth0/rx-0` is eth0/queues/rx-0.
    """

    def instances(root: Path, entry: Knob) -> tuple[str, ...]:
        star, name = (f"*/{between}/*", f"([^/]+)/{between}/([^/]+)") if between else ("*", "([^/]+)")
        shape = re.compile(name.join(map(re.escape, entry.target.split("{}"))))
        files = (root / place).glob(entry.target.replace("{}", star))
        matches = [shape.fullmatch(str(file.relative_to(root / place))) for file in files]
        return tuple(sorted("/".join(match.groups()) for match in matches if match))

    return instances


def frequencies(root: Path, knob: Knob) -> dict[str, float]:
    """Of one frequency policy."""
    khz = number(root / "sys/devices/system/cpu/cpufreq" / knob.instance / "cpuinfo_max_freq")
    return {} if khz is None else {"cpu_max_khz": khz}


def queues(root: Path, entry: Knob) -> tuple[str, ...]:
    """Queues of all interfaces but lo, whose packets are already where they should be."""
    return tuple(name for name in _queues(root, entry) if not name.startswith("lo/"))


_queues = found("sys/class/net", "queues")


def nic_identity(root: Path, knob: Knob) -> str:
    """`ifindex:3@eth0`: another interface of the same name has another index."""
    nic = knob.instance.partition("/")[0]
    try:
        return f"ifindex:{(root / 'sys/class/net' / nic / 'ifindex').read_text().strip()}@{nic}"
    except OSError:
        return ""


def holder(root: Path, knob: Knob) -> str:
    """`start:98765@1234`: this process, with which what it holds ends."""
    pid = os.getpid()
    return f"start:{(root / 'proc/self/stat').read_text().rpartition(')')[2].split()[_START]}@{pid}"
