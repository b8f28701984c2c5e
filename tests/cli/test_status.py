"""`status` after the daemon was never there, died, hung or stopped; and beside one that answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.place import STOP, SWAPPINESS, Place
from tuned_spec.paths import CONTROL, HISTORY, JOURNAL


def test_never_run(place: Place) -> None:
    done = place.tell("status")
    assert done.returncode == 6
    assert "not running" in done.stdout and "no run is on record" in done.stdout
    assert place.json("status")["state"] == "stopped"
    assert not place.run.exists() and not place.state.exists()


def test_killed_with_a_change_open(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    done = place.tell("status")
    assert done.returncode == 1
    assert "not running (last seen" in done.stdout and "a kill or a crash" in done.stdout
    assert SWAPPINESS in done.stdout and "30" in done.stdout and "60" in done.stdout
    assert f"sudo tuned-spec restore --runtime-dir {place.run}" in " ".join(done.stdout.split())
    document = place.json("status")
    (changed,) = document["journal"]["changed"]
    assert (changed["knob"], changed["original"], changed["found"]) == (SWAPPINESS, "60", "30")
    assert (changed["status"], changed["trial"], changed["rule"]) == ("open", "t1", "guess")
    assert document["last"]["mode"] == "lossy"
    assert place.sysctl(SWAPPINESS).read_text().strip() == "30", "looking changes nothing"


def test_killed_then_restored(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    restored = place.tell("restore")
    assert restored.returncode == 0 and SWAPPINESS in restored.stdout
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"
    done = place.tell("status")
    assert done.returncode == 6
    assert "nothing of tuned-spec is left changed" in done.stdout


def test_foreign_after_the_kill_is_said_and_is_no_leftover(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    place.sysctl(SWAPPINESS).write_text("77\n")
    document = place.json("status")
    assert document["journal"]["changed"] == []
    assert document["journal"]["foreign"][0]["found"] == "77"
    assert place.tell("status").returncode == 6


def test_stopped_says_why(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)', STOP)
    done = place.tell("status")
    assert done.returncode == 6 and "ended by stopped by SIGTERM" in " ".join(done.stdout.split())


def test_hung(place: Place) -> None:
    process = place.hang(f'change("t1", "{SWAPPINESS}", 30)')
    try:
        done = place.tell("status")
        assert done.returncode == 1
        assert "hung" in done.stdout and str(process.pid) in done.stdout and "restore" in done.stdout
        assert place.json("status")["pid"] == process.pid
    finally:
        process.kill()
        process.communicate()


def test_verdicts_are_counted_and_the_undone_named(place: Place) -> None:
    place.act(
        f'change("t1", "{SWAPPINESS}", 30); judge("t1", "{SWAPPINESS}", "confirm", 30)\n'
        f'change("t2", "{SWAPPINESS}", 60); judge("t2", "{SWAPPINESS}", "confirm", 60)\n'
    )
    judged = place.json("status")["judged"]
    assert (judged["judged"], judged["kept"], judged["undone"]) == (2, 2, 1)
    assert (judged["alpha"], judged["expected_false"]) == (0.05, 0.1)
    assert "at most 0.1 (bound by design" in " ".join(place.tell("status").stdout.split())


@pytest.mark.parametrize("name", [HISTORY, JOURNAL])
def test_a_ruined_file_is_said_not_thrown(place: Place, name: str) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    path = (place.state if name == HISTORY else place.run) / name
    for beside in path.parent.glob(f"{name}-*"):
        beside.unlink()
    path.write_bytes(b"\xff" * 8192)
    done = place.tell("status")
    assert done.returncode == 1
    assert str(path) in done.stdout.replace("\n", "").replace(" ", "")


REPLY = {
    "pid": 4242,
    "since_s": 75.0,
    "mode": "lossy",
    "policy": ["default"],
    "paused": False,
    "alpha": 0.05,
    "actor": {"kind": "trial", "alive": True, "pid": 4243, "restarts": 2},
    "pending": [
        {
            "trial": "a.2",
            "rule": "guess",
            "moves": [{"knob": "net.ipv4.tcp_rmem", "old": [1, 2, 3], "new": [1, 2, 6]}],
            "reason": "buffers are short",
            "what": "may it be kept? better by 40%",
            "asked": "after_trial",
            "waits_at": "old",
            "by": "trial",
            "claim": "alternated",
            "figures": {"effect": 0.4},
            "left_s": 7200.0,
            "approve": "sudo tuned-spec approve a.2",
            "reject": "sudo tuned-spec reject a.2",
        }
    ],
    "open": [
        {
            "trial": "a.2",
            "rule": "guess",
            "knobs": {"net.ipv4.tcp_rmem": [1, 2, 6]},
            "state": "waiting",
            "arm": "A",
            "pairs": 8,
            "deadline_in_s": 7200.0,
        },
        {
            "trial": "a.1",
            "rule": "guess",
            "knobs": {"vm.swappiness": 30},
            "state": "judging",
            "arm": "B",
            "pairs": 3,
            "deadline_in_s": 42.0,
        },
    ],
    "held": [
        {
            "knob": "net.ipv4.tcp_rmem",
            "original": [4096, 131072, 6291456],
            "value": [4096, 131072, 33554432],
            "trial": "a.0",
            "rule": "buffers",
            "since_s": 3700.0,
        }
    ],
    "foreign": [{"knob": "vm.dirty_ratio", "ours": 10, "found": 15, "writer": "sysctl[99]"}],
    "refusals": {"cooldown": 12, "budget": 1},
    "metrics": {"app.p95_ms": 12.5},
    "rejected_samples": {"wrong_owner": 4},
    "inert": [{"rule": "slices", "reason": "sched.base_slice_ns is absent"}],
    "tick_s": 1.0,
    "added_later": {"by": "a newer daemon"},
}


def answer_once(path: Path, reply: bytes) -> threading.Thread:
    """The other end of the control socket, as far as one question goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            assert json.loads(client.recv(65536)) == {"v": 1, "do": "status", "knobs": []}
            client.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_running_daemon_is_shown_whole(place: Place) -> None:
    reply = json.dumps({"v": 1, "ok": True, "status": REPLY}).encode() + b"\n"
    thread = answer_once(place.run / CONTROL, reply)
    done = place.tell("status")
    thread.join()
    assert done.returncode == 0 and done.stderr == ""
    for words in (
        "running: process 4242 for 1min 15s",
        "lossy, policy default",
        "alive, process 4243, 2 restarts",
        "a.2  net.ipv4.tcp_rmem 1 2 3 -> 1 2 6  (2h left, the old value",
        "guess, judged by trial: buffers are short",
        "may it be kept? better by 40%",
        "sudo tuned-spec approve a.2\n",
        "sudo tuned-spec reject a.2\n",
        "vm.swappiness = 30",
        "42s",
        "4096 131072 6291456",
        "sysctl[99]",
        "cooldown 12, budget 1",
        "app.p95_ms  12.5",
        "does not own the metric",
        "sched.base_slice_ns is absent",
        "false confirmations: at most 5%",
    ):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.index("waiting for a person") < done.stdout.index("on trial")
    assert "tcp_rmem = 1 2 6" not in done.stdout, "said once"


def test_the_json_of_a_running_daemon_is_its_answer(place: Place) -> None:
    reply = json.dumps({"v": 1, "ok": True, "status": REPLY}).encode() + b"\n"
    thread = answer_once(place.run / CONTROL, reply)
    assert place.json("status")["status"] == REPLY
    thread.join()


@pytest.mark.parametrize("reply", [b"", b"nonsense\n", b'{"v":1,"ok":false,"error":"no"}\n', b"[1]\n"])
def test_rubbish_on_the_socket_is_no_answer(place: Place, reply: bytes) -> None:
    thread = answer_once(place.run / CONTROL, reply)
    assert place.json("status")["state"] == "stopped"
    thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_without_rights_is_told_so(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    place.run.chmod(0o700)
    for parent in list(place.run.parents)[:3]:
        parent.chmod(0o755)
    # Once as root, so that all is imported: the interpreter may lie where nobody else may read.
    script = (
        "import os, sys; from tuned_spec.cli import main\n"
        "main(sys.argv[1:]); print('AND NOW', flush=True)\n"
        "os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", script, *place.argv("status")[3:]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert "sudo" in done.stdout.partition("AND NOW")[2]


def test_what_models_took_and_how_often_none_was_asked(place: Place) -> None:
    figures = 'model="m", outcome="confirm", tokens_in=2000, tokens_out=50, cost=0.25, seconds=3.0, calls=1'
    place.act(
        f"""
for trial, asked in (("t1", True), ("t2", False), ("t3", False), ("t4", True)):
    if asked:
        note("consulted", trial, ("{SWAPPINESS}",), "guess", {figures})
    by = "trial" if trial == "t3" else "model"
    note("verdict", trial, ("{SWAPPINESS}",), "guess", kind="reject", by=by)
""",
        STOP,
    )
    models = place.json("status")["models"]
    assert (models["day"]["calls"], models["hour"]["tokens_in"], models["day"]["cost"]) == (2, 4000, 0.5)
    assert (models["reviewed"], models["unasked"]) == (3, 1)
    said = " ".join(place.tell("status").stdout.split())
    assert "last hour 2 4000 100 0.5" in said
    assert "of 3 verdicts with a model's word 33% came without a call" in said
    line = next(line for line in place.tell("history").stdout.splitlines() if " consulted " in line)
    assert "m: confirm; 2000 tokens in, 50 out, cost 0.25 in 3.0s" in line
