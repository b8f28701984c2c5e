"""Facts about the host for people (`doctor`), through psutil.

Owns nothing that the loop needs: psutil costs 4 MB, so it is imported when asked and not before.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from tuned_spec.model import Frozen


class Facts(Frozen, frozen=True):
    cpus: int  # logical
    cores: int | None  # physical, where the host tells
    memory_bytes: int
    swap_bytes: int
    processes: int
    kernel: str


def facts() -> Facts:
    import psutil

    return Facts(
        cpus=psutil.cpu_count() or 1,
        cores=psutil.cpu_count(logical=False),
        memory_bytes=psutil.virtual_memory().total,
        swap_bytes=psutil.swap_memory().total,
        processes=len(psutil.pids()),
        kernel=os.uname().release,
    )


def running(names: Collection[str]) -> dict[int, str]:
    """pid -> name of each process that has, or whose program or script has, one of these names."""
    import psutil

    found = {}
    for process in psutil.process_iter(["name", "cmdline"]):
        words = [
            process.info["name"] or "",
            *(Path(word).name for word in (process.info["cmdline"] or [])[:2]),
        ]
        if match := next((word for word in words if word in names), None):
            found[process.pid] = match
    return found
