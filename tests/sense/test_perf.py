from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tuned_spec.sense.perf import Counters


def switches() -> int:
    text = Path("/proc/stat").read_text()
    return int(text.split("\nctxt ")[1].split()[0])


@pytest.mark.kernel
def test_software_events_of_all_cpus_agree_with_proc_stat() -> None:
    counters = Counters("perf:software", ("context-switches", "cpu-migrations"))
    try:
        first = counters.read(0.0)
        if first is None:
            pytest.skip(counters.why)
        outer = switches()
        first = counters.read(0.0)
        inner = switches()
        for _ in range(200):
            time.sleep(0.001)
        inner_end = switches()
        last = counters.read(1.0)
        outer_end = switches()
        assert first and last and len(last) >= len(os.sched_getaffinity(0))
        counted = sum(last[cpu]["context-switches"] - first[cpu]["context-switches"] for cpu in last)
        assert counted >= 200
        # the kernel counts a switch here a moment before or after it counts it there
        assert inner_end - inner - 50 <= counted <= outer_end - outer + 50
        assert all(row["cpu-migrations"] >= 0 for row in last.values())
    finally:
        counters.close()


@pytest.mark.kernel
def test_hardware_counters_count_or_say_why_not() -> None:
    counters = Counters("perf:hardware", ("cycles", "instructions"))
    try:
        rows = counters.read(0.0)
        if rows is None:
            assert counters.why.startswith("perf_event_open cycles+instructions: ")
            assert any(
                word in counters.why for word in ("no such counter", "needs root", "CONFIG_PERF_EVENTS")
            )
            return
        sum(range(1_000_000))
        after = counters.read(1.0)
        assert after and sum(row["instructions"] for row in after.values()) > 1_000_000
    finally:
        counters.close()


def test_what_fails_in_the_middle_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    counters = Counters("perf:mixed", ("cpu-migrations", "cycles"))
    if counters.read(0.0) is not None:
        counters.close()
        pytest.skip("this host has hardware counters: nothing fails")
    assert counters.why
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert counters.read(1.0) is None  # tried again at a slow pace
