"""A change that a person must approve: the real daemon, the real kernel, the commands that a person types."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until
from tests.daemon.stranger import ACTOR
from tests.daemon.test_serve import actor_alive, value

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"writes {KNOB}: needs root"),
]

# It confirms whatever it is asked about, at once.
CONFIRMS = """
while True:
    c = case()
    say(type='verdict', case=c['id'], kind='confirm', reason='better by 40%', effect=0.4, low=0.3, high=0.5,
        e_value=40.0, pairs=8, claim='alternated')
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as one:
        yield one


def start(machine: Host, approval: str) -> int:
    """The daemon with an actor that confirms everything, and one guess made; the knob's value before."""
    text = machine.policy.read_text().replace("cooldown: 1s", "cooldown: 10m")
    machine.policy.write_text(text.replace("rules:", f"approval: {approval}\nrules:"))
    machine.start_with(sys.executable, "-c", ACTOR + CONFIRMS)
    until(lambda: actor_alive(machine), f"no actor:\n{machine.said()}")
    before = value()
    machine.send(50.0)
    until(lambda: "pending" in machine.kinds(), f"nobody was asked:\n{machine.said()}")
    return before


def question(machine: Host) -> dict[str, Any]:
    (one,) = machine.status()["status"]["pending"]
    assert isinstance(one, dict)
    return one


def test_approved_it_is_kept(machine: Host) -> None:
    before = start(machine, "required")
    assert value() == before, "it rests at the old value meanwhile"
    asked = question(machine)
    assert asked["moves"] == [{"knob": KNOB, "old": before, "new": before // 2}]
    assert asked["figures"]["effect"] == 0.4 and asked["asked"] == "after_trial"
    assert f"approve {asked['trial']} --runtime-dir {machine.runtime}" in asked["approve"]
    said = machine.command("status").stdout
    for words in (f"{KNOB} {before} -> {before // 2}", asked["approve"], asked["reject"]):
        assert words in said
    done = machine.command("approve", asked["trial"], "--remark", "as agreed\nwith \x1b[31mops")
    assert done.stdout == f"approved {asked['trial']}: it is kept\n"
    assert value() == before // 2
    until(lambda: "confirmed" in machine.kinds(), "it is not on record")
    answer = machine.entry("decided").data
    assert (answer["approve"], answer["uid"], answer["name"]) == (True, 0, "root")
    assert str(answer["remark"]).startswith("as agreed with  [31mops")
    why = " ".join(machine.command("why", KNOB).stdout.split())
    assert "approved by root (uid 0): as agreed" in why
    assert "(ours)" in why
    assert machine.stop() == 0
    assert value() == before


def test_rejected_it_goes_back_from_the_new_value(machine: Host) -> None:
    before = start(machine, "{risk: low, wait_at: new}")
    assert value() == before // 2
    done = machine.command("reject", question(machine)["trial"])
    assert "put back" in done.stdout and value() == before
    until(lambda: machine.kinds()[-2:] == ["decided", "reverted"], "it is not on record")


def test_nobody_answers_and_it_goes_back(machine: Host) -> None:
    before = start(machine, "{knobs: [vm.*], wait_at: new, for: 10s}")
    assert value() == before // 2
    until(lambda: "reverted" in machine.kinds(), "it waits for ever", 30.0)
    assert value() == before and "nobody answered" in str(machine.entry("reverted").data["why"])


def test_killed_while_it_waits_at_the_new_value_it_is_repaired(machine: Host) -> None:
    before = start(machine, "{risk: low, wait_at: new}")
    machine.kill()
    assert value() == before // 2
    machine.command("restore")
    assert value() == before


def test_asked_first_nothing_is_written_before_the_yes(machine: Host) -> None:
    before = start(machine, "{risk: low, ask: before_trial}")
    assert value() == before and "applied" not in machine.kinds()
    machine.command("approve", question(machine)["trial"].rpartition(".")[2])
    until(lambda: "confirmed" in machine.kinds(), f"not kept:\n{machine.said()}")
    assert value() == before // 2
    order = [kind for kind in machine.kinds() if kind in ("pending", "decided", "applied", "verdict")]
    assert order == ["pending", "decided", "applied", "verdict"], "asked once"


def test_an_answer_that_cannot_be_is_told_what_can(machine: Host) -> None:
    before = start(machine, "required")
    trial = question(machine)["trial"]
    for word in ("nonsense", "", trial[::-1] + "x"):
        done = machine.command("approve", word, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"{KNOB} {before} -> {before // 2}" in done.stderr and trial in done.stderr
    request = json.dumps({"v": 1, "do": "approve", "trial": trial}).encode()
    assert b"only root" in machine.ask(request, uid=65534)
    assert question(machine)["trial"] == trial and value() == before
    machine.command("reject", trial)
    again = machine.command("approve", trial, check=False)
    assert again.returncode == 1 and "is over" in again.stderr and "nothing waits" in again.stderr


def test_somebody_elses_value_ends_the_question(machine: Host) -> None:
    before = start(machine, "required")
    FILE.write_text(str(before + 5))
    until(lambda: "foreign" in machine.kinds(), "the foreign write was not noticed")
    assert machine.status()["status"]["pending"] == []
    assert value() == before + 5


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A directory that the actor's user can reach, which pytest's own are not."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


HOOK = """#!/bin/sh
id -u > {out}.uid
cat > {out}.$$ && mv {out}.$$ {out}.$(date +%s%N).json
"""


def test_the_hook_runs_as_nobody_and_is_told_all(machine: Host, anyones: Path) -> None:
    hook, config = anyones / "hook", anyones / "actor.yaml"
    hook.write_text(HOOK.format(out=anyones / "out"))
    hook.chmod(0o755)
    config.write_text(f"version: 1\nnotify: [{hook}, a word]\n")
    before = value()
    text = machine.policy.read_text().replace("cooldown: 1s", "cooldown: 10m")
    machine.policy.write_text(text.replace("rules:", "approval: {risk: low, ask: before_trial}\nrules:"))
    machine.start("--actor", str(config))
    until(lambda: actor_alive(machine), f"no actor:\n{machine.said()}")
    machine.send(50.0)
    until(lambda: len(told(anyones)) == 1, f"the hook was not run:\n{machine.said()}")
    assert (anyones / "out.uid").read_text() == "65534\n"
    (first,) = told(anyones)
    asked = question(machine)
    assert first["event"] == "pending" and first["trial"] == asked["trial"]
    assert first["moves"] == [{"knob": KNOB, "old": before, "new": before // 2}]
    assert first["reject"] == asked["reject"] and first["reject"] in first["text"]
    # What it says to type is what there is to type.
    _, program, *words = shlex.split(first["reject"])
    assert program == "tuned-spec"
    subprocess.run([sys.executable, "-m", "tuned_spec", *words], check=True, timeout=30, capture_output=True)
    until(lambda: len(told(anyones)) == 2, "the answer was not told")
    assert told(anyones)[1]["event"] == "decided" and "rejected by root" in told(anyones)[1]["what"]
    assert value() == before and "applied" not in machine.kinds()


def told(place: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(place.glob("out.*.json"))]
