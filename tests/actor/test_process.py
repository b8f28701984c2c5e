"""The real process over a real socket pair."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.actor.cases import answer, case
from tuned_spec.actor import channel
from tuned_spec.model import (
    Arm,
    Cancel,
    FromActor,
    Hello,
    Measure,
    Measurement,
    ProbeAnswer,
    ToActor,
    Verdict,
    VerdictKind,
)


@dataclass
class Peer:
    """The daemon's end of the door, and the process behind it."""

    process: subprocess.Popen[str]
    door: socket.socket
    decoder: channel.Decoder[FromActor] = field(default_factory=channel.from_actor)
    inbox: list[FromActor] = field(default_factory=list)

    def send(self, *messages: ToActor) -> None:
        self.door.sendall(b"".join(channel.encode(m) for m in messages))

    def next(self) -> FromActor:
        while not self.inbox:
            data = self.door.recv(1 << 16)
            assert data, f"the actor left: {self.end()}"
            self.inbox += self.decoder.feed(data)
        return self.inbox.pop(0)

    def measure(self) -> Measure:
        message = self.next()
        assert isinstance(message, Measure), message
        return message

    def end(self) -> tuple[int, str]:
        """Exit status and stderr of a process that is about to end."""
        _, complaint = self.process.communicate(timeout=30)
        return self.process.returncode, complaint


@pytest.fixture
def actor() -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    command = [sys.executable, "-m", "tuned_spec.actor", "--fd", str(theirs.fileno()), "--seed", "7"]
    with theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
    with ours, process:
        try:
            yield Peer(process, ours)
        finally:
            process.kill()


def answered(question: Measure, by_arm: dict[Arm, float]) -> Measurement:
    value = by_arm[question.arm]
    return answer(question, {"app.p95_ms": (value, value * 1.02, value * 0.98)})


def test_says_hello_after_it_dropped_its_privileges(actor: Peer) -> None:
    hello = actor.next()
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    assert hello == Hello("trial", actor.process.pid, uid)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{actor.process.pid}/status").read_text().splitlines()
    )
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Threads"] == "1"  # no_new_privs is a thread's own


def test_judges_cases_side_by_side(actor: Peer) -> None:
    actor.next()
    actor.send(case(id="good"), case(id="bad"))
    worlds = {"good": {Arm.A: 10.0, Arm.B: 5.0}, "bad": {Arm.A: 10.0, Arm.B: 20.0}}
    verdicts: dict[str, Verdict] = {}
    while len(verdicts) < 2:
        match actor.next():
            case Measure() as question:
                actor.send(answered(question, worlds[question.case]))
            case Verdict() as verdict:
                verdicts[verdict.case] = verdict
            case other:
                pytest.fail(f"unexpected {other}")
    assert verdicts["good"].kind is VerdictKind.CONFIRM
    assert verdicts["good"].effect == pytest.approx(0.5, abs=0.05)
    assert verdicts["bad"].kind is VerdictKind.REJECT


def test_cancel_ends_a_case_and_late_answers_are_nobodys(actor: Peer) -> None:
    actor.next()
    actor.send(case(id="over"))
    question = actor.measure()
    actor.send(Cancel("over", "lease ended"), answered(question, {Arm.A: 1.0, Arm.B: 1.0}), case(id="next"))
    assert actor.measure().case == "next"


def test_an_answer_to_another_question_is_ignored(actor: Peer) -> None:
    actor.next()
    actor.send(case())
    first = actor.measure()
    wrong = Measurement(first.case, first.seq + 5, first.arm, {"app.p95_ms": (1.0,)})
    actor.send(wrong, answered(first, {Arm.A: 1.0, Arm.B: 1.0}))
    assert actor.measure().seq == first.seq + 1


def test_a_failing_case_is_silence_and_a_line_and_the_others_go_on(actor: Peer) -> None:
    actor.next()
    actor.send(case(id="broken"))
    question = actor.measure()
    actor.send(ProbeAnswer("broken", question.seq, "?"), case(id="fine"))
    assert actor.measure().case == "fine"
    actor.door.shutdown(socket.SHUT_WR)
    status, complaint = actor.end()
    assert status == 0
    assert "case broken given up" in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("rubbish", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bytes announced"),
        (b"\0\0\0\0", "frame of 0 bytes"),
        (b"\0\0\0\x02{]", "cannot be read"),
        (b"\0\0\0\x0f" + b'{"type":"exec"}', "Invalid value 'exec'"),
        (b"\0\0\0\x10{", "ended 5 bytes into a frame"),
    ],
)
def test_rubbish_from_the_daemon_ends_it_with_a_line(actor: Peer, rubbish: bytes, said: str) -> None:
    actor.next()
    actor.door.sendall(rubbish)
    actor.door.shutdown(socket.SHUT_WR)
    status, complaint = actor.end()
    assert status == 1
    assert said in complaint
    assert complaint.count("\n") == 1


def test_end_of_file_ends_it(actor: Peer) -> None:
    actor.next()
    actor.send(case())
    actor.measure()
    actor.door.close()
    assert actor.end() == (0, "")


def test_ctrl_c_is_left_to_the_daemon(actor: Peer) -> None:
    actor.next()
    os.kill(actor.process.pid, signal.SIGINT)
    actor.send(case())
    assert actor.measure().case == "t1"


def test_killed_it_is_an_end_of_file_to_the_daemon(actor: Peer) -> None:
    actor.next()
    os.kill(actor.process.pid, signal.SIGKILL)
    assert actor.door.recv(1) == b""


def test_it_dies_with_the_daemon_that_started_it(tmp_path: Path) -> None:
    """Even while another process holds the daemon's end of the door open."""
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    program = (
        "import subprocess, sys, time\n"
        "fd = sys.argv[1]\n"
        "subprocess.Popen([sys.executable, '-m', 'tuned_spec.actor', '--fd', fd], pass_fds=[int(fd)])\n"
        "time.sleep(600)\n"
    )
    with ours, theirs:
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as parent:
            theirs.close()
            ours.recv(1 << 16)  # hello: it is up
            parent.kill()
        assert ours.recv(1) == b""
