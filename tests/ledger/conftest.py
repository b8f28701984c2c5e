"""A ledger on real knobs, and the proof after every test that the host is as it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuned_spec.knobs.adapters import adapters
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from workloads.trouble import CATALOGUE

BY = adapters()
PATHS = {id: Path(BY[knob.adapter].address(knob)) for id, knob in CATALOGUE.items()}


def shown(knob: str) -> str:
    """What the kernel shows, read past all of our code but the folding of brackets and blanks."""
    return repair.shown(CATALOGUE[knob].type, PATHS[knob].read_text())


def outside(knob: str, text: str) -> None:
    """A write by somebody else."""
    with PATHS[knob].open("w") as f:
        f.write(text)


@pytest.fixture
def host() -> Iterator[dict[str, str]]:
    """The knobs' texts before the test; asserts that they are back after it, and puts them back if not."""
    if os.geteuid() != 0:
        pytest.skip("writes kernel knobs: needs root")
    missing = [str(path) for path in PATHS.values() if not os.access(path, os.W_OK)]
    if missing:
        pytest.skip(f"this host does not offer {', '.join(missing)}")
    before = {knob: shown(knob) for knob in CATALOGUE}
    try:
        yield before
        assert {knob: shown(knob) for knob in CATALOGUE} == before
    finally:
        for _ in range(2):  # a scheduler resets what is written before it
            for knob, text in before.items():
                if shown(knob) != text and text != "0":
                    outside(knob, text)


Opened = Callable[..., Ledger]


@pytest.fixture
def opened(host: dict[str, str], tmp_path: Path) -> Iterator[Opened]:
    """Opens a ledger over the runtime directory `tmp_path`; every one of them is restored and closed."""
    journals: list[Journal] = []
    ledgers: list[Ledger] = []

    def open_one(checkpoint: repair.Checkpoint = repair.nothing) -> Ledger:
        journals.append(Journal(tmp_path, repair.boot_id()))
        ledgers.append(Ledger(CATALOGUE, BY, journals[-1], time.monotonic, checkpoint))
        return ledgers[-1]

    yield open_one
    for ledger in ledgers:
        ledger.restore()
    for journal in journals:
        journal.close()


@pytest.fixture
def ledger(opened: Opened) -> Ledger:
    return opened()
