"""Caps: what an expression comes to, what is wrong with one, and what it does to a knob."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuned_spec.knobs import caps
from tuned_spec.knobs.caps import capped, evaluate
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.facts import host_facts
from tuned_spec.model import Knob, KnobType

GIB = 1 << 30
HOST = {"ram": 8 * GIB, "cpus": 4.0, "page": 4096.0, "huge_page": 2 << 20, "line_rate": 1.25e9}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("25% of ram", 2 * GIB),
        ("line_rate * 100ms", 1.25e8),
        ("ram / cpus", 2 * GIB),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 2 - 3", 5),
        ("16MiB", 16 << 20),
        ("min(10% of ram, line_rate * 1s)", 0.1 * 8 * GIB),
        ("max(16MiB, 1KiB, 3B)", 16 << 20),
        ("1.5 * cpus", 6),
    ],
)
def test_what_an_expression_comes_to(text: str, value: float) -> None:
    assert evaluate(text, HOST) == pytest.approx(value)


def test_what_rests_on_an_unknown_fact_is_unknown_and_min_goes_by_the_rest() -> None:
    assert evaluate("line_rate * 1s", {"ram": 1.0}) is None
    assert evaluate("1 + line_rate", {}) is None
    assert evaluate("min(ram, line_rate)", {"ram": 7.0}) == 7.0
    assert evaluate("max(line_rate, line_rate)", {}) is None
    assert evaluate("ram / cpus", {"ram": 1.0, "cpus": 0.0}) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "missing at the end"),
        ("25% of", "missing at the end"),
        ("25% of rum", "'rum' is neither a number nor a fact"),
        ("5parsec", "'5parsec' is neither a number nor a fact; units are"),
        ("ram ram", "'ram' is left over"),
        ("(ram", r"'\)' is missing before 'the end'"),
        ("min ram", r"'\(' is missing before 'ram'"),
        ("ram & 1", "'& 1' is neither number, fact nor operator"),
        ("__import__('os')", "is neither"),
    ],
)
def test_a_mistake_is_said(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        caps.check(text)


def a_knob(cap: str, unit: str = "bytes", low: int = 4096, high: int = 1 << 40, quantum: int = 1) -> Knob:
    return Knob("t.k", "sysctl", "t", KnobType.INT, unit, "", "", low, high, cap=cap, quantum=quantum)


def test_a_cap_lowers_the_range_in_the_unit_of_the_knob() -> None:
    assert capped(a_knob("25% of ram"), HOST).high == 2 * GIB
    assert capped(a_knob("25% of ram", "KiB"), HOST).high == 2 * GIB >> 10
    assert capped(a_knob("25% of ram", "pages"), HOST).high == 2 * GIB >> 12
    assert capped(a_knob("50% of ram / huge_page", "huge pages", low=0), HOST).high == 2048
    assert capped(a_knob("10005", quantum=4), HOST).high == 10004


def test_a_cap_never_widens_never_empties_and_is_nothing_where_it_is_unknown() -> None:
    knob = a_knob("400% of ram", high=GIB)
    assert capped(knob, HOST) is knob
    assert capped(a_knob("1B"), HOST).high == 4096
    knob = a_knob("line_rate * 1s")
    assert capped(knob, {}) is knob


@pytest.mark.parametrize("knob", [knob for knob in load().values() if knob.cap], ids=lambda knob: knob.id)
def test_every_cap_of_the_catalogue_bounds_a_small_host_and_leaves_a_range(knob: Knob) -> None:
    small = {**HOST, "ram": GIB, "disk_request": 1 << 20, "cpu_max_khz": 2e6}
    bounded = capped(knob, small)
    assert bounded.low is not None and bounded.high is not None and knob.high is not None
    assert bounded.low < bounded.high < knob.high


def test_the_facts_of_a_host_are_read_below_its_root(tmp_path: Path) -> None:
    def put(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    assert set(host_facts(tmp_path)) == {"page"}
    put("proc/meminfo", "MemTotal:       1024 kB\nHugePages_Total:       3\nHugepagesize:       2048 kB\n")
    put("sys/devices/system/cpu/online", "0-3,8,10-11\n")
    put("sys/devices/system/node/node0/cpulist", "")
    put("sys/class/net/eth0/speed", "1000\n")
    put("sys/class/net/eth0/device/x", "")
    put("sys/class/net/eth1/speed", "-1\n")
    put("sys/class/net/eth1/device/x", "")
    put("sys/class/net/veth0/speed", "10000\n")
    told = host_facts(tmp_path)
    assert told.pop("page") > 0
    assert told == {"ram": 1 << 20, "huge_page": 2 << 20, "cpus": 7, "nodes": 1, "line_rate": 125e6}


def test_this_host_has_memory_and_cpus() -> None:
    told = host_facts()
    assert told["ram"] > 1 << 28 and told["cpus"] >= 1 and set(told) <= set(caps.FACTS)
