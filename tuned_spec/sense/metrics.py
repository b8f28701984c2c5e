"""The table of every metric: name, unit, good way, source file, and how it follows from the file's figures.

Owns names and formulas as data. Must not open a file, know a clock or hold a reading. A metric's formula
names raw fields of one source; `sources` reads exactly those fields and `rates` does the arithmetic.

What the figures mean is from the kernel's Documentation: filesystems/proc.rst (stat, vmstat, meminfo),
accounting/psi.rst, admin-guide/iostats.rst, scheduler/sched-stats.rst, networking/snmp_counter.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from tuned_spec.model import Frozen, Way

DOWN, UP = Way.DOWN, Way.UP
CGROUP2 = "<cgroup2>"  # stands for the mount point of cgroup2 in a source's name
RESOURCES = ("cpu", "memory", "io")


class Kind(StrEnum):
    RATE = "rate"  # growth of `fields` a second, times `scale`
    RATIO = "ratio"  # growth of `fields` over growth of `over`; unknown when the latter is nothing
    LEVEL = "level"  # `fields` now, times `scale`
    LEVEL_RATIO = "level_ratio"  # `fields` now over `over` now
    REPORTED = "reported"  # sent to the metric socket by a program


class Metric(Frozen, frozen=True):
    """One metric. Several `fields` are added up; those that a kernel does not have are left out,
    and the metric is unknown when none is there. `better` is None where neither way is good as such."""

    unit: str  # share (0..1), 1/s, pages/s, bytes/s, bytes, ms, count, s/s
    better: Way | None
    source: str
    doc: str
    kind: Kind
    fields: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    scale: float = 1.0


def _stall(source: str, which: str) -> Metric:
    who = "some task" if which == "some" else "all tasks"
    doc = f"share of the last interval in which {who} waited (PSI total)"
    return Metric("share", DOWN, source, doc, Kind.RATE, (which,), scale=1e-6)  # microseconds


def _stall_avg10(source: str, which: str) -> Metric:
    doc = f"the kernel's own ten-second average of '{which}', as a share (not percent)"
    return Metric("share", DOWN, source, doc, Kind.LEVEL, (f"{which}.avg10",), scale=0.01)


def _rate(source: str, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0) -> Metric:
    return Metric(unit, better, source, doc, Kind.RATE, fields, scale=scale)


def _level(source: str, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0) -> Metric:
    return Metric(unit, better, source, doc, Kind.LEVEL, fields, scale=scale)


STAT, VMSTAT, MEMINFO = "/proc/stat", "/proc/vmstat", "/proc/meminfo"
SNMP, NETSTAT, SOCKSTAT = "/proc/net/snmp", "/proc/net/netstat", "/proc/net/sockstat"
SOFTNET, DISKSTATS, SCHEDSTAT = "/proc/net/softnet_stat", "/proc/diskstats", "/proc/schedstat"
PSI_CPU, PSI_MEMORY, PSI_IO = "/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io"

# guest time is part of user time already
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
CPU_TIME = (*BUSY, "idle", "iowait")
# one figure a zone since Linux 4.10
_ZONES = ("dma", "dma32", "normal", "highmem", "movable", "device")
ALLOCSTALL = ("allocstall", *(f"allocstall_{zone}" for zone in _ZONES))


def _cpu(better: Way | None, doc: str, *fields: str) -> Metric:
    return Metric("share", better, STAT, doc, Kind.RATIO, fields, CPU_TIME)


def _mem(better: Way | None, doc: str, field: str, over: str = "MemTotal") -> Metric:
    return Metric("share", better, MEMINFO, doc, Kind.LEVEL_RATIO, (field,), (over,))


METRICS: dict[str, Metric] = {
    "psi.cpu.some": _stall(PSI_CPU, "some"),
    "psi.cpu.full": _stall(PSI_CPU, "full"),
    "psi.cpu.some.avg10": _stall_avg10(PSI_CPU, "some"),
    "psi.cpu.full.avg10": _stall_avg10(PSI_CPU, "full"),
    "psi.memory.some": _stall(PSI_MEMORY, "some"),
    "psi.memory.full": _stall(PSI_MEMORY, "full"),
    "psi.memory.some.avg10": _stall_avg10(PSI_MEMORY, "some"),
    "psi.memory.full.avg10": _stall_avg10(PSI_MEMORY, "full"),
    "psi.io.some": _stall(PSI_IO, "some"),
    "psi.io.full": _stall(PSI_IO, "full"),
    "psi.io.some.avg10": _stall_avg10(PSI_IO, "some"),
    "psi.io.full.avg10": _stall_avg10(PSI_IO, "full"),
    # -- cpu: shares of all CPUs' time in the last interval
    "cpu.busy": _cpu(None, "not idle and not waiting for I/O", *BUSY),
    "cpu.user": _cpu(None, "in programs, niced ones included", "user", "nice"),
    "cpu.system": _cpu(None, "in the kernel, interrupts included", "system", "irq", "softirq"),
    "cpu.iowait": _cpu(DOWN, "idle while a task waited for I/O", "iowait"),
    "cpu.steal": _cpu(DOWN, "taken by other guests of the hypervisor", "steal"),
    "cpu.idle": _cpu(None, "idle, nothing to wait for", "idle"),
    "cpu.softirq": _cpu(None, "in interrupts and softirqs", "irq", "softirq"),
    "cpu.forks_per_s": _rate(STAT, "1/s", None, "processes and threads made", "processes"),
    "cpu.ctxt_per_s": _rate(STAT, "1/s", None, "context switches", "ctxt"),
    "cpu.irq_per_s": _rate(STAT, "1/s", None, "interrupts", "intr"),
    "cpu.running": _level(STAT, "count", None, "tasks that run or could (we are one)", "procs_running"),
    "cpu.blocked": _level(STAT, "count", DOWN, "tasks blocked on I/O", "procs_blocked"),
    "cpu.runqueue_wait": _rate(
        SCHEDSTAT,
        "s/s",
        DOWN,
        "seconds that runnable tasks waited, a second, all CPUs",
        "wait_ns",
        scale=1e-9,
    ),
    # -- vm
    "vm.pgscan_direct_per_s": _rate(
        VMSTAT, "pages/s", DOWN, "scanned by allocating tasks themselves", "pgscan_direct"
    ),
    "vm.pgscan_kswapd_per_s": _rate(VMSTAT, "pages/s", DOWN, "scanned by kswapd", "pgscan_kswapd"),
    "vm.pgsteal_per_s": _rate(
        VMSTAT,
        "pages/s",
        DOWN,
        "reclaimed, by anyone",
        *("pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged", "pgsteal_proactive"),
    ),
    "vm.allocstall_per_s": _rate(VMSTAT, "1/s", DOWN, "allocations that had to reclaim", *ALLOCSTALL),
    "vm.pswpin_per_s": _rate(VMSTAT, "pages/s", DOWN, "swapped in", "pswpin"),
    "vm.pswpout_per_s": _rate(VMSTAT, "pages/s", DOWN, "swapped out", "pswpout"),
    "vm.pgfault_per_s": _rate(VMSTAT, "1/s", None, "page faults, major ones included", "pgfault"),
    "vm.pgmajfault_per_s": _rate(VMSTAT, "1/s", DOWN, "page faults that had to read", "pgmajfault"),
    "vm.refault_per_s": _rate(
        VMSTAT,
        "pages/s",
        DOWN,
        "evicted and soon needed again",
        *("workingset_refault", "workingset_refault_anon", "workingset_refault_file"),  # split in Linux 5.9
    ),
    "vm.compact_stall_per_s": _rate(VMSTAT, "1/s", DOWN, "allocations that had to compact", "compact_stall"),
    "vm.thp_fault_alloc_per_s": _rate(VMSTAT, "1/s", None, "huge pages given at a fault", "thp_fault_alloc"),
    "vm.thp_split_per_s": _rate(VMSTAT, "1/s", DOWN, "huge pages split", "thp_split_page"),
    # -- mem
    "mem.available_share": _mem(UP, "of memory that new work could have without swapping", "MemAvailable"),
    "mem.dirty_share": _mem(None, "of memory that waits to be written to disk", "Dirty"),
    "mem.writeback_share": _mem(None, "of memory that is being written to disk", "Writeback"),
    "mem.swap_used_share": _mem(DOWN, "of swap in use", "SwapUsed", "SwapTotal"),
    "mem.dirty_bytes": _level(MEMINFO, "bytes", None, "waits to be written to disk", "Dirty", scale=1024),
    # -- tcp, udp: of the network namespace we were started in
    "tcp.retrans_share": Metric(
        "share",
        DOWN,
        SNMP,
        "of segments sent that were sent again; unknown while nothing is sent",
        Kind.RATIO,
        ("Tcp.RetransSegs",),
        ("Tcp.OutSegs", "Tcp.RetransSegs"),  # OutSegs does not count what is sent again
    ),
    "tcp.in_segs_per_s": _rate(SNMP, "1/s", None, "segments received", "Tcp.InSegs"),
    "tcp.out_segs_per_s": _rate(SNMP, "1/s", None, "segments sent, none of them again", "Tcp.OutSegs"),
    "tcp.established": _level(SNMP, "count", None, "connections open", "Tcp.CurrEstab"),
    "tcp.active_opens_per_s": _rate(SNMP, "1/s", None, "connections tried from here", "Tcp.ActiveOpens"),
    "tcp.passive_opens_per_s": _rate(SNMP, "1/s", None, "connections taken by listeners", "Tcp.PassiveOpens"),
    "tcp.attempt_fails_per_s": _rate(SNMP, "1/s", DOWN, "connections that failed", "Tcp.AttemptFails"),
    "tcp.listen_overflows_per_s": _rate(
        NETSTAT, "1/s", DOWN, "an accept queue was full", "TcpExt.ListenOverflows"
    ),
    "tcp.listen_drops_per_s": _rate(
        NETSTAT, "1/s", DOWN, "SYNs or connections a listener dropped, for any reason", "TcpExt.ListenDrops"
    ),
    "tcp.syn_retrans_per_s": _rate(NETSTAT, "1/s", DOWN, "SYNs sent again", "TcpExt.TCPSynRetrans"),
    "tcp.rcv_collapsed_per_s": _rate(
        NETSTAT,
        "1/s",
        DOWN,
        "buffers merged, the receive queue being short of memory",
        "TcpExt.TCPRcvCollapsed",
    ),
    "tcp.prune_called_per_s": _rate(
        NETSTAT, "1/s", DOWN, "receive queues over their memory", "TcpExt.PruneCalled"
    ),
    "tcp.backlog_drop_per_s": _rate(
        NETSTAT, "1/s", DOWN, "dropped, the socket's backlog being full", "TcpExt.TCPBacklogDrop"
    ),
    "tcp.ofo_queue_per_s": _rate(NETSTAT, "1/s", DOWN, "segments out of order", "TcpExt.TCPOFOQueue"),
    "tcp.zero_window_per_s": _rate(
        NETSTAT, "1/s", DOWN, "we had to close our window", "TcpExt.TCPToZeroWindowAdv"
    ),
    "tcp.memory_pressures_per_s": _rate(
        NETSTAT, "1/s", DOWN, "TCP as a whole ran short of memory", "TcpExt.TCPMemoryPressures"
    ),
    "tcp.time_wait": _level(SOCKSTAT, "count", None, "sockets in TIME_WAIT", "tw"),
    "udp.in_datagrams_per_s": _rate(SNMP, "1/s", None, "IPv4 datagrams received", "Udp.InDatagrams"),
    "ip.in_bytes_per_s": _rate(NETSTAT, "bytes/s", None, "IPv4, headers included", "IpExt.InOctets"),
    "udp.rcvbuf_errors_per_s": _rate(
        SNMP, "1/s", DOWN, "IPv4 datagrams dropped, the receive buffer being full", "Udp.RcvbufErrors"
    ),
    "udp.sndbuf_errors_per_s": _rate(
        SNMP, "1/s", DOWN, "IPv4 datagrams dropped, the send buffer being full", "Udp.SndbufErrors"
    ),
    "net.softnet_dropped_per_s": _rate(
        SOFTNET, "1/s", DOWN, "packets dropped, a CPU's input queue being full", "dropped"
    ),
    "net.softnet_squeezed_per_s": _rate(
        SOFTNET, "1/s", DOWN, "receive rounds cut short by net.core.netdev_budget", "squeezed"
    ),
    # -- disk: all of the one whole disk that was busiest in the last interval
    "disk.util": _rate(
        DISKSTATS, "share", None, "of the time with a request in flight", "busy_ms", scale=1e-3
    ),
    "disk.inflight": _level(DISKSTATS, "count", None, "requests in flight", "inflight"),
    "disk.read_ms": Metric("ms", DOWN, DISKSTATS, "a read took", Kind.RATIO, ("read_ms",), ("reads",)),
    "disk.write_ms": Metric("ms", DOWN, DISKSTATS, "a write took", Kind.RATIO, ("write_ms",), ("writes",)),
    "disk.reads_per_s": _rate(DISKSTATS, "1/s", None, "read requests done", "reads"),
    "disk.writes_per_s": _rate(DISKSTATS, "1/s", None, "write requests done", "writes"),
    "disk.read_bytes_per_s": _rate(DISKSTATS, "bytes/s", None, "read", "read_sectors", scale=512),
    "disk.write_bytes_per_s": _rate(DISKSTATS, "bytes/s", None, "written", "write_sectors", scale=512),
    "disk.read_share": Metric(
        "share",
        None,
        DISKSTATS,
        "of bytes moved that were read",
        Kind.RATIO,
        ("read_sectors",),
        ("read_sectors", "write_sectors"),
    ),
}

_APP = re.compile(r"app\.[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_CGROUP = re.compile(
    r"cgroup\.(?P<path>.+)\.psi\.(?P<what>cpu|memory|io)\.(?P<which>some|full)(?P<avg>\.avg10)?"
)


def cgroup_path(path: str) -> str | None:
    """The canonical form of a cgroup named below the root of cgroup2; None if it is no such name."""
    parts = path.strip("/").split("/")
    good = all(part not in ("", ".", "..") and "\0" not in part and "\n" not in part for part in parts)
    return "/".join(parts) if good else None


def find(name: str) -> Metric | None:
    """The metric of that name, those of cgroups and programs included; None if there is none."""
    if metric := METRICS.get(name):
        return metric
    if _APP.fullmatch(name):
        return Metric("as reported", None, "metrics.sock", "reported by a program", Kind.REPORTED)
    if (match := _CGROUP.fullmatch(name)) and cgroup_path(match["path"]) == match["path"]:
        source = f"{CGROUP2}/{match['path']}/{match['what']}.pressure"
        return (_stall_avg10 if match["avg"] else _stall)(source, match["which"])
    return None


def known(name: str) -> bool:
    """May a policy name this metric? Whether this host has it is another matter: see `Sense.absent`."""
    return find(name) is not None


def of_cgroup(path: str) -> dict[str, Metric]:
    """All metrics of one cgroup."""
    names = [f"cgroup.{path}.{name}" for name in METRICS if name.startswith("psi.")]
    return {name: metric for name in names if (metric := find(name))}


def cgroups_in(names: Iterable[str]) -> tuple[str, ...]:
    """The cgroups that these metrics are about, each once, in the order of their names."""
    return tuple(sorted({match["path"] for name in names if (match := _CGROUP.fullmatch(name))}))
