"""docs/json.md names every key that the commands print, and every exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.place import SWAPPINESS, Place
from tests.engine.world import World
from tuned_spec import cli, engine, errors
from tuned_spec.cli import status
from tuned_spec.engine import events as ev
from tuned_spec.model import RECORD_KINDS, Case, Mode, Verdict, VerdictKind

DOC = (Path(__file__).parents[2] / "docs/json.md").read_text()


def section(command: str) -> str:
    found = re.search(rf"^## (?:\w+, )?{command}\b.*?(?=^## |\Z)", DOC, re.M | re.S)
    assert found, f"docs/json.md has no section on {command}"
    return found[0]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_there(command: str) -> None:
    assert section(command)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("why", SWAPPINESS),
        ("history",),
        ("restore",),
        ("pause",),
        ("check",),
        ("knobs",),
        ("doctor",),
    ],
)
def test_every_key_is_there(place: Place, words: tuple[str, ...]) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    document = place.json(*words)
    said = section(words[0])
    parts = [
        document,
        document.get("chain", {}),
        *document.get("knobs", [])[:1],
        *document.get("findings", [])[:1],
    ]
    for part in [
        *parts,
        *document.get("entries", [])[:1],
        document.get("judged", {}),
        document.get("last", {}),
    ]:
        for key in part:
            assert f"`{key}`" in said, key


def test_every_key_of_the_daemons_answer_is_there() -> None:
    world = World(Mode.LOSSY)
    world.feed(ev.ActorChanged(world.t, True, "started"))
    world.feed(ev.Observed(world.t, {"app.p95": 50.0}))
    (case,) = (message for message in world.told if isinstance(message, Case))
    said, described = section("status"), engine.describe(world.state, world.t)
    world.feed(ev.ActorSaid(world.t, Verdict(case.id, VerdictKind.CONFIRM, "a test")))
    held = engine.describe(world.state, world.t)["held"]
    for part in (described, described["guesses"], described["workload"], *described["open"], *held):  # type: ignore[misc]
        assert isinstance(part, dict) and part
        for key in part:
            assert f"`{key}`" in said, key


@pytest.mark.parametrize("kind", RECORD_KINDS)
def test_every_kind_of_entry_is_there(kind: str) -> None:
    assert f"`{kind}`" in section("history")


def test_every_exit_code_is_there() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    codes = {0, status.NOT_RUNNING, cli.INTERRUPTED, cli.PIPE_CLOSED, *(kind.exit_code for kind in kinds)}
    for code in codes:
        assert f"\n| {code} |" in DOC
