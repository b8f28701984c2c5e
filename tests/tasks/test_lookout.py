"""The lookout as a process: what it says of programs that start and end, in a storm, and its own end."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tuned_spec.lookout.messages import MOST, PACKET, Deaf, Lost, News, Tasks, pack, unpack
from tuned_spec.lookout.tasks import KNOWN, gather

SECONDS = 20.0  # until a test gives up
FORKS = """
import os
for _ in range({n}):
    if not (pid := os.fork()):
        os._exit(0)
    os.waitpid(pid, 0)
"""


@contextmanager
def lookout(*before: str) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.settimeout(SECONDS)
    fd = theirs.fileno()
    command = [*before, sys.executable, "-m", "tuned_spec.lookout", "--fd", str(fd), "--hear", "tasks"]
    with ours, subprocess.Popen(command, pass_fds=[fd]) as process:
        theirs.close()
        try:
            yield ours, process
        finally:
            process.kill()


@pytest.fixture
def listening() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    if os.geteuid() != 0:
        pytest.skip("task.*: the kernel's process events need root")
    with lookout() as (ours, process):
        for piece in heard(ours):
            if isinstance(piece, Deaf):
                pytest.skip(f"task.*: {piece.why}")
        yield ours, process


def heard(ours: socket.socket) -> tuple[News, ...]:
    return unpack(ours.recv(PACKET))


def until(ours: socket.socket, wanted: Callable[[Tasks], bool]) -> int:
    """Packets until a Tasks is as wanted; the socket's timeout ends it."""
    packets = 1
    while not any(isinstance(piece, Tasks) and wanted(piece) for piece in heard(ours)):
        packets += 1
    return packets


# --------------------------------------------------------------------------- without a kernel


@pytest.mark.parametrize(
    "news", [(), (Tasks((1, 2), (3,)),), (Lost("x"), Deaf("tasks", "y")), (Tasks(tuple(range(MOST))),)]
)
def test_what_is_packed_is_unpacked(news: tuple[News, ...]) -> None:
    assert len(pack(news)) <= PACKET
    assert unpack(pack(news)) == news


def test_the_fullest_packet_fits() -> None:
    highest = tuple(range(1 << 22, (1 << 22) + MOST))
    assert len(pack([Tasks(highest, highest), Lost("the kernel dropped events")])) <= PACKET


def test_ends_are_told_of_what_was_told_only() -> None:
    known: set[int] = set()
    assert gather({7, 8}, {9}, False, known) == [Tasks((7, 8))]
    assert gather(set(), {9, 10}, False, known) == []
    assert gather({7}, {7, 8}, False, known) == [Tasks((7,), (7, 8))]
    assert known == {7}


def test_too_much_is_told_as_lost() -> None:
    known = {1}
    (lost,) = gather(set(range(MOST + 1)), set(), False, known)
    assert isinstance(lost, Lost)
    assert known == set()
    crowded = set(range(KNOWN + 1))
    assert [type(piece) for piece in gather({1}, set(), False, crowded)] == [Lost]
    assert [type(piece) for piece in gather({1}, set(), True, set())] == [Tasks, Lost]


# ------------------------------------------------------------------------------- on the kernel


@pytest.mark.kernel
def test_a_program_that_starts_and_ends_is_told(
    listening: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    ours, _ = listening
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program:
        until(ours, lambda tasks: program.pid in tasks.exec)
        assert program.stdin
        program.stdin.close()
        until(ours, lambda tasks: program.pid in tasks.exit)


@pytest.mark.kernel
def test_a_storm_of_forks_is_a_few_packets(listening: tuple[socket.socket, subprocess.Popen[bytes]]) -> None:
    ours, _ = listening
    forks = 3000
    subprocess.run([sys.executable, "-S", "-c", FORKS.format(n=forks)], check=True)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as last:
        packets = until(ours, lambda tasks: last.pid in tasks.exec)
    assert packets < forks / 10


@pytest.mark.kernel
def test_it_ends_when_the_daemon_closes_its_end(
    listening: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    ours, process = listening
    ours.close()
    assert process.wait(SECONDS) == 0


@pytest.mark.kernel
def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("task.*: the kernel's process events need root")
    # A shell stands for the daemon; the socket stays open, so that only its death can end the lookout.
    with lookout("sh", "-c", '"$@"; :', "sh") as (ours, shell):
        heard(ours)
        children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        fd = os.pidfd_open(int(children[0]))
        shell.kill()
        assert select.select([fd], [], [], SECONDS)[0] == [fd]
        os.close(fd)


@pytest.mark.kernel
def test_where_it_may_not_hear_it_says_so() -> None:
    if os.geteuid() != 0:
        pytest.skip("task.*: making a namespace needs root")
    for namespace in ("--net", "--pid"):
        with lookout("unshare", namespace, "--fork") as (ours, _):
            (deaf,) = heard(ours)
            assert isinstance(deaf, Deaf)
            assert deaf.of == "tasks"
            assert deaf.why
