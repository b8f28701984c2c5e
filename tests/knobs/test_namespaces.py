"""Knobs of network namespaces by name: read, written and put back without leaving our own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuned_spec.errors import KnobAbsent, KnobRefused
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write

NAME = f"tuned-spec-{os.getpid()}"
RMEM = f"net.ipv4.tcp_rmem@netns={NAME}"
ACCESS = adapters()
KNOBS = Catalogue(load(), ACCESS)


def inside(*command: str) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", NAME, *command], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def namespace() -> Iterator[str]:
    try:
        made = subprocess.run(["ip", "netns", "add", NAME], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("net.ipv4.tcp_rmem@netns: ip(8) is not installed")
    if made.returncode:
        pytest.skip(f"net.ipv4.tcp_rmem@netns: no namespace of our own: {made.stderr.strip()}")
    yield NAME
    subprocess.run(["ip", "netns", "delete", NAME], check=False, capture_output=True)
    assert not Path("/run/netns", NAME).exists()


@pytest.fixture
def ledger(namespace: str, tmp_path: Path) -> Iterator[Ledger]:
    journal = Journal(tmp_path, repair.boot_id())
    ledger = Ledger(KNOBS, ACCESS, journal, time.monotonic)
    yield ledger
    ledger.restore()
    journal.close()


def outside_repair(directory: Path) -> dict[str, str]:
    command = ["/usr/bin/python3", "-I", "-S", str(directory / "repair.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={})
    return {o["knob"]: o["status"] for o in json.loads(done.stdout)["outcomes"]}


@pytest.mark.kernel
def test_a_named_namespace_has_its_own_knobs_and_ours_stay(ledger: Ledger) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    host = ledger.value("net.ipv4.tcp_rmem")
    there = inside("cat", "/proc/sys/net/ipv4/tcp_rmem").split()
    assert ledger.value(RMEM) == tuple(map(int, there))
    ledger.apply("t1", "r", (Write(RMEM, (4096, 65536, 1 << 20)),))
    assert inside("cat", "/proc/sys/net/ipv4/tcp_rmem").split() == ["4096", "65536", "1048576"]
    assert ledger.value("net.ipv4.tcp_rmem") == host
    assert Path("/proc/self/ns/net").readlink() == ours
    assert [o.status for o in ledger.restore()] == ["restored"]
    assert inside("cat", "/proc/sys/net/ipv4/tcp_rmem").split() == there


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda: None, "restored"),
        (lambda: subprocess.run(["ip", "netns", "delete", NAME], check=True), "void"),
        (
            lambda: [subprocess.run(["ip", "netns", do, NAME], check=True) for do in ("delete", "add")],
            "void",
        ),
    ],
    ids=["still there", "gone", "another of the name"],
)
def test_repair_puts_back_what_is_still_the_same_namespace(
    ledger: Ledger, tmp_path: Path, end: Callable[[], object], status: str
) -> None:
    before = inside("cat", "/proc/sys/net/ipv4/tcp_rmem")
    ledger.apply("t1", "r", (Write(RMEM, (4096, 65536, 1 << 20)),))
    end()
    assert outside_repair(tmp_path) == {RMEM: status}
    if status == "restored":
        assert inside("cat", "/proc/sys/net/ipv4/tcp_rmem") == before


@pytest.mark.kernel
def test_they_are_listed_when_asked_for(namespace: str) -> None:
    assert f"netns={NAME}" in KNOBS.instances("net.core.somaxconn@netns=*")
    assert KNOBS.instances("net.core.somaxconn") == ()
    assert KNOBS.instances("net.core.netdev_budget@netns=*") == ()


def test_what_all_namespaces_share_has_none() -> None:
    for id in ("vm.swappiness@netns=web", "net.core.netdev_budget@netns=web", "net.ipv4.tcp_rmem@web"):
        with pytest.raises(KeyError):
            KNOBS[id]


def test_partners_are_those_of_the_same_namespace() -> None:
    low = KNOBS["net.ipv4.ipfrag_low_thresh@netns=web"]
    assert [c.partner for c in low.coupled] == ["net.ipv4.ipfrag_high_thresh@netns=web"]
    assert KNOBS["net.ipv4.tcp_congestion_control@netns=web"].coupled == ()


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a|b"])
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(KnobRefused, match="is not the name of a network namespace"):
        ACCESS["sysctl"].address(KNOBS[f"net.ipv4.tcp_rmem@netns={name}"])


def test_a_namespace_that_is_not_there_is_absent() -> None:
    with pytest.raises(KnobAbsent):
        ACCESS["sysctl"].read_text(KNOBS["net.ipv4.tcp_rmem@netns=no-such-namespace"])
    assert ACCESS["sysctl"].identity(KNOBS["net.ipv4.tcp_rmem@netns=no-such-namespace"]) == ""
