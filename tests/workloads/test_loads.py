"""Each bundled load for real: it starts, reports, and ends in every way it should."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOADS = {
    "pingpong": {"ping_p95_us", "ping_p50_us", "ping_per_s"},
    "urgent": {"urgent_p95_ms", "stream_mb_per_s"},
    "bulk": {"bulk_mb_per_s"},
}


def start(load: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"workloads.{load}", *words], stdout=subprocess.PIPE, text=True
    )


def descendants(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 10
    while not all(map(gone, pids)):
        assert time.monotonic() < end, f"{pids} live on"
        time.sleep(0.02)


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_a_load_reports_in_statsd_lines_and_ends_by_itself(load: str, null: bool, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        process = start(load, "--for", "1", "--echo", "--socket", str(path), *(["--null"] if null else []))
        datagram = listener.recv(4096).decode()
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    heard = {line.split(":")[0]: float(line.split(":")[1].removesuffix("|g")) for line in datagram.split()}
    assert heard.keys() == LOADS[load]
    assert all(value >= 0 for value in heard.values())
    echoed = [line.split() for line in output.splitlines()]
    assert {name for _, name, _ in echoed} == LOADS[load]
    times = [float(t) for t, _, _ in echoed]
    assert times == sorted(times)


@pytest.mark.parametrize("load", LOADS)
def test_a_load_stops_on_sigterm_with_all_it_started(load: str) -> None:
    process = start(load, "--for", "60", "--echo")
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        children = descendants(process.pid)
        assert children
        process.terminate()
        assert process.wait(10) == 0
    wait_until_gone(children)


@pytest.mark.parametrize("load", LOADS)
def test_a_load_ends_when_its_parent_is_killed(load: str) -> None:
    """A parent in between is killed; neither the load nor what it forked outlives it."""
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'workloads.{load}', '--for', '60', '--echo'],"
        " stdout=subprocess.PIPE, text=True)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        pids = [pid, *descendants(pid)]
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    wait_until_gone(pids)


def test_a_load_goes_on_when_the_daemon_dies(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        process = start("pingpong", "--for", "1.5", "--echo", "--socket", str(path))
        listener.settimeout(10)
        listener.recv(4096)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(output.splitlines()) > 6


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("load", LOADS)
def test_a_load_started_as_root_works_as_somebody_else(load: str) -> None:
    process = start(load, "--for", "60", "--echo", "--uid", "65534")
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        for pid in (process.pid, *descendants(process.pid)):
            status = Path(f"/proc/{pid}/status").read_text()
            uids, groups = (
                next(line.split()[1:] for line in status.splitlines() if line.startswith(name))
                for name in ("Uid:", "Groups:")
            )
            assert uids == ["65534"] * 4
            assert groups == []
        process.terminate()
        assert process.wait(10) == 0
