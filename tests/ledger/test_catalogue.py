"""Every entry of the catalogue that this host offers, through the ledger and back by an outside repair."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tuned_spec.errors import KnobError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import CouplingKind, Knob, KnobType, Risk, Value, Write


def another(knob: Knob, value: Value) -> Value | None:
    """A legal value close by."""
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 4096)
    if isinstance(value, str):
        return next((word for word in knob.choices if word != value), None)
    if knob.type is KnobType.BOOL:
        return 1 - value
    if value == 0 and any(c.kind is CouplingKind.ZEROES for c in knob.coupled):
        return 64 << 20
    up = value + knob.quantum
    return up if knob.high is None or up <= knob.high else value - knob.quantum


@pytest.mark.kernel
def test_the_whole_catalogue_goes_out_and_comes_back(host: dict[str, str], tmp_path: Path) -> None:
    by = adapters()
    catalogue = Catalogue(load(), by)
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(catalogue, by, journal, time.monotonic)
    before, moved = {}, set()
    try:
        for id, knob in catalogue.items():
            if knob.risk is Risk.HIGH or ledger.original(id) is not None or ledger.reversible(id) is not None:
                continue
            if knob.adapter == "held":
                continue  # ends with the process that holds it, and this one goes on
            before[id] = ledger.value(id)
            value = another(knob, before[id])
            if value is None:
                continue
            try:
                ledger.apply(f"trial of {id}", "r", (Write(id, value),))
            except KnobError:
                continue  # this kernel wants another value; it is back already
            moved.add(id)
            ledger.hold(f"trial of {id}")
        assert len(moved) >= 25
        command = ["/usr/bin/python3", "-I", "-S", str(tmp_path / "repair.py"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env={})
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["damage"]) == (0, []), answer
        assert {id: ledger.value(id) for id in before} == before
        assert moved <= {o["knob"] for o in answer["outcomes"]}
    finally:
        ledger.restore()
        journal.close()
