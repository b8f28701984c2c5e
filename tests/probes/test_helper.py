"""The helper as a process: what it answers over its socket, what it may not do, and its end."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuned_spec.daemon.probes_link import IDLE_S, PATIENCE_S, PROGRAM, WAITING, ProbesLink
from tuned_spec.probes.messages import PACKET, Answered, Question, answered, pack
from tuned_spec.probes.names import ANSWER_LIMIT, PROBES
from tuned_spec.probes.power import KEPT
from tuned_spec.probes.registry import ANSWERS

SECONDS = 30.0  # until a test gives up
# A probe of the test's own in the helper's registry, under the name of one that is asked without arguments.
WITH = """
import sys, time
from tuned_spec.probes import __main__, registry
def probe(args):
    {0}
registry.ANSWERS['disks'] = probe
raise SystemExit(__main__.main())
"""


def with_probe(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", WITH.format(body))


@contextmanager
def helper(*command: str) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.settimeout(SECONDS)
    fd = theirs.fileno()
    with ours, subprocess.Popen([*(command or PROGRAM), "--fd", str(fd)], pass_fds=[fd]) as process:
        theirs.close()
        try:
            yield ours, process
        finally:
            process.kill()


def ask(ours: socket.socket, *questions: Question) -> dict[int, Answered]:
    for question in questions:
        ours.sendall(pack(question))
    found: dict[int, Answered] = {}
    for _ in questions:
        one = answered(ours.recv(PACKET))
        assert one.token not in found, "each is answered once"
        found[one.token] = one
    return found


def test_all_that_the_daemon_does_not_know_itself_is_answered_here() -> None:
    from tuned_spec.daemon.known import KNOWN

    assert set(ANSWERS) | set(KNOWN) == set(PROBES)
    assert not set(ANSWERS) & set(KNOWN)


def test_a_flood_is_answered_to_the_last_one() -> None:
    questions = [Question(n, "kernel_log" if n % 2 else "unit", {"unit": "a.service"}) for n in range(200)]
    with helper() as (ours, _):
        found = ask(ours, *questions)
    assert set(found) == set(range(200))
    assert all(len(one.answer.encode()) <= ANSWER_LIMIT for one in found.values())
    assert all(bool(one.answer) != bool(one.error) for one in found.values())


def test_sampled_answers_are_taken_side_by_side() -> None:
    """Eight windows of a second each, one after the other, would be too slow for the link's patience."""
    questions = [Question(n, "memory") for n in range(8)]
    with helper() as (ours, _):
        found = ask(ours, *questions)
    assert all(json.loads(one.answer)["KiB"]["MemTotal"] for one in found.values())
    assert sum(one.seconds for one in found.values()) > PATIENCE_S, "eight windows of a second"
    assert max(one.seconds for one in found.values()) < PATIENCE_S, "or the daemon would have given it up"


def test_a_name_that_it_does_not_know_is_an_error() -> None:
    with helper() as (ours, _):
        (one,) = ask(ours, Question(7, "rm")).values()
    assert one.token == 7 and "not answered here" in one.error


@pytest.mark.parametrize("packet", [b"{", b"[]", b'{"token":"x","name":1}', b"\xff" * 9])
def test_a_packet_that_cannot_be_read_ends_it(packet: bytes) -> None:
    with helper() as (ours, process):
        ours.sendall(packet)
        assert process.wait(SECONDS) == 1


def test_it_ends_when_the_daemon_closes_its_end() -> None:
    with helper() as (ours, process):
        ask(ours, Question(1, "kernel_log"))
        ours.sendall(pack(Question(2, "memory")))  # under way
        ours.close()
        assert process.wait(SECONDS) == 0


def test_a_probe_that_hangs_is_too_slow_and_the_others_go_on() -> None:
    with helper(*with_probe("time.sleep(60)")) as (ours, _):
        found = ask(ours, Question(1, "disks"), Question(2, "kernel_log"))
    assert "too slow" in found[1].error
    assert found[2].answer or "kmsg" in found[2].error


def test_a_probe_that_fails_is_an_error_in_words() -> None:
    with helper(*with_probe(r"raise RuntimeError('a\n\x1b[2Jb' * 1000)")) as (ours, _):
        (one,) = ask(ours, Question(1, "disks")).values()
    assert one.error.startswith("disks: it failed: RuntimeError: a b") and one.error.isprintable()
    assert len(one.error) < 500


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has power to give up")
def test_it_has_the_power_to_read_and_no_other() -> None:
    with helper() as (ours, process):
        ask(ours, Question(1, "kernel_log"))
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[which], 16) & ~sum(1 << c for c in KEPT) == 0, which
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="vm.page-cluster: only root might write it")
@pytest.mark.parametrize("path", ["/proc/sys/vm/page-cluster", "PLACE/file"])
def test_it_cannot_write_even_if_it_would(tmp_path: Path, path: str) -> None:
    file = Path(path.replace("PLACE", str(tmp_path)))
    before = file.read_text() if file.exists() else None
    body = f"open({str(file)!r}, 'w').write({before or 'x'!r}); return '{{}}'"
    with helper(*with_probe(body)) as (ours, _):
        (one,) = ask(ours, Question(1, "disks")).values()
    if one.answer:
        pytest.skip("mount_setattr: this kernel or container lets nobody have a namespace that is read-only")
    assert "Read-only file system" in one.error or "File too large" in one.error
    assert (file.read_text() if file.exists() else None) == before


@pytest.mark.kernel
def test_it_dies_with_its_parent() -> None:
    # A shell stands for the daemon; the socket stays open, so that only its death can end the helper.
    with helper("sh", "-c", '"$@"; :', "sh", *PROGRAM) as (ours, shell):
        ask(ours, Question(1, "kernel_log"))
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        fd = os.pidfd_open(int(children[0]))
        shell.kill()
        assert select.select([fd], [], [], SECONDS)[0] == [fd]
        os.close(fd)


# ------------------------------------------------------------------------------- the daemon's end


@contextmanager
def link(*command: str) -> Iterator[ProbesLink]:
    one = ProbesLink(command or PROGRAM)
    try:
        yield one
    finally:
        one.give_up(0.0)


def hear(one: ProbesLink) -> tuple[list[Answered], str]:
    """The next news, whichever it is."""
    assert one.sock is not None
    assert select.select([one.sock], [], [], SECONDS)[0], "it says nothing"
    return one.receive()


def test_it_is_started_when_asked_and_ended_when_idle() -> None:
    with link() as one:
        assert one.pid is None and one.due is None
        assert one.ask(Question(1, "kernel_log"), 10.0) == ""
        assert one.pid is not None and one.due == 10.0 + PATIENCE_S
        (told,), trouble = hear(one)
        assert told.token == 1 and not trouble
        assert one.due == 10.0 + IDLE_S
        assert not one.idle(9.9 + IDLE_S) and one.idle(10.0 + IDLE_S)
        one.give_up(10.0 + IDLE_S)
        assert one.pid is None and one.lost("idle") == []
        assert one.ask(Question(2, "kernel_log"), 100.0 + IDLE_S) == ""
        assert hear(one)[0][0].token == 2
        assert (one.asked, one.failed, one.restarts) == (2, 0, 1)


def test_silence_is_an_error_for_all_who_wait() -> None:
    with link(*with_probe("time.sleep(60)")) as one:
        for token in range(3):
            assert one.ask(Question(token, "disks"), float(token)) == ""
        assert one.overdue(PATIENCE_S - 0.1) == ""
        trouble = one.overdue(PATIENCE_S)
        assert "did not answer" in trouble
        one.give_up(PATIENCE_S)
        lost = one.lost(trouble)
        assert [said.token for said in lost] == [0, 1, 2]
        assert all("did not answer" in said.error for said in lost)
        assert "started anew" in one.ask(Question(4, "disks"), PATIENCE_S), "it is not started at once"
        assert one.ask(Question(5, "disks"), PATIENCE_S + 60) == ""
        assert one.failed == 4


def test_a_helper_that_is_killed_is_noticed() -> None:
    with link() as one:
        assert one.ask(Question(1, "memory"), 0.0) == ""
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        assert hear(one) == ([], "it ended")
        one.give_up(1.0)
        (said,) = one.lost("it ended")
        assert said == Answered(1, error="the process that answers failed: it ended")


def test_too_many_questions_are_refused() -> None:
    with link(*with_probe("time.sleep(60)")) as one:
        assert [one.ask(Question(n, "disks"), 0.0) for n in range(WAITING)] == [""] * WAITING
        assert "other questions" in one.ask(Question(WAITING, "disks"), 0.0)


def test_a_helper_that_cannot_be_started_is_an_error() -> None:
    with link("/nonexistent/helper") as one:
        assert "cannot be started" in one.ask(Question(1, "memory"), 0.0)
        assert one.due is None and one.lost("x") == []


SAY = """
import socket, sys
s = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))
s.recv(65536); s.sendall({0!r}); s.recv(65536)
"""


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"token":1,"answer":"' + b"x" * 70_000 + b'"}', "cannot be read"),
        (b'{"token":2}', "not asked"),
    ],
)
def test_a_helper_that_babbles_is_given_up(packet: bytes, said: str) -> None:
    with link(sys.executable, "-c", SAY.format(packet)) as one:
        assert one.ask(Question(1, "memory"), 0.0) == ""
        told, trouble = hear(one)
        assert told == [] and said in trouble


def test_an_answer_that_is_too_long_is_none() -> None:
    with link(sys.executable, "-c", SAY.format(pack(Answered(1, "x" * (ANSWER_LIMIT + 1))))) as one:
        assert one.ask(Question(1, "memory"), 0.0) == ""
        assert hear(one) == ([Answered(1, error="its answer was too long")], "")
