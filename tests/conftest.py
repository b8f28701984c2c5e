"""What all tests share: one run at a time touches this kernel's knobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workloads.trouble import alone


@pytest.fixture(scope="session", autouse=True)
def the_kernel_to_ourselves() -> Iterator[None]:
    """Two runs on one host would take each other's writes for foreign: the second waits."""
    with alone():
        yield
