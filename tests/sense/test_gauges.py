from __future__ import annotations

import array
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuned_spec.errors import AlreadyRunning, UsageError
from tuned_spec.sense.gauges import MAX_BYTES, MAX_DATAGRAMS, MAX_LINES, REASONS, GaugeSocket, send

ME = os.geteuid()
OTHER = ME + 12345
OWNERS = {"app.p95_ms": ME, "rps": ME, "app.theirs": OTHER}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sock"


@pytest.fixture
def gauges(path: Path) -> Iterator[GaugeSocket]:
    gauges = GaugeSocket(path, OWNERS)
    yield gauges
    gauges.close()


@pytest.fixture
def client(path: Path, gauges: GaugeSocket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
        client.connect(os.fspath(path))
        yield client


def counts(gauges: GaugeSocket) -> dict[str, int]:
    return {reason: count for reason, count in gauges.rejected.items() if count}


def test_lines_become_samples(gauges: GaugeSocket, client: socket.socket) -> None:
    client.send(b"p95_ms:12.5|g\nrps:1e3|g\n")
    client.send(b"rps:.5|g")
    samples = gauges.receive(7.0)
    assert [(s.name, s.value, s.t, s.uid) for s in samples] == [
        ("app.p95_ms", 12.5, 7.0, ME),
        ("app.rps", 1000.0, 7.0, ME),
        ("app.rps", 0.5, 7.0, ME),
    ]
    assert gauges.receive(8.0) == []
    assert counts(gauges) == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"theirs:1|g", "wrong_owner"),
        (b"nobodys:1|g", "unknown_metric"),
        (b"app.rps:1|g", "unknown_metric"),
        (b"rps:nan|g", "not_finite"),
        (b"rps:-inf|g", "not_finite"),
        (b"rps:1e999|g", "not_finite"),
        (b"rps:-3|g", "bad_line"),
        (b"rps:+3|g", "bad_line"),
        (b"rps:1_0|g", "bad_line"),
        (b"rps: 1|g", "bad_line"),
        (b"rps:1|c", "bad_line"),
        (b"rps:1|g|@0.1", "bad_line"),
        (b"rps:1", "bad_line"),
        (b"rps:|g", "bad_line"),
        (b":1|g", "bad_line"),
        (b"", "bad_line"),
        (b"\xff\x00:1|g", "bad_line"),
        (b"rps:" + b"9" * 65 + b"|g", "bad_line"),
        (b"rps:1|g\n" * 400, "too_long"),
    ],
)
def test_refusals_are_counted_by_reason(
    gauges: GaugeSocket, client: socket.socket, line: bytes, reason: str
) -> None:
    client.send(line)
    assert gauges.receive(0.0) == []
    assert counts(gauges) == {reason: 1}


def test_good_lines_beside_bad_ones_count(gauges: GaugeSocket, client: socket.socket) -> None:
    client.send(b"rubbish\nrps:2|g\n\nrps:3|g")
    assert [s.value for s in gauges.receive(0.0)] == [2.0, 3.0]
    assert counts(gauges) == {"bad_line": 2}


def test_many_lines_are_cut(gauges: GaugeSocket, client: socket.socket) -> None:
    client.send(b"\n".join([b"rps:1|g"] * (MAX_LINES + 5)))
    assert len(gauges.receive(0.0)) == MAX_LINES
    assert counts(gauges) == {"too_long": 1}


def test_a_stranger_is_refused_unread(path: Path) -> None:
    gauges = GaugeSocket(path, {"rps": OTHER})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"rps:1|g\nrubbish\nrubbish", os.fspath(path))
    assert gauges.receive(0.0) == []
    assert counts(gauges) == {"wrong_owner": 1}  # by datagram, not by line
    gauges.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=MAX_BYTES + 9), st.from_regex(rb"(rps|x):[0-9.e+|g\n-]{0,40}"))))
def test_garbage_never_raises(gauges: GaugeSocket, client: socket.socket, datagrams: list[bytes]) -> None:
    for datagram in datagrams:
        client.send(datagram)
        for sample in gauges.receive(0.0):
            assert sample.name == "app.rps" and 0 <= sample.value < float("inf")
    assert set(gauges.rejected) == set(REASONS)


def test_one_call_does_bounded_work_while_a_flood_goes_on(path: Path, gauges: GaugeSocket) -> None:
    flood = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(sys.argv[1])\n"
        f"data = b'rps:1|g\\n' * {MAX_LINES}\n"
        "try:\n    while True: s.send(data)\nexcept OSError: pass\n"
    )
    flooders = [subprocess.Popen([sys.executable, "-c", flood, os.fspath(path)]) for _ in range(2)]
    try:
        received = [0]
        while sum(received) < 20_000:
            received.append(len(gauges.receive(0.0)))
        assert max(received) <= MAX_DATAGRAMS * MAX_LINES
    finally:
        gauges.close()
        for flooder in flooders:
            flooder.kill()
            flooder.wait()


def test_descriptors_that_are_sent_are_dropped(gauges: GaugeSocket, client: socket.socket) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    fds = array.array("i", [client.fileno()] * 10)
    client.sendmsg([b"rps:4|g"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    assert [s.value for s in gauges.receive(0.0)] == [4.0]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_mode_and_removal(path: Path) -> None:
    old = os.umask(0o022)
    try:
        gauges = GaugeSocket(path, OWNERS, gid=os.getegid())
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    gauges.close()
    assert not path.exists()


def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(os.fspath(path))
    gauges = GaugeSocket(path, OWNERS)
    assert send(path, "rps", 9)
    assert [s.value for s in gauges.receive(0.0)] == [9.0]
    gauges.close()


def test_the_socket_of_a_live_daemon_is_not(path: Path, gauges: GaugeSocket) -> None:
    with pytest.raises(AlreadyRunning, match="somebody listens"):
        GaugeSocket(path, OWNERS)
    assert send(path, "rps", 1)


def test_a_file_that_is_no_socket_is_left(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UsageError, match="is no socket"):
        GaugeSocket(path, OWNERS)
    assert path.read_text() == "precious"


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long for a Unix socket"):
        GaugeSocket(tmp_path / ("x" * 120), OWNERS)
    with pytest.raises(UsageError, match="cannot listen"):
        GaugeSocket(tmp_path / "no/such/m.sock", OWNERS)


def test_closing_leaves_the_socket_of_a_successor(path: Path) -> None:
    first = GaugeSocket(path, OWNERS)
    path.rename(path.with_name("kept"))  # so that the successor cannot get the same inode number
    second = GaugeSocket(path, OWNERS)
    first.close()
    assert send(path, "rps", 1)
    second.close()


def test_sending_to_nobody_is_no_error(path: Path) -> None:
    assert not send(path, "rps", 1.0)


@pytest.mark.kernel
def test_the_kernel_tells_who_sends() -> None:
    if ME != 0:
        pytest.skip("needs root, to send as another user")
    with tempfile.TemporaryDirectory(prefix="ts-") as name:  # tmp_path is closed to others
        directory = Path(name)
        directory.chmod(0o755)
        gauges = GaugeSocket(directory / "m.sock", {"mine": 65534, "roots": 0}, gid=65534)
        program = (
            "import os, sys; from tuned_spec.sense.gauges import send\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "sys.exit(not (send(sys.argv[1], 'mine', 5) and send(sys.argv[1], 'roots', 6)))\n"
        )
        subprocess.run([sys.executable, "-c", program, os.fspath(directory / "m.sock")], check=True)
        assert [(s.name, s.value, s.uid) for s in gauges.receive(0.0)] == [("app.mine", 5.0, 65534)]
        assert counts(gauges) == {"wrong_owner": 1}
        gauges.close()
