"""Three workloads that no distance takes for each other, made up; and the real ones in data/."""

from __future__ import annotations

from tuned_spec.speculate.signature import FEATURES, Signature

FIRST, OTHER, THIRD = (
    Signature({name: level * (-1) ** n for n, name in enumerate(FEATURES)}) for level in (0.0, 4.0, -4.0)
)
