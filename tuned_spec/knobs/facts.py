"""The facts of this host that caps and policies compute with.

Owns where each fact is read. Must not know of knobs or expressions; `caps.FACTS` says what each name means.
A fact that cannot be read is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def host_facts(root: Path = Path("/")) -> dict[str, float]:
    """What is known of the whole host, read below `root`."""
    meminfo = _meminfo(root)
    read: dict[str, Callable[[], float | None]] = {
        "ram": lambda: meminfo.get("MemTotal"),
        "huge_page": lambda: meminfo.get("Hugepagesize"),
        "cpus": lambda: _online(root),
        "nodes": lambda: float(len(list((root / "sys/devices/system/node").glob("node[0-9]*")))) or None,
        "page": lambda: float(os.sysconf("SC_PAGE_SIZE")),
        "line_rate": lambda: _line_rate(root),
    }
    known = {name: of() for name, of in read.items()}
    return {name: value for name, value in known.items() if value is not None}


def host_words(root: Path = Path("/")) -> dict[str, str]:
    """The same for a reader: kernel, CPUs, memory, and what the host runs on."""
    facts = host_facts(root)
    cpus = [f"{facts['cpus']:.0f} online"] if "cpus" in facts else []
    nodes = f" in {facts['nodes']:.0f} NUMA nodes" if facts.get("nodes", 1) > 1 else ""
    words = {
        "kernel": _line(root / "proc/sys/kernel/osrelease"),
        "cpus": ", ".join([*cpus, *_processor(root)]),
        "ram": f"{facts['ram'] / 2**30:.1f} GiB{nodes}" if "ram" in facts else "",
        "swap": f"{_meminfo(root).get('SwapTotal', 0) / 2**30:.1f} GiB",
        "machine": " ".join(
            _line(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")
        ),
        "virtual": "guest of a hypervisor" if _has_hypervisor(root) else "no hypervisor announces itself",
    }
    return {name: text.strip() for name, text in words.items() if text.strip()}


def number(path: Path) -> float | None:
    """The one number in a file; None where there is none."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------------------------- details


def _meminfo(root: Path) -> dict[str, float]:
    """Sizes in bytes: the kernel's kB are 1024 bytes."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    split = [line.split() for line in lines]
    return {words[0].rstrip(":"): float(words[1]) * 1024 for words in split if words[2:] == ["kB"]}


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:120]
    except OSError:
        return ""


def _cpuinfo(root: Path) -> dict[str, str]:
    """Of the first CPU; arm64 names neither its model nor a hypervisor here."""
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _processor(root: Path) -> list[str]:
    name = _cpuinfo(root).get("model name", "")
    return [name[:80]] if name else []


def _has_hypervisor(root: Path) -> bool:
    """The flag that hypervisors set for their guests (CPUID leaf 1, ECX bit 31)."""
    return "hypervisor" in _cpuinfo(root).get("flags", "").split()


def _online(root: Path) -> float | None:
    try:
        text = (root / "sys/devices/system/cpu/online").read_text().strip()
        spans = [span.split("-") for span in text.split(",")]
        return float(sum(int(span[-1]) - int(span[0]) + 1 for span in spans))
    except (OSError, ValueError):
        return None


def _line_rate(root: Path) -> float | None:
    """Of the fastest link with a device behind it: a veth or bridge makes up its speed. -1 is unknown."""
    speeds = [
        number(nic / "speed") for nic in (root / "sys/class/net").glob("*") if (nic / "device").exists()
    ]
    mbits = max((speed for speed in speeds if speed is not None), default=0.0)
    return mbits * 125_000 if mbits > 0 else None
