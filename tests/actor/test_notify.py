"""The hook: real programs that are quick, slow, deaf, loud, broken or not there."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from tests.daemon.host import until
from tuned_spec.actor.notify import HOUR_S, Notifier, Pace, document, run
from tuned_spec.model import Asking, Move, Notice, Side

HOSTILE = "$(touch /tmp/owned); `id` \x1b[2J\n--help"


def notice(event: str = "pending", trial: str = "t1", **more: object) -> Notice:
    facts: dict[str, object] = {
        "event": event,
        "trial": trial,
        "rule": "guess",
        "moves": (Move("vm.swappiness", 60, 30), Move("net.ipv4.tcp_rmem", (1, 2, 3), (1, 2, 6))),
        "reason": "memory is short",
        "what": "may it be kept? better by 40%",
        "asked": Asking.AFTER_TRIAL,
        "waits_at": Side.OLD,
        "figures": {"effect": 0.4},
        "left_s": 600.0,
        "approve": f"sudo tuned-spec approve {trial}",
        "reject": f"sudo tuned-spec reject {trial}",
    }
    return Notice(**(facts | more))  # type: ignore[arg-type]


def hook(place: Path, body: str) -> tuple[str, ...]:
    """A program with `OUT`, a file to write to."""
    path = place / "hook"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\nOUT = {str(place / 'out')!r}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path), "first", "second")


def test_it_gets_the_question_on_stdin_and_nothing_else_of_it(tmp_path: Path) -> None:
    command = hook(
        tmp_path,
        "import json\n"
        "facts = {'said': json.load(sys.stdin), 'argv': sys.argv[1:], 'env': dict(os.environ),"
        " 'cwd': os.getcwd(), 'leads': os.getsid(0) == os.getpid(),"
        " 'fds': len(os.listdir('/proc/self/fd'))}\n"
        "json.dump(facts, open(OUT, 'w'))",
    )
    assert run(command, document(notice(what=HOSTILE, reason=HOSTILE), 5)) == ""
    found = json.loads((tmp_path / "out").read_text())
    assert found["argv"] == ["first", "second"] and found["cwd"] == "/" and found["leads"]
    assert set(found["env"]) <= {"PATH", "LANG", "LC_CTYPE"}
    assert found["fds"] == 4, "0, 1, 2, and the one that lists them"
    said = found["said"]
    assert said["what"] == HOSTILE and said["more"] == 5 and said["v"] == 1
    assert said["moves"][0] == {"knob": "vm.swappiness", "old": 60, "new": 30}
    assert "net.ipv4.tcp_rmem 1 2 3 -> 1 2 6" in said["text"] and "and 5 more" in said["text"]
    assert said["approve"] in said["text"] and said["figures"] == {"effect": 0.4} and said["left_s"] == 600


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit(3)", "ended with status 3"),
        ("sys.exit('no \\x1b[31mmail\\nhere')", "ended with status 1: no  [31mmail here"),
        ("os.kill(os.getpid(), 15)", "ended with status -15"),
        ("sys.stderr.write('x' * 10_000_000); sys.exit(2)", "ended with status 2: xxx"),
        ("sys.stdout.write('x' * 10_000_000)", ""),
        ("pass  # reads nothing", ""),
        ("os.close(0); os.close(1); os.close(2)", ""),
    ],
)
def test_how_it_may_end(tmp_path: Path, body: str, said: str) -> None:
    trouble = run(hook(tmp_path, body), document(notice()))
    assert trouble.startswith(said) and len(trouble) < 400 and trouble.isprintable()
    assert bool(trouble) is bool(said)


@pytest.mark.parametrize("command", [("/nowhere/hook",), ("/etc/passwd",), ("",), ("/bin/true", "a\0b")])
def test_what_cannot_be_started_is_said(command: tuple[str, ...]) -> None:
    assert run(command, b"{}").startswith("cannot be started: ")


@pytest.mark.parametrize("patience", ["time.sleep(600)", "os.close(2); time.sleep(600)"])
def test_one_that_does_not_end_is_killed_with_all_it_has_started(tmp_path: Path, patience: str) -> None:
    body = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open(OUT, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n{patience}"
    )
    assert run(hook(tmp_path, body), document(notice()), 3.0) == "killed after 3 s"
    for pid in map(int, (tmp_path / "out").read_text().split()):
        until(lambda pid=pid: is_over(pid), f"process {pid} lives")  # type: ignore[misc]


def test_what_it_leaves_behind_is_killed_with_it(tmp_path: Path) -> None:
    body = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(OUT, 'w').write(str(child.pid))"
    )
    assert run(hook(tmp_path, body), document(notice())) == ""
    pid = int((tmp_path / "out").read_text())
    until(lambda: is_over(pid), f"process {pid} lives")


def is_over(pid: int) -> bool:
    """Gone, or dead and waiting for whoever reaps orphans here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_one_at_a_time_in_order(tmp_path: Path) -> None:
    body = (
        "import json\ntrial = json.load(sys.stdin)['trial']\n"
        "out = os.open(OUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "os.write(out, f'+{trial} '.encode()); time.sleep(0.1); os.write(out, f'-{trial} '.encode())"
    )
    complaints: list[str] = []
    notify = Notifier(hook(tmp_path, body), complaints.append)
    before = threading.active_count()
    for trial in ("a", "b", "c"):
        notify(notice(trial=trial))
    assert threading.active_count() == before + 1
    out = tmp_path / "out"
    until(lambda: out.exists() and "-c" in out.read_text(), "not all were told")
    assert out.read_text().split() == ["+a", "-a", "+b", "-b", "+c", "-c"] and not complaints


def test_a_hook_that_fails_is_said_once_until_it_works_again(tmp_path: Path) -> None:
    body = "import json\nn = json.load(sys.stdin)['trial']\nopen(OUT, 'a').write(n)\nsys.exit(n != '3')"
    complaints: list[str] = []
    notify = Notifier(hook(tmp_path, body), complaints.append)
    for n in range(1, 6):
        notify(notice(trial=str(n)))
    until(lambda: len(complaints) == 2, f"{complaints}")
    until(lambda: (tmp_path / "out").read_text() == "12345", "not all were told")
    assert len(complaints) == 2 and all("ended with status 1" in line for line in complaints)


def test_without_a_hook_nothing_runs() -> None:
    before = threading.active_count()
    Notifier((), pytest.fail)(notice())
    assert threading.active_count() == before


def test_so_many_an_hour_and_the_rest_folded_into_one() -> None:
    pace = Pace(an_hour=3)
    assert pace.next(0.0) is None
    for n in range(3):
        pace.put(notice(trial=f"t{n}"))
        assert pace.next(float(n)) == (notice(trial=f"t{n}"), 0)
    for late in (notice(trial="a"), notice(trial="b"), notice("decided", "c")):
        pace.put(late)
    assert pace.next(3.0) == HOUR_S and pace.next(HOUR_S - 1) == HOUR_S
    assert pace.next(HOUR_S) == (notice(trial="b"), 2), "the newest question, and two more"
    assert pace.next(HOUR_S) is None
    pace.put(notice(trial="d"))
    assert pace.next(HOUR_S + 0.5) == HOUR_S + 1.0, "three in any hour"
    assert pace.next(HOUR_S + 1.0) == (notice(trial="d"), 0)


def test_it_is_run_as_who_runs_us(tmp_path: Path) -> None:
    assert run(hook(tmp_path, "open(OUT, 'w').write(str(os.getuid()))"), b"") == ""
    assert (tmp_path / "out").read_text() == str(os.getuid())
