"""The cheapest part of the daemon's bench, for real: it measures, and leaves nothing behind."""

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
    assert section["name"] == "status" and len(section["load_before"]) == 3
    wall, cpu = section["rows"]
    assert wall["target"] == 150 and len(wall["samples"]) == len(cpu["samples"]) == 5
    assert all(sample > 0 for sample in wall["samples"] + cpu["samples"])
