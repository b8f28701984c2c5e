"""The catalogue that is shipped, and every mistake that a catalogue file can hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuned_spec.errors import CatalogueError
from tuned_spec.knobs.adapters import KINDS
from tuned_spec.knobs.catalogue import load
from tuned_spec.model import CouplingKind, Knob, KnobType
from tuned_spec.report.knobs import distinct

KNOBS = load()

GOOD = """\
vm.first:
  adapter: sysctl
  target: vm/first
  type: int
  low: 1
  high: 9
  unit: pages
  source: "vm.rst"
  summary: More of this.
  kernels: all
  side: none
"""


@pytest.mark.parametrize("knob", KNOBS.values(), ids=list(KNOBS))
def test_every_entry_says_what_it_is_and_where_that_is_from(knob: Knob) -> None:
    assert knob.source.strip()
    assert knob.unit.strip()
    assert knob.summary.strip().endswith(".")
    assert "\n" not in knob.summary
    # an admin must learn what more or less of it costs; a word alone is no sentence
    assert len(knob.summary.split()) >= 8


def test_the_catalogue_spans_memory_net_and_scheduler() -> None:
    assert distinct(KNOBS) >= 120
    assert {id.split(".")[0] for id in KNOBS} >= {
        "vm",
        "net",
        "kernel",
        "sched",
        "thp",
        "ksm",
        "zswap",
        "haltpoll",
    }
    assert {knob.adapter for knob in KNOBS.values()} <= set(KINDS)
    assert len({knob.adapter for knob in KNOBS.values()}) >= 9


# What TuxBot (arXiv 2605.15026) and bpftune (its repository, strings of src/) tune.
PEERS = """
sched.latency_ns sched.min_granularity_ns sched.wakeup_granularity_ns sched.migration_cost_ns
kernel.numa_balancing kernel.sched_autogroup_enabled kernel.sched_cfs_bandwidth_slice_us
cpu.governor cpu.scaling_min_freq cpu.scaling_max_freq cpu.energy_performance_preference
cpu.intel_pstate.min_perf_pct cpu.intel_pstate.max_perf_pct cpu.intel_pstate.no_turbo cpu.boost
cpu.dma_latency_us cpu.idle_disable
net.core.busy_poll net.core.busy_read net.core.netdev_budget net.core.netdev_budget_usecs
vm.swappiness vm.dirty_ratio vm.dirty_background_ratio vm.dirty_expire_centisecs vm.dirty_writeback_centisecs
vm.zone_reclaim_mode
net.core.somaxconn net.core.netdev_max_backlog net.core.rmem_default net.core.rmem_max net.core.wmem_default
net.core.wmem_max net.ipv4.tcp_fin_timeout net.ipv4.tcp_tw_reuse net.ipv4.tcp_mtu_probing
net.ipv4.tcp_timestamps net.ipv4.tcp_sack net.ipv4.tcp_window_scaling net.ipv4.tcp_fastopen
net.ipv4.tcp_congestion_control
net.core.flow_limit_cpu_bitmap net.core.high_order_alloc_disable net.ipv4.ipfrag_high_thresh
net.ipv4.neigh.default.gc_interval net.ipv4.neigh.default.gc_stale_time net.ipv4.neigh.default.gc_thresh1
net.ipv4.neigh.default.gc_thresh2 net.ipv4.neigh.default.gc_thresh3 net.ipv4.tcp_allowed_congestion_control
net.ipv4.tcp_max_orphans net.ipv4.tcp_max_syn_backlog net.ipv4.tcp_mem net.ipv4.tcp_moderate_rcvbuf
net.ipv4.tcp_no_metrics_save net.ipv4.tcp_no_ssthresh_metrics_save net.ipv4.tcp_rmem net.ipv4.tcp_syncookies
net.ipv4.tcp_thin_linear_timeouts net.ipv4.tcp_wmem net.ipv4.udp_mem net.ipv6.ip6frag_high_thresh
net.ipv6.neigh.default.gc_interval net.ipv6.neigh.default.gc_stale_time net.ipv6.neigh.default.gc_thresh1
net.ipv6.neigh.default.gc_thresh2 net.ipv6.neigh.default.gc_thresh3 net.ipv6.route.max_size
"""


@pytest.mark.parametrize("id", PEERS.split())
def test_what_peers_tune_is_here(id: str) -> None:
    assert id in KNOBS


def test_each_pair_of_dirty_limits_zeroes_its_partner() -> None:
    for ratio in ("vm.dirty_ratio", "vm.dirty_background_ratio"):
        (coupling,) = KNOBS[ratio].coupled
        assert coupling.kind is CouplingKind.ZEROES
        assert coupling.partner == ratio.replace("ratio", "bytes")


def test_a_good_file_loads_with_the_defaults_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    knob = load(tmp_path)["vm.first"]
    assert (knob.type, knob.low, knob.high, knob.scope) == (KnobType.INT, 1, 9, "host")


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BROKEN = {
    "unknown key": (GOOD + "  colour: red\n", 12, "vm.first.colour: is not a field of a knob"),
    "id inside": (GOOD + "  id: other\n", 12, "vm.first.id: is not a field of a knob"),
    "missing key": (changed("  unit: pages\n", ""), 1, "vm.first.unit: is missing"),
    "missing bound": (changed("  high: 9\n", ""), 1, "vm.first.high: is missing"),
    "key twice": (GOOD + "  low: 2\n", 5, "vm.first.low: is given twice, here and at line 12"),
    "id twice": (GOOD + GOOD, 12, "vm.first: is already defined at"),
    "file twice": (
        GOOD + GOOD.replace("vm.first:", "vm.again:"),
        14,
        "vm.again.target: is the same file as vm.first",
    ),
    "not a number": (changed("low: 1", "low: one"), 5, "vm.first.low: Expected `int | null`, got `str`"),
    "a fraction": (changed("low: 1", "low: 1.5"), 5, "vm.first.low: Expected `int | null`, got `float`"),
    "a truth": (changed("low: 1", "low: yes"), 5, "vm.first.low: Expected `int | null`, got `bool`"),
    "no such type": (changed("type: int", "type: number"), 4, "vm.first.type: Invalid enum value 'number'"),
    "no such adapter": (
        changed("adapter: sysctl", "adapter: magic"),
        2,
        "vm.first.adapter: no adapter 'magic'",
    ),
    "no such scope": (GOOD + "  scope: pod\n", 12, "vm.first.scope: no scope 'pod'"),
    "bad id": (changed("vm.first:", "First:"), 1, "First: is not an id"),
    "low above high": (changed("low: 1", "low: 10"), 5, "vm.first.low: 10 is above high 9"),
    "climbing target": (changed("vm/first", "../first"), 3, "vm.first.target: '../first' leaves"),
    "absolute target": (changed("vm/first", "/etc/passwd"), 3, "vm.first.target: '/etc/passwd' leaves"),
    "empty source": (changed('"vm.rst"', '" "'), 8, "vm.first.source: is empty"),
    "no dwell": (GOOD + "  dwell_s: 0\n", 12, "vm.first.dwell_s: is not a duration"),
    "no quantum": (GOOD + "  quantum: 0\n", 12, "vm.first.quantum: 0 is not a step of type int"),
    "slow but alternable": (GOOD + "  effect: slowly\n", 1, "vm.first.alternable: must be false"),
    "fields of a number": (GOOD + "  fields: [a]\n", 12, "vm.first.fields: names the numbers of type ints"),
    "ints without fields": (
        changed("type: int", "type: ints"),
        1,
        "vm.first.fields: names the numbers of type ints",
    ),
    "choices of a number": (
        GOOD + "  choices: [a]\n",
        12,
        "vm.first.choices: lists the words of type choice",
    ),
    "partner unknown": (
        GOOD + "  coupled: [{partner: vm.none, kind: resets}]\n",
        12,
        "vm.first.coupled: 'vm.none' is not another knob",
    ),
    "partner itself": (
        GOOD + "  coupled: [{partner: vm.first, kind: zeroes}]\n",
        12,
        "vm.first.coupled: 'vm.first' is not another knob",
    ),
    "one-sided zeroes": (
        GOOD + "  coupled: [{partner: vm.other, kind: zeroes}]\n" + GOOD.replace("first", "other"),
        12,
        "vm.first.coupled: zeroes vm.other, which does not name it",
    ),
    "coupling key": (GOOD + "  coupled: [{partner: vm.x, sort: zeroes}]\n", 12, "vm.first.coupled: Object "),
    "entry is a word": ("vm.first: 5\n", 1, "vm.first: is not a mapping"),
    "file is a list": ("- vm.first\n", 1, "(file): is not a mapping"),
    "file is empty": ("", 1, "(file): is not a mapping"),
    "not yaml": (GOOD + "  [\n", 13, "(file): "),
    "an object": (
        changed("low: 1", "low: !!python/object:os.system 1"),
        5,
        "vm.first.low: could not determine",
    ),
    "bytes": (GOOD + "  unit2: \0\n", 1, "(file): "),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_mistake_is_named_with_file_line_and_key(what: str, tmp_path: Path) -> None:
    text, line, message = BROKEN[what]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(CatalogueError) as raised:
        load(tmp_path)
    lines = str(raised.value).splitlines()
    assert any(told.startswith(f"{file}:{line}: {message}") for told in lines), lines


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(changed("low: 1", "low: one").replace("high: 9", "high: nine"))
    (tmp_path / "b.yaml").write_text(changed("first", "second").replace("low: 1", "low: 10") + "  hue: 1\n")
    (tmp_path / "c.yaml").write_text(changed("first", "third").replace("low: 1", "low: 10"))
    with pytest.raises(CatalogueError) as raised:
        load(tmp_path)
    told = [line.split(": ")[1] for line in str(raised.value).splitlines()]
    assert told == ["vm.first.low", "vm.first.high", "vm.second.hue", "vm.third.low"]


def test_ordered_both_ways_is_impossible(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        GOOD
        + "  coupled: [{partner: vm.other, kind: ordered}]\n"
        + GOOD.replace("first", "other")
        + "  coupled: [{partner: vm.first, kind: ordered}]\n"
    )
    with pytest.raises(CatalogueError, match="each ordered below the other"):
        load(tmp_path)


def test_a_directory_without_a_catalogue_is_said(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="no catalogue file"):
        load(tmp_path)


def test_a_file_that_is_not_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogueError, match=r"a\.yaml:1: \(file\)"):
        load(tmp_path)
