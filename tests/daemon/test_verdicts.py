"""The whole loop to its verdict: a program whose reported latency really depends on the knob.

The program reads the knob's file for each sample, so what it reports is what the kernel holds at that
moment, plus noise; the daemon and the actor know nothing of that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until
from tests.daemon.test_serve import actor_alive, value

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes a real knob: needs root"),
]

PROGRAM = """
import random, sys, time
from pathlib import Path
from tuned_spec.sense.gauges import send
knob, door, found, effect = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
noise = random.Random(7)
for _ in range(3000):
    changed = int(knob.read_text()) < found
    latency = (50.0 * effect if changed else 50.0) * noise.lognormvariate(0, 0.1)
    send(door, "p95_ms", latency)
    time.sleep(0.01)
"""


@contextmanager
def load(machine: Host, effect: float) -> Iterator[None]:
    """50 ms while the knob is as it was found, `effect` times that once it is lower."""
    words = [str(FILE), str(machine.runtime / "metrics.sock"), str(value()), str(effect)]
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, *words])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def ended(machine: Host) -> bool:
    return bool({"confirmed", "overwritten", "reverted"} & set(machine.kinds()))


def verdict_on(machine: Host, effect: float) -> str:
    """Run until the first trial is over; how it ended."""
    machine.start()
    until(lambda: actor_alive(machine), "no actor")
    with load(machine, effect):
        until(lambda: ended(machine), f"no verdict:\n{machine.said()}", 60.0)
    return str(machine.entry("verdict").data["kind"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path, settle="50ms", lease="60s") as one:
        only_one_guess(one)
        yield one


def only_one_guess(machine: Host) -> None:
    """The rule still holds after the verdict: its next guess shall not begin while we look."""
    machine.policy.write_text(machine.policy.read_text().replace("cooldown: 1s", "cooldown: 10m"))


def test_what_helps_is_kept_until_the_end(machine: Host) -> None:
    before = value()
    assert verdict_on(machine, 0.4) in ("confirm", "overwrite")
    assert value() < before
    why = machine.command("why", KNOB).stdout
    assert "better by" in why and "(ours)" in why
    (held,) = machine.status()["status"]["held"]
    assert (held["knob"], held["original"], held["value"]) == (KNOB, before, value())
    assert machine.stop() == 0
    assert value() == before


def test_what_harms_is_rejected(machine: Host) -> None:
    before = value()
    assert verdict_on(machine, 2.5) == "reject"
    assert value() == before
    assert "worse by" in str(machine.entry("verdict").data["reason"])


def test_what_does_nothing_is_not_kept(machine: Host) -> None:
    before = value()
    assert verdict_on(machine, 1.0) == "reject"
    assert value() == before


def test_lossless_writes_nothing_until_asked_and_keeps_what_helps(tmp_path: Path) -> None:
    with host(tmp_path, settle="50ms", lease="60s") as machine:
        before = value()
        only_one_guess(machine)
        machine.policy.write_text(machine.policy.read_text().replace("mode: lossy", "mode: lossless"))
        assert verdict_on(machine, 0.4) in ("confirm", "overwrite")
        assert "applied" not in machine.kinds(), "nothing was written on the rule's word alone"
        assert value() < before
        machine.stop()
        assert value() == before
