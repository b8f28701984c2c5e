"""`approve` and `reject`: what is asked of the daemon, and what its answers are told as."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.place import SWAPPINESS, Place
from tuned_spec.paths import CONTROL

MOVES = [{"knob": SWAPPINESS, "old": 60, "new": 30}]


@contextmanager
def daemon(place: Place, **reply: object) -> Iterator[list[dict[str, Any]]]:
    """The other end of the control socket for one question; what was asked."""
    place.run.mkdir(parents=True, exist_ok=True)
    asked: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.run / CONTROL))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as client:
                asked.append(json.loads(client.recv(65536)))
                client.sendall(json.dumps({"v": 1, **reply}).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


@pytest.mark.parametrize(
    ("command", "asked", "state", "said"),
    [
        ("approve", "after_trial", "kept", "approved t1: it is kept\n"),
        ("approve", "before_trial", "applying", "approved t1: it is on trial now\n"),
        ("approve", "before_trial", "climbing", "approved t1: it is on trial now\n"),
        ("approve", "before_trial", "waiting", "approved t1: it begins once changes are not paused"),
        ("approve", "after_trial", "over", "approved t1: but it could not be done"),
        ("reject", "after_trial", "over", "rejected t1: it is put back\n"),
        ("reject", "after_trial", "reverting", "rejected t1: it is being put back\n"),
        ("reject", "before_trial", "over", "rejected t1: nothing was written\n"),
    ],
)
def test_what_came_of_it(place: Place, command: str, asked: str, state: str, said: str) -> None:
    with daemon(place, ok=True, trial="t1", moves=MOVES, asked=asked, state=state) as questions:
        done = place.tell(command, "t", "--remark", "as agreed")
    assert done.returncode == 0 and done.stdout.startswith(said)
    (question,) = questions
    assert (question["do"], question["trial"], question["remark"]) == (command, "t", "as agreed")


def test_who_came_by_sudo_is_a_remark(place: Place) -> None:
    with daemon(place, ok=True, trial="t1", moves=MOVES, asked="after_trial", state="kept") as questions:
        place.tell("approve", "t1", SUDO_USER="alice")
    assert questions[0]["remark"] == "(SUDO_USER alice)"


def test_what_cannot_be_answered_is_told_with_what_can(place: Place) -> None:
    pending = [{"trial": "a.1", "moves": MOVES}, {"trial": "a.2", "moves": MOVES}]
    with daemon(place, ok=False, error="approve: 'a' may be a.1 or a.2; write more of it", pending=pending):
        done = place.tell("approve", "a")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "tuned-spec approve: approve: 'a' may be a.1 or a.2; write more of it",
        "these wait for an answer:",
        f"  a.1  {SWAPPINESS} 60 -> 30",
        f"  a.2  {SWAPPINESS} 60 -> 30",
    ]


def test_a_refusal_in_json(place: Place) -> None:
    with daemon(place, ok=False, error="only root"):
        document = place.json("reject", "a.1")
    assert (document["ok"], document["error"], document["pending"]) == (False, "only root", [])


def test_no_daemon(place: Place) -> None:
    done = place.tell("approve", "a.1")
    assert done.returncode == 6 and "no daemon" in done.stderr
    assert place.json("reject", "a.1")["ok"] is False
    assert place.tell("approve").returncode == 2


def test_why_and_history_tell_who_said_yes(place: Place) -> None:
    place.act(
        f'change("t1", "{SWAPPINESS}", 30)\n'
        f'note("pending", "t1", ("{SWAPPINESS}",), "guess", moves=[{{"knob": "{SWAPPINESS}", "old": 60,'
        ' "new": 30}], what="may it be kept? better by 40%", waits_at="old", left_s=600.0)\n'
        f'note("decided", "t1", ("{SWAPPINESS}",), "guess", what="approved by root (uid 0): as agreed",'
        ' approve=True, uid=0, name="root", remark="as agreed")\n'
    )
    why = " ".join(place.tell("why", SWAPPINESS).stdout.split())
    asked = f"{SWAPPINESS} 60 -> 30: may it be kept? better by 40% (the old value is in place meanwhile"
    assert "a person was asked at" in why and asked in why
    assert "approved by root (uid 0): as agreed, at" in why
    told = " ".join(place.tell("history").stdout.split())
    assert asked in told and "approved by root (uid 0): as agreed" in told
