"""A real daemon, and an actor that asks it all there is to ask."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until
from tests.daemon.stranger import ACTOR
from tuned_spec.engine.probing import A_CASE, AT_ONCE
from tuned_spec.probes.names import ANSWER_LIMIT, PROBES, Arg

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"{KNOB}: writes a real knob: needs root"),
]

TOLD = "TOLD = open({0!r}, 'w')\n"  # while it still may
ASK = """
asked = 0
def ask(case, name, args={}):
    global asked
    asked += 1
    say(type='probe', case=case, seq=asked, name=name, args=args)
def answer():
    while (m := hear())['type'] != 'probe_answer': pass
    return m
def report(what):
    TOLD.write(json.dumps(what) + '\\n'); TOLD.flush()
c = case()
"""
ARGS = {
    Arg.METRIC: "app.p95_ms",
    Arg.KNOB: KNOB,
    Arg.CGROUP: "system.slice",
    Arg.UNIT: "init.scope",
    Arg.RESOURCE: "cpu",
}
QUESTIONS = [(name, {arg: ARGS[shape] for arg, shape in kind.args.items()}) for name, kind in PROBES.items()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    tmp_path.chmod(0o755)
    with host(tmp_path, settle="100ms", lease="2m") as one:
        yield one


def told(machine: Host, program: str) -> Any:
    """What the actor reports first, having been given a case."""
    machine.start_with(sys.executable, "-c", TOLD.format(str(machine.place / "told")) + ACTOR + ASK + program)
    until(lambda: "actor" in machine.kinds(), f"no actor:\n{machine.said()}")
    machine.send(50.0)
    return reported(machine, 0)


def reported(machine: Host, number: int) -> Any:
    def lines() -> list[str]:
        return (machine.place / "told").read_text().splitlines(keepends=True)

    until(lambda: len(lines()) > number and lines()[number].endswith("\n"), "nothing was told", 30.0)
    return json.loads(lines()[number])


def children(pid: int) -> dict[int, str]:
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def helper(machine: Host) -> int | None:
    assert machine.process is not None
    return next((p for p, argv in children(machine.process.pid).items() if "tuned_spec.probes" in argv), None)


def test_every_probe_is_answered(machine: Host) -> None:
    program = f"""
answers = {{}}
for name, args in {QUESTIONS!r}:
    ask(c['id'], name, args)
    answers[name] = answer()
report([c['id'], answers])
while True: hear()
"""
    before = int(FILE.read_text())
    case, answers = told(machine, program)
    assert set(answers) == set(PROBES)
    for name, answer in answers.items():
        assert bool(answer["answer"]) != bool(answer.get("error")), f"{name}: an answer or an error"
        assert len(answer["answer"].encode()) <= ANSWER_LIMIT
        if answer["answer"]:
            assert isinstance(json.loads(answer["answer"]), dict)
    always = ("metric_history", "knob", "changes", "top_processes", "sockets", "memory", "kernel_log")
    assert not {name: answers[name].get("error") for name in always if answers[name].get("error")}
    after = int(FILE.read_text())
    assert json.loads(answers["metric_history"]["answer"])["oldest_first"] == [50]
    knob = json.loads(answers["knob"]["answer"])
    assert knob["value"] == after != before and knob["original"] == before
    assert case in knob["held_by"]
    (trial,) = json.loads(answers["changes"]["answer"])["on_trial"]
    assert trial["trial"] == case and trial["after"] == {KNOB: after}

    entries = [e for e in machine.history() if e.kind == "probed"]
    assert [e.data["name"] for e in entries] == list(PROBES)
    assert all(e.trial == case and e.rule == "guess" for e in entries)
    assert not any("answer" in e.data for e in entries)
    said = machine.command("history").stdout
    assert f"asked for knob ({KNOB}): " in said and "bytes in" in said
    probes = machine.status()["status"]["probes"]
    assert probes["asked"] == len(PROBES) - 3 and probes["pid"] == helper(machine)
    assert f"process {probes['pid']}" in machine.command("status").stdout
    assert machine.stop() == 0
    assert helper_is_gone(probes["pid"])


def helper_is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_what_is_no_question_is_answered_in_words_and_costs_nothing(machine: Host) -> None:
    wrong = [
        ("rm", {}),
        ("\x1b[2Jbeep\n" * 20, {}),
        ("memory", {"path": "/etc/shadow"}),
        ("cgroup", {"cgroup": "../../etc"}),
        ("unit", {"unit": "a b.service"}),
        ("top_processes", {"by": "cpu; reboot"}),
    ]
    program = f"""
errors = []
for name, args in {wrong!r}:
    ask(c['id'], name, args)
    errors.append(answer()['error'])
ask('nobody.1', 'memory')
errors.append(answer()['error'])
report(errors)
while True: hear()
"""
    errors = told(machine, program)
    assert all(errors) and len(errors) == len(wrong) + 1
    assert "no probe" in errors[0] and "not open" in errors[-1]
    assert helper(machine) is None, "nobody was started for that"
    said = machine.command("history").stdout
    assert "\x1b" not in said and "'rm'" in said and "/etc/shadow" not in said
    assert "probes " not in machine.command("status").stdout
    assert machine.stop() == 0


def test_a_case_may_ask_so_much_at_once_and_so_much_in_all(machine: Host) -> None:
    program = f"""
errors = []
for _ in range({AT_ONCE} + 2): ask(c['id'], 'memory')
errors += [answer() for _ in range({AT_ONCE} + 2)]
for _ in range({A_CASE}):
    ask(c['id'], 'changes')
    errors.append(answer())
report([(m['seq'], m.get('error', '')) for m in errors])
while True: hear()
"""
    answers = told(machine, program)
    refused = [error for _, error in answers if error]
    assert sorted(seq for seq, _ in answers) == list(range(1, AT_ONCE + 2 + A_CASE + 1))
    assert sum("at once" in error for error in refused) == 2
    assert sum("a case" in error for error in refused) == AT_ONCE
    assert len(refused) == AT_ONCE + 2
    assert machine.kinds().count("probed") == A_CASE
    assert machine.stop() == 0


def test_a_helper_that_is_killed_is_an_error_and_then_another_helper(machine: Host) -> None:
    program = """
ask(c['id'], 'kernel_log')
first = answer()
ask(c['id'], 'memory')
report('now')
second = answer()
while True:
    time.sleep(0.5)
    ask(c['id'], 'kernel_log')
    third = answer()
    if 'error' not in third: break
report([first, second, third])
while True: hear()
"""
    assert told(machine, program) == "now"
    pid = helper(machine)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    first, second, third = reported(machine, 1)
    assert "error" not in first and "failed: it ended" in second["error"] and third["answer"]
    assert helper(machine) not in (None, pid)
    assert machine.status()["status"]["probes"]["failed"] >= 1
    assert machine.stop() == 0


def test_an_answer_for_a_case_that_is_over_is_dropped(machine: Host) -> None:
    program = """
ask(c['id'], 'memory')
report('asked')
say(type='verdict', case=c['id'], kind='reject', reason='enough')
said = []
end = time.time() + 3
s.settimeout(0.5)
while time.time() < end:
    try: said.append(hear()['type'])
    except TimeoutError: pass
report(said)
while True: hear()
"""
    before = FILE.read_text()
    told(machine, program)
    assert "probe_answer" not in reported(machine, 1)
    assert "probed" not in machine.kinds() and "reverted" in machine.kinds()
    assert machine.stop() == 0  # by now it may have been guessed again
    assert FILE.read_text() == before
