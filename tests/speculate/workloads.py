"""Three workloads that no distance takes for each other, made up; and real ones, as captured.

`data/signatures.json`: 13 loads and an idle host, 4 visits of 9 seconds each, by `workloads.signature_bench`;
test suites ran beside them. The first second of a visit shows some of the one before.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tuned_spec.model import Frozen
from tuned_spec.speculate.signature import FEATURES, Signature
from workloads.signature_bench import Tick

FIRST, OTHER, THIRD = (
    Signature({name: level * (-1) ** n for n, name in enumerate(FEATURES)}) for level in (0.0, 3.0, -3.0)
)


class Captured(Frozen, frozen=True):
    features: tuple[str, ...]
    ticks: tuple[tuple[str, int, int, tuple[float, ...] | None], ...]


def captured() -> list[Tick]:
    raw = (Path(__file__).parent / "data/signatures.json").read_bytes()
    found = msgspec.json.decode(raw, type=Captured)
    return [
        Tick(name, visit, tick, Signature(dict(zip(found.features, seen, strict=True))) if seen else None)
        for name, visit, tick, seen in found.ticks
    ]
