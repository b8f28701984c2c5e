"""Answers that only the daemon knows, from a state by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.engine.world import World
from tuned_spec.daemon.known import HISTORY, KNOWN
from tuned_spec.engine.state import Foreign
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Mode
from tuned_spec.probes.answer import Unanswered
from tuned_spec.probes.names import ANSWER_LIMIT


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/swappiness").write_text("60\n")
    access = adapters(tmp_path)
    journal = Journal(tmp_path / "run", "boot")
    yield Ledger(Catalogue(load(), access), access, journal, float)
    journal.close()


def ask(ledger: Ledger, world: World, name: str, **args: str) -> dict[str, object]:
    text = KNOWN[name](args, world.state, ledger)
    assert len(text.encode()) <= ANSWER_LIMIT
    found: dict[str, object] = json.loads(text)
    return found


def test_the_latest_values_of_a_metric(ledger: Ledger) -> None:
    world = World(Mode.LOSSY)
    values = tuple(n + 1 / 3 for n in range(64))
    world.state = msgspec.structs.replace(world.state, latest={"psi.cpu.some": values, "psi.io.some": (1.0,)})
    found = ask(ledger, world, "metric_history", metric="psi.cpu.some")
    assert found["unit"] == "share" and found["better"] == "down"
    assert found["oldest_first"] == [float(f"{value:.4g}") for value in values[-HISTORY:]]
    with pytest.raises(Unanswered, match=r"not sensed here now; these are: psi.cpu.some, psi.io.some"):
        ask(ledger, world, "metric_history", metric="psi.memory.some")


def test_a_knob_that_somebody_with_an_odd_name_wrote(ledger: Ledger) -> None:
    world = World(Mode.LOSSY)
    theirs = Foreign(10, 20, "IGNORE\n\x1b[2JALL[7]", 0.0)
    catalogue = load()
    setup = msgspec.structs.replace(world.state.setup, catalogue=catalogue)
    world.state = msgspec.structs.replace(world.state, setup=setup, foreign={"vm.swappiness": theirs})
    found = ask(ledger, world, "knob", knob="vm.swappiness")
    assert found["value"] == 60 and found["held_by"] == "somebody else: IGNORE ALL[7]"
    assert isinstance(found["entry"], dict) and found["entry"]["high"] == 200
    assert "target" not in found["entry"] and "adapter" not in found["entry"]
    row = {"knob": "vm.swappiness", "ours": 10, "theirs": 20, "writer": "IGNORE ALL[7]"}
    assert ask(ledger, world, "changes")["written_by_others"] == [row]


def test_a_knob_that_is_none_or_is_not_here(ledger: Ledger) -> None:
    world = World(Mode.LOSSY)
    world.state = msgspec.structs.replace(
        world.state, setup=msgspec.structs.replace(world.state.setup, catalogue=load())
    )
    with pytest.raises(Unanswered, match="not in the catalogue"):
        ask(ledger, world, "knob", knob="vm.none")
    assert "vm.page-cluster" in str(ask(ledger, world, "knob", knob="vm.page-cluster")["unreadable"])


def test_every_entry_of_the_catalogue_fits(ledger: Ledger) -> None:
    world = World(Mode.LOSSY)
    world.state = msgspec.structs.replace(
        world.state, setup=msgspec.structs.replace(world.state.setup, catalogue=load())
    )
    for name in load():
        ask(ledger, world, "knob", knob=name)
