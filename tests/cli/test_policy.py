"""`policy test` as one types it, and shipped policies at work on the real kernel."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.host import until
from tuned_spec.cli import main
from tuned_spec.ledger.history import read
from tuned_spec.paths import shipped_policies

TRACES = Path(__file__).parents[1] / "policy/traces"
STORM = str(TRACES / "web-storm.jsonl.gz")
SHIPPED = sorted(path.stem for path in shipped_policies().glob("*.yaml"))


def say(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["policy", "test", *words])
    out, error = capsys.readouterr()
    return code, out, error


def test_a_table_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = say(capsys, "web", "--trace", STORM)
    assert code == 0
    (row,) = [line for line in out.splitlines() if "4096 -> 8192" in line]
    assert row.split()[1:3] == ["longer-accept-queue", "net.core.somaxconn"]
    assert "tcp.listen_overflows_per_s" in row
    assert "mode observe: 1 proposal in 70 observations over" in out
    assert "refused by the envelope" in out and "cooldown" in out
    assert "a storm of connections" in out, "the recorder's note"


def test_a_document_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, "web", "--trace", STORM, "--set", "net.core.somaxconn=128", "--json")
    document = json.loads(out)
    assert code == 0 and document["ok"]
    assert document["replay"]["proposed"][0]["writes"] == [{"knob": "net.core.somaxconn", "value": 256}]
    page = (Path(__file__).parents[2] / "docs/json.md").read_text().partition("## policy test")[2]
    said = page.partition("\n## ")[0]
    parts = [
        document,
        document["replay"],
        document["replay"]["proposed"][0],
        document["replay"]["refused"][0],
    ]
    assert all(f"`{key}`" in said for part in parts for key in part)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("web", "--trace", "/nowhere.jsonl"), 2, "/nowhere.jsonl:1: cannot be read"),
        (("web", "--trace", STORM, "--set", "net.core.somaxcon=1"), 2, "did you mean net.core.somaxconn"),
        (("web", "--trace", STORM, "--set", "net.core.somaxconn"), 2, "write KNOB=VALUE"),
        (("web", "--trace", STORM, "--set", "net.core.somaxconn=much"), 2, "'much' is not a number"),
        (("wep", "--trace", STORM), 3, "no policy 'wep'; did you mean web?"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    found, out, error = say(capsys, *words)
    assert (found, said in out + error) == (code, True), out + error


@pytest.mark.parametrize("name", SHIPPED)
def test_check_of_each_prints_no_problem_here(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["check", name]) == 0
    assert "no problems" in capsys.readouterr().out


# ------------------------------------------------------------------- on the real kernel

STORM_LOAD = """
import socket, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(1)  # nobody accepts
clients = []
while True:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    clients = [*clients[-50:], client]
    time.sleep(0.005)
"""
AIO_LOAD = """
import ctypes, time
from pathlib import Path
number = lambda name: int(Path("/proc/sys/fs", name).read_text())
setup = {"x86_64": 206, "aarch64": 0}[__import__("platform").machine()]
libc, contexts = ctypes.CDLL(None, use_errno=True), []
while number("aio-nr") < 0.85 * number("aio-max-nr") and len(contexts) < 64:
    contexts.append(ctypes.c_ulong())
    if libc.syscall(setup, 2048, ctypes.byref(contexts[-1])):
        raise SystemExit(f"io_setup: errno {ctypes.get_errno()}")
time.sleep(300)
"""


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    one = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield one
    finally:
        if one.poll() is None:
            one.terminate()
        one.wait(30)


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """The words that run a command in a network namespace of its own, with loopback up."""
    with process("unshare", "--net", "sleep", "300") as holder:
        words = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        mine, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{holder.pid}/ns/net")
        until(lambda: theirs.readlink() != mine.readlink(), "no network namespace")
        subprocess.run([*words, "ip", "link", "set", "lo", "up"], check=True)
        yield words


def value(inside: list[str], path: str) -> str:
    return subprocess.run([*inside, "cat", path], capture_output=True, text=True, check=True).stdout


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="writes net.core.somaxconn and fs.aio-max-nr: needs root")
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="fs.aio-max-nr: io_setup(2) has another number"
)
@pytest.mark.parametrize(
    ("policy", "rule", "path", "load"),
    [
        ("web", "longer-accept-queue", "/proc/sys/net/core/somaxconn", STORM_LOAD),
        ("network-server", "longer-accept-queue", "/proc/sys/net/core/somaxconn", STORM_LOAD),
        ("database", "more-aio-requests", "/proc/sys/fs/aio-max-nr", AIO_LOAD),
        ("virtualisation-host", "more-aio-requests", "/proc/sys/fs/aio-max-nr", AIO_LOAD),
    ],
)
def test_a_policy_acts_on_a_real_load_and_leaves_all_as_it_was(
    tmp_path: Path, inside: list[str], policy: str, rule: str, path: str, load: str
) -> None:
    before = value(inside, path)
    where = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    words = [*inside, sys.executable, "-m", "tuned_spec", "run", "--policy", policy, "--for", "60s", *where]

    def kinds() -> list[str]:
        try:
            return [entry.kind for entry in read(tmp_path / "state") if entry.rule in ("", rule)]
        except Exception:  # not there yet
            return []

    try:
        with process(*words) as daemon:
            until(lambda: "start" in kinds(), "the daemon did not start")
            with process(*inside, sys.executable, "-c", load) as work:
                until(lambda: "applied" in kinds(), f"{rule} changed nothing: {kinds()}", 45.0)
                assert work.poll() is None
            daemon.terminate()
            assert daemon.wait(30) == 0
        assert value(inside, path) == before
        applied = next(e for e in read(tmp_path / "state") if e.kind == "applied" and e.rule == rule)
        assert applied.data["before"][0]["value"] == int(before)  # type: ignore[index]
        assert applied.data["after"][0]["value"] == 2 * int(before)  # type: ignore[index]
    finally:
        if value(inside, path) != before:
            subprocess.run([*inside, "sh", "-c", f"echo {before.strip()} > {path}"], check=True)
