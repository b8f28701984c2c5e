"""The commands beside a real daemon, which tunes a root of plain files and never the host."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.place import SWAPPINESS, Place
from tuned_spec.ledger.history import read
from tuned_spec.sense.gauges import send

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="without root the daemon only observes")

POLICY = f"""
version: 1
mode: lossy
settings: {{rest: 1s}}
metrics:
  app.p95_ms: {{owner: root}}
rules:
  - id: guess
    reason: a test
    source: none
    when: [app.p95_ms > 10 clear 5]
    do: {{{SWAPPINESS}: multiply 0.5}}
    expect: app.p95_ms falls by 5%
"""


@pytest.fixture
def daemon(place: Place, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    policy = tmp_path / "test.yaml"
    policy.write_text(POLICY)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(place.argv("run", "--policy", str(policy), "--for", "60s"), stderr=log)
        try:
            until(lambda: place.json("status")["state"] == "running" and actor_alive(place))
            yield process
        finally:
            process.kill()
            process.wait()


def actor_alive(place: Place) -> bool:
    return bool(place.json("status")["status"]["actor"]["alive"])


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def make_it_guess(place: Place) -> None:
    send(place.run / "metrics.sock", "p95_ms", 50.0)
    until(lambda: any(e.kind == "applied" for e in read(place.state)))


def test_status_and_why_of_an_open_trial(place: Place, daemon: subprocess.Popen[bytes]) -> None:
    make_it_guess(place)
    done = place.tell("status")
    assert done.returncode == 0 and f"process {daemon.pid}" in done.stdout
    (trial,) = place.json("status")["status"]["open"]
    assert trial["knobs"] == {SWAPPINESS: 30} and trial["trial"] in done.stdout
    chain = place.json("why", SWAPPINESS)["chain"]
    assert (chain["original"], chain["trial"], chain["open"]["trial"]) == (60, trial["trial"], trial["trial"])
    assert chain["rule"]["seen"] == {"app.p95_ms": 50.0}
    assert "under way" in place.tell("why", SWAPPINESS).stdout


def test_pause_and_resume(place: Place, daemon: subprocess.Popen[bytes]) -> None:
    assert place.tell("pause").stdout == "paused: no new changes\n"
    assert place.json("status")["status"]["paused"] is True
    assert "paused" in place.tell("status").stdout
    taken = place.tell("resume", SWAPPINESS).stdout
    assert "still paused" in taken and f"tuned-spec resume --runtime-dir {place.run}" in taken
    assert place.tell("resume").stdout == "resumed: changes are made again\n"
    assert place.json("resume")["paused"] is False
    assert place.tell("resume", "vm.nothing").returncode == 1


def test_restore_through_the_daemon(place: Place, daemon: subprocess.Popen[bytes]) -> None:
    make_it_guess(place)
    document = place.json("restore")
    assert document["how"] == "daemon" and document["exit"] == 0
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"
    assert daemon.poll() is None
    said = place.tell("restore").stdout
    assert f"the daemon (process {daemon.pid}) was asked and is now paused; `tuned-spec resume" in said


def test_a_second_daemon_is_refused(place: Place, daemon: subprocess.Popen[bytes]) -> None:
    done = place.tell("run")
    assert done.returncode == 5 and str(daemon.pid) in done.stderr and len(done.stderr.splitlines()) == 1


def test_stopped_it_has_put_everything_back(place: Place, daemon: subprocess.Popen[bytes]) -> None:
    make_it_guess(place)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"
    done = place.tell("status")
    assert done.returncode == 6 and "stopped by SIGTERM" in " ".join(done.stdout.split())


def test_stopped_by_the_kernel_is_hung_and_restore_ends_it(
    place: Place, daemon: subprocess.Popen[bytes]
) -> None:
    make_it_guess(place)
    daemon.send_signal(signal.SIGSTOP)
    assert place.json("status")["state"] == "hung"
    done = place.tell("restore")
    assert done.returncode == 0 and SWAPPINESS in done.stdout
    assert f"the daemon (process {daemon.pid}) hung" in done.stdout and "it was killed" in done.stdout
    assert daemon.wait(10) == -signal.SIGKILL
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"


def test_pause_without_a_daemon(place: Place) -> None:
    done = place.tell("pause")
    assert done.returncode == 6 and "no daemon" in done.stderr
