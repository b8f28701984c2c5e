"""What all tests share: one run at a time touches this kernel's knobs."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def the_kernel_to_ourselves() -> Iterator[None]:
    """Two runs of this suite on one host would take each other's knobs for foreign: the second waits."""
    path = Path(tempfile.gettempdir()) / f"tuned-spec-tests-{os.geteuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
