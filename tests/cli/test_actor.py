"""`run --actor`: with a file that cannot be used, and with one that can."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.actor.test_check import GOOD, always, command, written
from workloads.endpoint import MODEL, Endpoint


@pytest.mark.parametrize("usual", [True, False])
def test_run_refuses_an_actor_that_cannot_be_used(tmp_path: Path, usual: bool) -> None:
    """Named or in its usual place. Nothing was started: there is no state directory."""
    file = tmp_path / "etc/tuned-spec/actor.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("version: 1\nmodel: {nmae: x}\n")
    where = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    named = ["--root", str(tmp_path)] if usual else ["--actor", str(file)]
    done = command("run", "--for", "1s", *where, *named)
    assert done.returncode == 2
    assert f"{file}:2: model.nmae: unknown key; did you mean name?" in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a daemon that may write nothing says so first")
def test_run_starts_the_actor_that_is_configured(tmp_path: Path) -> None:
    """In a place of its own; nothing is written, for nothing happens in two seconds."""
    with Endpoint(always(GOOD)) as endpoint:
        file = written(tmp_path, endpoint.url())
        where = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
        done = command("run", "--mode", "lossless", "--for", "4s", "--actor", str(file), *where)
    assert done.returncode == 0, done.stderr
    history = command("history", "--json", "--last", "0", *where)
    said = json.dumps(json.loads(history.stdout))
    assert f"model {MODEL} and trial actor started" in said
