"""The cheapest part of the bench, for real: a daemon, an actor, a model that thinks; and all is put back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace and writes its knobs: needs root")
def test_a_quick_bench_measures_a_real_daemon_and_its_actor() -> None:
    program = [sys.executable, "-m", "workloads.actor_bench", "--quick", "--json", "--latencies", "0.2"]
    words = [*program, "--only", "confirmed"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    [section] = json.loads(done.stdout)["sections"]
    rows = {row["what"]: row["samples"] for row in section["rows"]}
    assert len(rows) == 4 and all(len(samples) == 1 for samples in rows.values())
    assert all(samples[0] > 0 for samples in rows.values())
