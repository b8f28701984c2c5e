"""The raw figures of one look at the host, before they are metrics. Shapes only."""

from __future__ import annotations

from pathlib import Path

import msgspec

Fields = dict[str, float]  # counters are ints and stay exact; only PSI averages are fractions
Rows = dict[str, Fields]  # a row a CPU, a disk, a cgroup; "" for the whole host

RETRY_S = 10.0  # a source that could not be read is tried again after so long


class Reading(msgspec.Struct, frozen=True):
    """The raw figures of one moment. A source that is not in it could not be read."""

    t: float
    sources: dict[str, Rows]


class Want(msgspec.Struct, frozen=True):
    """What is asked of one source: these fields, of the whole host and, with `rows`, of those instances
    (names or globs)."""

    fields: tuple[str, ...]
    rows: tuple[str, ...] = ()
    root: Path = Path("/")
