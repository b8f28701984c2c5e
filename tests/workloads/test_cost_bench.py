"""The cheapest part of the benches that start a daemon, for real: it measures, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace and writes its knobs: needs root")
def test_a_quick_bench_measures_a_real_daemon() -> None:
    program = [sys.executable, "-m", "workloads.cost_bench", "--quick", "--json", "--only", "start"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [section] = json.loads(done.stdout)["sections"]
    assert section["name"] == "start" and len(section["load_before"]) == 3
    [row] = section["rows"]
    assert "READY=1" in row["what"] and len(row["samples"]) == 3
    assert all(sample > 0 for sample in row["samples"])
