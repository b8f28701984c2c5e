from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sense.conftest import Tree
from tuned_spec.paths import cgroup2_root
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.reading import RETRY_S, Rows, Want
from tuned_spec.sense.sources import PARSERS, Source, open_source

SOURCES = sorted(
    {
        name
        for m in METRICS.values()
        for name in (m.source, m.over_source)
        if name.startswith(("/proc", "/sys"))
    }
)


def fields(name: str) -> list[str]:
    return sorted({f for m in METRICS.values() if m.source == name for f in (*m.fields, *m.over)})


def opened(name: str, root: Path, rows: tuple[str, ...] = ()) -> Source:
    return open_source(name, Want(tuple(fields(name)), rows, root))


def read(name: str, root: Path, *rows: str) -> Rows | None:
    source = opened(name, root, rows)
    try:
        return source.read(0.0)
    finally:
        source.close()


def test_each_format(tree: Tree) -> None:
    assert read("/proc/pressure/cpu", tree.root) == {
        "": {"some": 1000000, "some.avg10": 12.5, "full": 0, "full.avg10": 0.0}
    }
    stat = read("/proc/stat", tree.root)
    assert stat and stat[""] == {
        "user": 100,
        "nice": 10,
        "system": 50,
        "idle": 800,
        "iowait": 40,
        "irq": 5,
        "softirq": 5,
        "steal": 0,
        "intr": 5000,
        "ctxt": 9000,
        "processes": 7,
        "procs_running": 3,
        "procs_blocked": 1,
    }
    assert read("/proc/vmstat", tree.root) == {
        "": {"allocstall_dma": 1, "allocstall_normal": 2, "pgscan_direct": 10}
    }
    assert read("/proc/meminfo", tree.root) == {
        "": {
            "MemTotal": 1000,
            "MemAvailable": 400,
            "SwapTotal": 200,
            "SwapFree": 150,
            "SwapUsed": 50,
            "Dirty": 8,
        }
    }
    assert read("/proc/net/snmp", tree.root) == {
        "": {
            "Tcp.ActiveOpens": 5,
            "Tcp.CurrEstab": 4,
            "Tcp.OutSegs": 1000,
            "Tcp.RetransSegs": 10,
            "Udp.InDatagrams": 4,
            "Udp.RcvbufErrors": 2,
        }
    }
    assert read("/proc/net/netstat", tree.root) == {
        "": {"TcpExt.ListenDrops": 9, "TcpExt.ListenOverflows": 3}
    }
    assert read("/proc/net/sockstat", tree.root) == {
        "": {"TCP.tw": 17, "TCP.orphan": 0, "TCP.mem": 4, "UDP.mem": 0, "FRAG.memory": 0}
    }
    softnet = {
        "processed": 10,
        "dropped": 1,
        "squeezed": 2,
        "received_rps": 0,
        "flow_limited": 0,
        "backlog": 0,
    }
    assert read("/proc/net/softnet_stat", tree.root) == {"cpu3": softnet}
    assert read("/proc/schedstat", tree.root) == {"cpu0": {"wait_ns": 2_000_000_000}}
    assert read("/proc/net/snmp6", tree.root) == {"": {"Udp6InDatagrams": 7, "Udp6RcvbufErrors": 3}}
    assert read("/proc/net/sockstat6", tree.root) == {"": {"FRAG6.memory": 4096}}
    assert read("/proc/net/stat/arp_cache", tree.root) == {"": {"entries": 10, "table_fulls": 32}}
    assert read("/proc/sys/net/ipv4/tcp_mem", tree.root) == {"": {"0": 100, "1": 200, "2": 400}}
    assert read("/proc/loadavg", tree.root) == {"": {"tasks": 250}}
    assert read("/proc/softirqs", tree.root) == {
        "cpu0": {"NET_RX": 30, "TASKLET": 6},
        "cpu2": {"NET_RX": 40, "TASKLET": 8},
    }
    assert read("/proc/interrupts", tree.root) == {"24": {"count": 15}}


def test_cpus_one_by_one_only_if_asked_for(tree: Tree) -> None:
    assert set(read("/proc/stat", tree.root) or ()) == {""}
    rows = read("/proc/stat", tree.root, "cpu0")
    assert rows and rows["cpu0"]["idle"] == 800 and "ctxt" not in rows["cpu0"]


def test_what_has_no_hardware_stands_aside(tree: Tree) -> None:
    nics = read("/proc/net/dev", tree.root)
    assert nics == {
        "eth0": {
            "rx_bytes": 100,
            "rx_packets": 10,
            "rx_errs": 1,
            "rx_drop": 2,
            "rx_fifo": 3,
            "tx_bytes": 200,
            "tx_packets": 20,
            "tx_errs": 4,
            "tx_drop": 5,
            "speed": 125_000_000.0,
        }
    }
    nics = read("/proc/net/dev", tree.root, "*")
    assert nics and set(nics) == {"lo", "eth0", "veth1"}
    assert nics["lo"]["aside"] == nics["veth1"]["aside"] == 1 and "aside" not in nics["eth0"]
    assert "speed" not in nics["lo"]
    disks = read("/proc/diskstats", tree.root, "dm-*")
    assert disks and set(disks) == {"sda", "sdb", "dm-0"}
    assert disks["dm-0"]["aside"] == 1


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in PARSERS])
def test_what_has_no_format_of_its_own_is_a_few_numbers(name: str) -> None:
    path = Path(name)
    if not path.exists():
        pytest.skip(f"no {name} here")
    assert [int(word) for word in path.read_text().split()]


def test_only_whole_disks_count(tree: Tree) -> None:
    disks = read("/proc/diskstats", tree.root)
    assert disks is not None
    assert set(disks) == {"sda", "sdb"}
    assert disks["sda"] == {
        "reads": 10,
        "read_sectors": 80,
        "read_ms": 20,
        "writes": 5,
        "write_sectors": 40,
        "write_ms": 50,
        "inflight": 2,
        "busy_ms": 100,
        "reads_merged": 0,
        "writes_merged": 0,
        "weighted_ms": 70,
        "discards": 0,
        "flushes": 0,
        "flush_ms": 0,
    }


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_file_is_absent_with_a_reason(name: str, tmp_path: Path) -> None:
    source = opened(name, tmp_path)
    assert source.read(0.0) is None
    assert source.why.startswith(str(tmp_path / name.lstrip("/")))
    assert "No such file" in source.why


def test_a_missing_file_is_looked_for_again_at_a_slow_pace(tree: Tree) -> None:
    name = "/proc/schedstat"
    text = (tree.root / "proc/schedstat").read_text()
    (tree.root / "proc/schedstat").unlink()
    source = opened(name, tree.root)
    assert source.read(0.0) is None
    tree.write("proc/schedstat", text)
    assert source.read(RETRY_S - 0.1) is None
    assert source.read(RETRY_S)
    assert source.why == ""
    source.close()


@pytest.mark.parametrize("name", [*PARSERS, "/proc/sys/net/ipv4/tcp_mem"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=300), keep=st.integers(0, 400))
def test_garbage_never_raises(name: str, tree: Tree, garbage: bytes, keep: int) -> None:
    path = name.lstrip("/")
    original = tree.root / (path + ".original")
    if not original.exists():
        original.parent.mkdir(parents=True, exist_ok=True)
        original.write_bytes((tree.root / path).read_bytes() if (tree.root / path).exists() else b"")
    tree.write(path, original.read_bytes()[:keep] + garbage)
    read(name, tree.root)


def test_cgroup2_is_found_where_it_is_mounted(tree: Tree, tmp_path: Path) -> None:
    assert cgroup2_root(tree.root) == tree.root / "sys/fs/cgroup/uni fied"
    assert cgroup2_root(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", [name for name in SOURCES if Path(name).exists()])
def test_real_files_give_every_field_that_this_kernel_shows(name: str) -> None:
    rows = read(name, Path("/"))
    assert rows is not None
    text = Path(name).read_text()
    for field in fields(name):
        last = field.split(".")[-1]
        if name in ("/proc/vmstat", "/proc/net/snmp", "/proc/net/netstat") and f"{last} " in text:
            assert field in rows[""], field


def test_disks_agree_with_psutil() -> None:
    name = "/proc/diskstats"
    if not Path(name).exists():
        pytest.skip("no /proc/diskstats here")
    before = psutil.disk_io_counters(perdisk=True, nowrap=False)
    disks = read(name, Path("/"))
    after = psutil.disk_io_counters(perdisk=True, nowrap=False)
    assert disks is not None
    for disk, row in disks.items():
        low, high = before[disk], after[disk]
        assert low.read_count <= row["reads"] <= high.read_count
        assert low.write_count <= row["writes"] <= high.write_count
        assert low.read_bytes <= row["read_sectors"] * 512 <= high.read_bytes
        assert low.write_bytes <= row["write_sectors"] * 512 <= high.write_bytes
        assert low.busy_time <= row["busy_ms"] <= high.busy_time


def test_a_long_file_is_read_whole(tree: Tree) -> None:
    tree.write("proc/vmstat", "filler 1\n" * 20000 + "pgscan_direct 4\n")
    assert read("/proc/vmstat", tree.root) == {"": {"pgscan_direct": 4}}


def test_descriptors_stay_open_and_are_given_back(tree: Tree) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    source = opened("/proc/stat", tree.root)
    assert source.read(0.0)
    during = os.listdir("/proc/self/fd")  # noqa: PTH208
    assert len(during) == len(before) + 1
    assert source.read(1.0)
    assert os.listdir("/proc/self/fd") == during  # noqa: PTH208
    source.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
