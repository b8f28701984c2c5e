"""Interfaces through the ledger: changed in trials, killed at every boundary, put back by repair.py alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.knobs.netns import own_netns, run, veth
from tests.knobs.test_qdisc import needs, now, shown
from tuned_spec.errors import KnobRefused
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import UNLIMITED, Write

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures(own_netns.__name__)]


@pytest.fixture
def ledger(own_netns: None, tmp_path: Path) -> Iterator[Ledger]:
    by = adapters()
    journal = Journal(tmp_path, repair.boot_id())
    yield Ledger(Catalogue(load(), by), by, journal, time.monotonic)
    journal.close()


def snapshot() -> object:
    """The interfaces as ip and tc see them, without what counts, and their drivers' settings."""
    links = json.loads(run("ip -j -d link show"))
    here = [one for one in links if one["ifname"] == "here"]
    catalogue, by = Catalogue(load(), adapters()), adapters()
    knobs = {}
    for id in catalogue:
        if catalogue[id].adapter in ("link", "qdisc", "ethtool") and "here" in catalogue.instances(id):
            knobs[id] = by[catalogue[id].adapter].read_text(catalogue[f"{id}@here"])
    return here, shown(), knobs


def test_a_discipline_and_its_parameters_go_back_together(ledger: Ledger) -> None:
    veth()
    run("tc qdisc add dev here root handle 7: pfifo limit 321")
    before = snapshot()
    ledger.apply("one", "rule", (Write("nic.qdisc@here", "bfifo"),))
    ledger.hold("one")
    ledger.apply("two", "rule", (Write("nic.bfifo.limit@here", 54321),))
    ledger.hold("two")
    assert shown()[0]["options"] == {"limit": 54321}
    done = ledger.apply("three", "rule", (Write("nic.qdisc@here", "pfifo"),))
    assert now(index("here")) == "pfifo"
    for _ in range(2):  # the arms of a trial; A has the parameter that B does not know
        ledger.apply("three", "rule", done.before)
        assert shown()[0]["options"] == {"limit": 54321}
        ledger.apply("three", "rule", done.after)
        assert now(index("here")) == "pfifo"
    assert ledger.audit() == ()
    outcomes = {one.knob: one.status for one in ledger.restore()}
    assert outcomes["nic.qdisc@here"] == "restored"
    assert snapshot() == before
    assert ledger.restore() == ()


def index(name: str) -> int:
    return int(Path(f"/sys/class/net/{name}/ifindex").read_text())


def test_a_parameter_of_ours_goes_with_our_discipline(ledger: Ledger) -> None:
    veth()
    before = snapshot()
    ledger.apply("one", "rule", (Write("nic.qdisc@here", "pfifo"),))
    ledger.hold("one")
    ledger.apply("two", "rule", (Write("nic.pfifo.limit@here", 55),))
    outcomes = {one.knob: one.status for one in ledger.restore()}
    assert outcomes == {"nic.qdisc@here": "restored", "nic.pfifo.limit@here": "restored"}
    assert snapshot() == before


@pytest.mark.parametrize("queues", [1, 2])
def test_from_one_discipline_with_parameters_to_another_and_all_the_way_back(
    ledger: Ledger, queues: int
) -> None:
    index = veth(queues=queues)
    mq = "mq/" if queues > 1 else ""
    for kind in ("fq_codel", "fq"):
        needs(index, mq + kind)
    if queues == 1:
        run("tc qdisc add dev here root handle 7: fq_codel limit 500 flows 256 target 3ms noecn")
    before = snapshot()
    changes: tuple[tuple[str, int | str], ...] = (
        ("nic.qdisc", mq + "fq"),
        ("nic.fq.maxrate", 5_000_000),
        ("nic.fq.maxrate", UNLIMITED),
        ("nic.fq.quantum", 9000),
        ("nic.qdisc", mq + "fq_codel"),
        ("nic.fq_codel.target_us", 2000),
        ("nic.fq_codel.limit", 999),
    )
    for n, (knob, value) in enumerate(changes):
        done = ledger.apply(str(n), "rule", (Write(f"{knob}@here", value),))
        assert done.rounded == ()
        ledger.hold(str(n))
    assert ledger.audit() == ()
    assert {one["options"]["limit"] for one in shown() if one["kind"] == "fq_codel"} == {999}
    assert {one.status for one in ledger.restore()} <= {"restored", "unchanged", "void"}
    assert snapshot() == before


def test_somebody_elses_discipline_in_place_of_ours_is_left(ledger: Ledger) -> None:
    veth()
    ledger.apply("one", "rule", (Write("nic.qdisc@here", "pfifo"),))
    run("tc qdisc replace dev here root handle 8: pfifo limit 9")
    (seen,) = ledger.audit()
    assert (seen.ours, seen.found) == ("pfifo", "pfifo@8:")
    ledger.restore()
    assert now(index("here")) == "pfifo@8:"


def test_a_tree_of_somebodys_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    veth()
    run("tc qdisc add dev here root handle 1: htb default 1")
    before = shown()
    with pytest.raises(KnobRefused, match="may have classes"):
        ledger.apply("one", "rule", (Write("nic.qdisc@here", "pfifo"),))
    assert shown() == before
    assert ledger.rows() == ()


def test_an_interface_that_went_away_is_void(ledger: Ledger) -> None:
    veth()
    ledger.apply("one", "rule", (Write("nic.txqueuelen@here", 77),))
    run("ip link del here")
    veth()
    (outcome,) = ledger.restore()
    assert (outcome.status, outcome.why[:6]) == ("void", "here#3")


def test_a_new_name_is_put_back_all_the_same(ledger: Ledger) -> None:
    veth()
    ledger.apply("one", "rule", (Write("nic.txqueuelen@here", 77),))
    run("ip link set here down")
    run("ip link set here name other")
    (outcome,) = ledger.restore()
    assert (outcome.status, outcome.found, outcome.original) == ("restored", "77", "1000")
    assert json.loads(run("ip -j link show other"))[0]["txqlen"] == 1000


# ------------------------------------------------------------------------------ killed, repaired

STEPS = (
    ("nic.txqueuelen@here", 77),
    ("nic.gso_max_size@here", 30000),
    ("nic.gro_flush_timeout@here", 20000),
    ("nic.channels.rx@here", 2),
    ("nic.offload.tso@here", 0),
    ("nic.qdisc@here", "bfifo"),
    ("nic.bfifo.limit@here", 54321),
    ("nic.qdisc@here", "mq/pfifo_fast"),
)

CHANGES = f"""
import os, signal, sys, time
from pathlib import Path
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import UNLIMITED, Write
left = int(sys.argv[2])
def checkpoint(name):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
by = adapters()
journal = Journal(Path(sys.argv[1]), repair.boot_id())
ledger = Ledger(Catalogue(load(), by), by, journal, time.monotonic, checkpoint)
for n, (knob, value) in enumerate({STEPS!r}):
    ledger.apply(str(n), "rule", (Write(knob, value),))
    ledger.hold(str(n))
"""

# What the system has, in isolation: neither our package nor our virtual environment is on its path.
PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable


@pytest.mark.slow
def test_killed_anywhere_repair_alone_puts_the_interface_back(tmp_path: Path) -> None:
    veth(queues=4)
    run("tc qdisc add dev here root handle 7: pfifo limit 321")
    before = snapshot()
    seen = 0
    for n in range(300):
        directory = tmp_path / str(n)
        died = subprocess.run([sys.executable, "-c", CHANGES, str(directory), str(n)], capture_output=True)
        assert died.returncode in (0, -signal.SIGKILL), died.stderr.decode()
        if (directory / "repair.py").exists():
            fixed = subprocess.run(
                [PYTHON, "-I", str(directory / "repair.py")],
                capture_output=True,
                text=True,
                cwd="/",
                env={"PATH": os.defpath},
            )
            assert fixed.returncode == 0, (n, fixed.stdout, fixed.stderr)
        assert snapshot() == before, n
        seen = n
        if died.returncode == 0:
            break
    assert seen > len(STEPS) * 6


def test_repair_in_another_namespace_says_where_to_go_and_touches_nothing(tmp_path: Path) -> None:
    """Interfaces of two namespaces can have the same number and name."""
    veth()
    died = subprocess.run([sys.executable, "-c", CHANGES, str(tmp_path), "8"], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    changed = snapshot()
    elsewhere = "ip link add here txqueuelen 77 type veth peer name there"
    look = "ip -j link show here"
    told = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"{elsewhere}; {PYTHON} -I {tmp_path}/repair.py --json; {look}"],
        capture_output=True,
        text=True,
    )
    report, links = (json.loads(line) for line in told.stdout.splitlines())
    assert {one["status"] for one in report["outcomes"]} == {"failed"}, told
    assert "nsenter --net=/proc/" in report["outcomes"][0]["why"]
    assert links[0]["txqlen"] == 77
    assert snapshot() == changed
