"""docs/json.md names every key that the commands print, and every exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.place import SWAPPINESS, Place
from tests.engine.world import POLICY, World
from tuned_spec import cli, engine, errors
from tuned_spec.actor.notify import document
from tuned_spec.cli import status
from tuned_spec.engine import events as ev
from tuned_spec.model import RECORD_KINDS, Approval, Case, Mode, Notice, Risk, Verdict, VerdictKind

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
        ("approve", "t1"),
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


def test_every_key_of_a_question_is_there() -> None:
    approval = Approval(risk=Risk.LOW)
    world = World(Mode.LOSSY, msgspec.structs.replace(POLICY, approval=approval))
    world.feed(ev.ActorChanged(world.t, True, "started"))
    world.feed(ev.Observed(world.t, {"app.p95": 50.0}))
    (case,) = (message for message in world.told if isinstance(message, Case))
    figures = {"effect": 0.4, "low": 0.3, "high": 0.5, "e_value": 40.0, "pairs": 8}
    confirmed = Verdict(case.id, VerdictKind.CONFIRM, "a test", claim="alternated", **figures)  # type: ignore[arg-type]
    world.feed(ev.ActorSaid(world.t, confirmed))
    pending: dict[str, Any] = engine.describe(world.state, world.t)["pending"][0]  # type: ignore[index]
    (notice,) = (message for message in world.told if isinstance(message, Notice))
    for part in (pending, pending["figures"], *pending["moves"]):
        assert part and all(f"`{key}`" in section("status") for key in part)
    hook = DOC.partition("## The hook")[2].partition("\n## ")[0]
    for key in json.loads(document(notice)):
        assert f"`{key}`" in hook, key


@pytest.mark.parametrize("kind", RECORD_KINDS)
def test_every_kind_of_entry_is_there(kind: str) -> None:
    assert f"`{kind}`" in section("history")


def test_every_exit_code_is_there() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")]
    codes = {0, status.NOT_RUNNING, cli.INTERRUPTED, cli.PIPE_CLOSED, *(kind.exit_code for kind in kinds)}
    for code in codes:
        assert f"\n| {code} |" in DOC
