from __future__ import annotations

import pytest

from tuned_spec.sense.metrics import METRICS, Kind, cgroup_path, cgroups_in, find, known, of_cgroup

FIXED = """
psi.cpu.some psi.cpu.full psi.memory.some psi.memory.full psi.io.some psi.io.full
psi.cpu.some.avg10 psi.cpu.full.avg10 psi.memory.some.avg10 psi.memory.full.avg10
psi.io.some.avg10 psi.io.full.avg10
cpu.busy cpu.user cpu.system cpu.iowait cpu.steal cpu.idle cpu.ctxt_per_s cpu.irq_per_s cpu.running
cpu.blocked cpu.runqueue_wait cpu.softirq cpu.forks_per_s
vm.pgscan_direct_per_s vm.pgscan_kswapd_per_s vm.pgsteal_per_s vm.allocstall_per_s vm.pswpin_per_s
vm.pswpout_per_s vm.pgmajfault_per_s vm.refault_per_s vm.compact_stall_per_s vm.thp_fault_alloc_per_s
vm.thp_split_per_s vm.pgfault_per_s
mem.available_share mem.dirty_share mem.writeback_share mem.swap_used_share mem.dirty_bytes
tcp.retrans_share tcp.listen_overflows_per_s tcp.listen_drops_per_s tcp.syn_retrans_per_s
tcp.active_opens_per_s tcp.passive_opens_per_s tcp.attempt_fails_per_s tcp.rcv_collapsed_per_s
tcp.prune_called_per_s tcp.backlog_drop_per_s tcp.ofo_queue_per_s tcp.zero_window_per_s
tcp.memory_pressures_per_s tcp.time_wait tcp.established tcp.in_segs_per_s tcp.out_segs_per_s
udp.in_datagrams_per_s ip.in_bytes_per_s disk.reads_per_s disk.writes_per_s
udp.rcvbuf_errors_per_s udp.sndbuf_errors_per_s net.softnet_dropped_per_s net.softnet_squeezed_per_s
disk.util disk.inflight
disk.read_ms disk.write_ms disk.read_bytes_per_s disk.write_bytes_per_s disk.read_share
"""


def test_the_names_that_policies_rely_on_are_all_there_and_no_others() -> None:
    assert set(METRICS) == set(FIXED.split())


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.doc and metric.unit and metric.source.startswith("/proc/"), name
        assert metric.fields, name
        assert name.endswith("_share") <= (metric.unit == "share"), name
        assert name.endswith("_per_s") <= metric.unit.endswith("/s"), name
        assert (metric.kind in (Kind.RATIO, Kind.LEVEL_RATIO)) == bool(metric.over), name


@pytest.mark.parametrize(
    "name",
    [
        "cpu.busy",
        "app.p95_ms",
        "app.web.rps",
        "cgroup.web/a.service.psi.cpu.some",
        "cgroup.a.psi.io.full.avg10",
    ],
)
def test_known(name: str) -> None:
    assert known(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "cpu.bussy",
        "app.",
        "app.9",
        "app.a b",
        "app." + "x" * 80,
        "cgroup..psi.cpu.some",
        "cgroup.../etc.psi.cpu.some",
        "cgroup.a/../../b.psi.cpu.some",
        "cgroup./a.psi.cpu.some",
        "cgroup.a/.psi.cpu.some",
        "cgroup.a\n.psi.cpu.some",
        "cgroup.a.psi.net.some",
        "cgroup.a.psi.cpu.most",
    ],
)
def test_unknown(name: str) -> None:
    assert not known(name)


def test_cgroup_metrics() -> None:
    table = of_cgroup("web/a.service")
    assert len(table) == 12
    assert table["cgroup.web/a.service.psi.cpu.some"].source == "<cgroup2>/web/a.service/cpu.pressure"
    assert table["cgroup.web/a.service.psi.cpu.some"] == find("cgroup.web/a.service.psi.cpu.some")
    assert cgroups_in([*table, "cpu.busy"]) == ("web/a.service",)
    assert cgroup_path("/web/a.service/") == "web/a.service"
    assert cgroup_path("/") is None
