"""What all tests share: one module at a time touches this kernel's knobs, whoever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from workloads.trouble import alone

# Their tests write no knob of the host.
ELSEWHERE = ("tests", "actor", "engine", "policy", "probes", "report", "sense", "speculate", "tasks")


@pytest.fixture(scope="module", autouse=True)
def the_kernel_to_ourselves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two runs on one host would take each other's writes for foreign: the second waits."""
    if request.path.parent.name in ELSEWHERE:
        yield
        return
    with alone():
        yield


@pytest.fixture(scope="module", autouse=True)
def the_directory_stays() -> Iterator[None]:
    """Programs are started from here (`python -m workloads...`): who leaves it is to blame."""
    here = Path.cwd()
    yield
    assert Path.cwd() == here
