"""Proposals from outside on the real kernel: tried by a real actor, kept or put back, and sensed for."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.daemon.host import FILE, KNOB, Host, host, until
from tuned_spec.cli import propose
from tuned_spec.model import Offer

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"{KNOB} is written by root only"),
]
OTHER = 1 if int(FILE.read_text()) != 1 else 2


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Host]:
    with host(tmp_path) as found:
        yield found


def start(machine: Host, mode: str = "lossy") -> None:
    machine.start("--mode", mode)
    if mode != "observe":
        until(lambda: machine.status()["status"]["actor"]["alive"], "no actor")


def idea(*more: str, metric: str = "app.p95_ms") -> list[str]:
    return [f"{KNOB}={OTHER}", "--expect", metric, "--way", "down", "--reason", "a test", *more]


@contextmanager
def reported(machine: Host, good: int) -> Iterator[None]:
    """A program whose latency follows the knob: 1 ms where it holds `good`, else 3."""
    over, rng = threading.Event(), random.Random(7)

    def report() -> None:
        while not over.wait(0.05):
            machine.send((1.0 if int(FILE.read_text()) == good else 3.0) + rng.random() / 5)

    program = threading.Thread(target=report)
    program.start()
    try:
        yield
    finally:
        over.set()
        program.join()


@pytest.mark.slow
@pytest.mark.parametrize("helps", [True, False])
def test_what_helps_is_kept_and_what_harms_goes_back(machine: Host, helps: bool) -> None:
    before = int(FILE.read_text())
    start(machine)
    with reported(machine, good=OTHER if helps else before):
        until(lambda: "app.p95_ms" in machine.status()["status"]["metrics"], "nothing is heard")
        program = [sys.executable, "-m", "tuned_spec", "propose", *machine.where(), *idea("--wait")]
        done = subprocess.run(program, capture_output=True, text=True, timeout=200)
    trial = machine.entry("proposed").trial
    kinds = [e.kind for e in machine.history() if e.trial == trial]
    if helps:
        assert done.returncode == 0, done
        assert ": kept; verdict: confirm, effect +" in done.stdout
        assert kinds == ["proposed", "applied", "verdict", "confirmed"]
        (held,) = machine.status()["status"]["held"]
        assert (held["knob"], held["value"], held["rule"]) == (KNOB, OTHER, "outside.cli")
        request = {"v": 1, "do": "withdraw", "source": "cli", "trial": trial}
        assert msgspec.json.decode(machine.ask(msgspec.json.encode(request)))["ok"], "theirs to take back"
        assert int(FILE.read_text()) == before
        until(lambda: machine.history()[-1].kind == "reverted", "it is not on record")
        assert machine.history()[-1].trial == trial and not machine.status()["status"]["held"]
    else:
        assert done.returncode == propose.WENT_BACK, done
        assert "not kept" in done.stdout and "verdict: reject, effect -" in done.stdout
        assert kinds == ["proposed", "applied", "verdict", "reverted"]
        assert int(FILE.read_text()) == before
    machine.stop()
    assert int(FILE.read_text()) == before


def test_killed_while_one_is_open_the_next_start_puts_it_back(machine: Host) -> None:
    before = FILE.read_text()
    start(machine)
    machine.send(1.0)
    machine.command("propose", *idea())
    until(lambda: "applied" in machine.kinds(), "it was not written")
    machine.kill()
    start(machine, "observe")
    until(lambda: FILE.read_text() == before, "it was not put back")


def test_a_metric_that_no_rule_names_is_sensed_while_it_is_needed(machine: Host) -> None:
    metric = "udp.rcvbuf_errors_per_s"
    start(machine)
    assert metric not in machine.status()["status"]["metrics"]
    machine.command("propose", *idea(metric=metric))
    until(lambda: metric in machine.status()["status"]["metrics"], "it is not sensed")
    trial = machine.entry("proposed").trial
    machine.ask(msgspec.json.encode({"v": 1, "do": "withdraw", "source": "cli", "trial": trial}))
    until(lambda: "reverted" in machine.kinds(), "it did not go back")


def test_observing_nothing_is_done(machine: Host) -> None:
    before = FILE.read_text()
    start(machine, "observe")
    machine.send(1.0)
    until(lambda: "app.p95_ms" in machine.status()["status"]["metrics"], "nothing is heard")
    done = machine.command("propose", *idea("--wait"))
    assert "nothing is done" in done.stdout and FILE.read_text() == before
    until(lambda: "would" in machine.kinds(), "it is not on record")
    assert machine.entry("would").rule == "outside.cli"


OFFER = {
    "source": "agent",
    "writes": [{"knob": KNOB, "value": OTHER}],
    "expect": {"metric": "cpu.busy", "way": "down"},
    "reason": "x",
}


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        (None, "the offer is missing"),
        ({**OFFER, "source": "Me\n"}, "source"),
        ({**OFFER, "source": ""}, "source"),
        ({**OFFER, "reason": " \n"}, "a reason is missing"),
        ({**OFFER, "confidence": 2}, "confidence"),
        ({**OFFER, "writes": [{"knob": KNOB, "value": 1}] * 17}, "at most 16"),
        ({**OFFER, "writes": [{"knob": KNOB, "value": 1.5}]}, "not a request"),
        ({**OFFER, "writes": [{"knob": KNOB, "value": 10**30}]}, "out_of_range"),
        ({**OFFER, "writes": [{"knob": KNOB, "value": 9000}]}, "out_of_range"),
        ({**OFFER, "writes": [{"knob": KNOB, "value": "\x1b"}]}, "type"),
        ({**OFFER, "writes": [{"knob": "vm.nowhere", "value": 1}]}, "unknown_knob"),
        ({**OFFER, "writes": [{"knob": "block.read_ahead_kb", "value": 1}]}, "unknown_knob"),
        ({**OFFER, "writes": [{"knob": "block.read_ahead_kb@*", "value": 1}]}, "unknown_knob"),
        ({**OFFER, "writes": [{"knob": "block.read_ahead_kb@../..", "value": 1}]}, "absent"),
        ({**OFFER, "expect": {"metric": "disk.util@*", "way": "down"}}, "no_metric"),
        ({**OFFER, "expect": {"metric": "\x1b[2J", "way": "down"}}, "no_metric"),
        ({**OFFER, "expect": {"metric": "cpu.busy", "way": "down", "min_effect": -1}}, "min_effect"),
        ({**OFFER, "guard": [{"metric": "app.x", "better": "up"}]}, "no owner"),
    ],
)
def test_what_comes_over_the_socket_is_checked_there_too(
    hearing: Host, offer: dict[str, object] | None, words: str
) -> None:
    """Whoever speaks to it without the command: an answer in words, and nothing done."""
    before = FILE.read_text()
    reply = msgspec.json.decode(hearing.ask(msgspec.json.encode({"v": 1, "do": "propose", "offer": offer})))
    assert reply["ok"] is False and words in reply["error"], reply
    assert FILE.read_text() == before and hearing.status()["status"]["open"] == []


@pytest.mark.parametrize("do", ["propose", "withdraw"])
def test_only_who_may_change_may_propose(hearing: Host, do: str) -> None:
    request = {"v": 1, "do": do, "offer": OFFER, "source": "agent", "trial": "t1"}
    reply = msgspec.json.decode(hearing.ask(msgspec.json.encode(request), uid=65534))
    assert reply["ok"] is False and "only root may change" in reply["error"]


def test_the_plan_is_told_to_anybody(hearing: Host) -> None:
    reply = msgspec.json.decode(hearing.ask(b'{"v":1,"do":"plan"}', uid=65534))
    (step,) = reply["plan"]["steps"]
    assert (step["id"], step["stand"]) == ("guess", "waits")


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One daemon for those who change nothing."""
    place = tmp_path_factory.mktemp("outside")
    for directory in (place, *list(place.parents)[:2]):
        directory.chmod(0o755)
    with host(place) as found:
        start(found)
        yield found


def test_an_offer_is_what_the_page_says() -> None:
    """The line in docs/json.md can be sent as it stands."""
    page = (Path(__file__).parents[2] / "docs/json.md").read_text()
    line = next(line for line in page.splitlines() if '"do":"propose"' in line)
    request = msgspec.json.decode(line[line.index("{") : line.rindex("}") + 1])
    assert msgspec.convert(request["offer"], Offer).source == "NAME"
