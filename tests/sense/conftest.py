"""A small host in a directory, and a cgroup of our own on the real one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuned_spec.paths import cgroup2_root

FILES = {
    "proc/pressure/cpu": "some avg10=12.50 avg60=0.00 avg300=0.00 total=1000000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/stat": "cpu  100 10 50 800 40 5 5 0 7 0\ncpu0 100 10 50 800 40 5 5 0 7 0\n"
    "intr 5000 0 1 2\nctxt 9000\nbtime 1\nprocesses 7\nprocs_running 3\nprocs_blocked 1\n",
    "proc/vmstat": "nr_free_pages 7\nallocstall_dma 1\nallocstall_normal 2\n"
    "pgscan_direct 10\npgscan_direct_throttle 99\n",
    "proc/meminfo": "MemTotal:  1000 kB\nMemAvailable:  400 kB\nSwapTotal:  200 kB\n"
    "SwapFree:  150 kB\nDirty: 8 kB\n",
    "proc/net/snmp": "Tcp: MaxConn ActiveOpens CurrEstab OutSegs RetransSegs\nTcp: -1 5 4 1000 10\n"
    "Udp: InDatagrams RcvbufErrors\nUdp: 4 2\n",
    "proc/net/netstat": "TcpExt: ListenDrops ListenOverflows\nTcpExt: 9 3\nIpExt: InNoRoutes\nIpExt: 0\n",
    "proc/net/sockstat": "sockets: used 1\nTCP: inuse 1 orphan 0 tw 17 alloc 1 mem 4\nUDP: inuse 0 mem 0\n"
    "FRAG: inuse 0 memory 0\n",
    "proc/net/softnet_stat": f"{'0000000a 00000001 00000002' + ' 00000000' * 9} 00000003 00000000 00000000\n",
    "proc/net/snmp6": "Ip6InReceives  \t9\nUdp6InDatagrams \t7\nUdp6RcvbufErrors  \t3\n",
    "proc/net/sockstat6": "TCP6: inuse 2\nFRAG6: inuse 1 memory 4096\n",
    "proc/net/dev": "Inter-|   Receive |  Transmit\n face |bytes packets |bytes\n"
    "    lo: 900 90 0 0 0 0 0 0 900 90 0 0 0 0 0 0\n"
    "  eth0: 100 10 1 2 3 0 0 0 200 20 4 5 6 0 0 0\n  veth1: 70 7 0 0 0 0 0 0 80 8 0 0 0 0 0 0\n",
    "sys/class/net/eth0/device/vendor": "0x1af4\n",
    "sys/class/net/eth0/speed": "1000\n",
    "sys/class/net/lo/mtu": "65536\n",
    "proc/net/stat/arp_cache": "entries,allocs,table_fulls\n".replace(",", " ")
    + "0000000a 00000001 0000001f\n0000000a 00000002 00000001\n",
    "proc/sys/net/ipv4/neigh/default/gc_thresh3": "1024\n",
    "proc/sys/net/ipv4/tcp_mem": "100\t200\t400\n",
    "proc/sys/fs/file-nr": "50\t0\t200\n",
    "proc/loadavg": "0.10 0.20 0.30 2/250 999\n",
    "proc/sys/kernel/threads-max": "1000\n",
    "proc/softirqs": "                    CPU0       CPU2\n          HI:          1          2\n"
    "      NET_RX:         30         40\n     TASKLET:          5          6\n",
    "proc/interrupts": "            CPU0       CPU2\n  24:         10          5   PCI-MSI  eth0-rx-0\n"
    " NMI:          1          1   Non-maskable interrupts\n ERR:          0\n",
    "proc/diskstats": "   7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n"
    " 253 0 sda 10 0 80 20 5 0 40 50 2 100 70 0 0 0 0 0 0\n"
    " 253 1 sda1 10 0 80 20 5 0 40 50 2 100 70\n 253 16 sdb 1 0 8 2 0 0 0 0 0 1 2\n"
    " 252 0 dm-0 9 9 9 9 9 9 9 9 9 9 9\n",
    "proc/schedstat": "version 17\ntimestamp 1\ncpu0 0 0 0 0 0 0 77 2000000000 5\ndomain0 MC 3 0\n",
    "proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
    "sys/fs/cgroup/uni fied/web/a.service/cpu.pressure": "some avg10=1.00 avg60=0.00 avg300=0.00 total=500\n",
    "sys/block/sda/size": "1\n",
    "sys/block/sdb/size": "1\n",
    "sys/block/loop0/size": "1\n",
    "sys/block/dm-0/size": "1\n",
}


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        for path, text in FILES.items():
            self.write(path, text)

    def write(self, path: str, text: str | bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def own_cgroup() -> Iterator[Callable[[], Path]]:
    """Makes (again) a cgroup2 group of ours; removed afterwards."""
    root = cgroup2_root(Path("/"))
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("needs root and a writable cgroup2")
    group = root / f"tuned-spec-test-{os.getpid()}"

    def make() -> Path:
        group.mkdir()
        if not (group / "cpu.pressure").exists():
            pytest.skip("this kernel shows no pressure of cgroups")
        return group

    try:
        yield make
    finally:
        if group.exists():
            group.rmdir()
        assert not group.exists()
