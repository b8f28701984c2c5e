"""The calibration itself, shortened: real knob, real load, real actor, and everything put back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tuned_spec.model import VerdictKind

KNOB = Path("/proc/sys/vm/dirty_expire_centisecs")


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="toggling a real knob needs root")
def test_a_short_calibration_puts_the_knob_back_and_writes_its_verdicts(tmp_path: Path) -> None:
    original, out = KNOB.read_text(), tmp_path / "verdicts.jsonl"
    command = [sys.executable, "-m", "workloads.trial_calibration", "--trials", "2", "--planted", "0"]
    try:
        result = subprocess.run([*command, "--out", out], capture_output=True, text=True, timeout=120)
        assert KNOB.read_text() == original
    finally:
        KNOB.write_text(original)
    assert result.returncode in (0, 1), result.stderr  # 1: one of the two was confirmed by chance
    assert "nothing" in result.stdout
    rows = [msgspec.json.decode(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2
    assert all(VerdictKind(row["kind"]) and row["pairs"] > 0 for row in rows)
