"""The table of every metric: name, unit, good way, source, and how it follows from the source's figures.

    disk.util        of the whole host: of CPUs and IRQs all together, of disks and NICs the busiest
    disk.util@sda    of one instance: `per` says of what there are instances
    disk.util@nvme*  of each that is there now: `*` and `?` stop at a "/", `**` does not

Owns names and formulas as data, and what a name with an instance means. Must not open a file, know a clock or
hold a reading. A metric's formula names raw fields of one source; the source reads exactly those fields and
`rates` does the arithmetic. `python -m tuned_spec.sense.metrics` prints docs/metrics.md.

What the figures mean is from the kernel's Documentation: filesystems/proc.rst (stat, vmstat, meminfo),
accounting/psi.rst, admin-guide/iostats.rst, admin-guide/cgroup-v2.rst, scheduler/sched-stats.rst,
networking/snmp_counter.rst, admin-guide/sysctl/net.rst; and from include/uapi/linux/tcp.h and perf_event.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from tuned_spec.globs import split
from tuned_spec.model import Frozen, Way

DOWN, UP = Way.DOWN, Way.UP
CGROUP2 = "<cgroup2>/"  # begins a source that is a file in each cgroup; the rest is the file's name
RESOURCES = ("cpu", "memory", "io")


class Kind(StrEnum):
    RATE = "rate"  # growth of `fields` a second, times `scale`
    RATIO = "ratio"  # growth of `fields` over growth of `over`, times `scale`; unknown when that is nothing
    LEVEL = "level"  # `fields` now, times `scale`
    LEVEL_RATIO = "level_ratio"  # `fields` now over `over` now
    RATE_RATIO = "rate_ratio"  # growth of `fields` a second over `over` now
    REPORTED = "reported"  # sent to the metric socket by a program


class Metric(Frozen, frozen=True):
    """One metric. Several `fields` are added up; those that a kernel does not have are left out,
    and the metric is unknown when none is there. `better` is None where neither way is good as such.

    `per`: what there are instances of, "" if there are none. `alone`: the name means something without one.
    `over_source`: where `over` is, if not in `source`.
    """

    unit: str  # share (0..1), 1/s, pages/s, bytes/s, bytes, ms, count, s/s, ratio
    better: Way | None
    source: str
    doc: str
    kind: Kind
    fields: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    scale: float = 1.0
    per: str = ""
    alone: bool = True
    over_source: str = ""


STAT, VMSTAT, MEMINFO = "/proc/stat", "/proc/vmstat", "/proc/meminfo"
SNMP, NETSTAT, SNMP6 = "/proc/net/snmp", "/proc/net/netstat", "/proc/net/snmp6"
SOCKSTAT, SOCKSTAT6 = "/proc/net/sockstat", "/proc/net/sockstat6"
SOFTNET, NETDEV = "/proc/net/softnet_stat", "/proc/net/dev"
ARP, NDISC, CONNTRACK = (f"/proc/net/stat/{name}" for name in ("arp_cache", "ndisc_cache", "nf_conntrack"))
DISKSTATS, SCHEDSTAT, LOADAVG = "/proc/diskstats", "/proc/schedstat", "/proc/loadavg"
SOFTIRQS, INTERRUPTS = "/proc/softirqs", "/proc/interrupts"
SOCK_DIAG, PERF_HARDWARE, PERF_SOFTWARE = "sock_diag", "perf:hardware", "perf:software"
PRESSURE = {name: f"/proc/pressure/{name}" for name in (*RESOURCES, "irq")}

# guest time is part of user time already
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
CPU_TIME = (*BUSY, "idle", "iowait")
# one figure a zone since Linux 4.10
_ZONES = ("dma", "dma32", "normal", "highmem", "movable", "device")
ALLOCSTALL = ("allocstall", *(f"allocstall_{zone}" for zone in _ZONES))
PGSCAN = ("pgscan_kswapd", "pgscan_direct", "pgscan_khugepaged", "pgscan_proactive")
PGSTEAL = ("pgsteal_kswapd", "pgsteal_direct", "pgsteal_khugepaged", "pgsteal_proactive")
REFAULT = ("workingset_refault", "workingset_refault_anon", "workingset_refault_file")  # split in Linux 5.9

_STALL = "share of the last interval in which {} waited (PSI total)"
_WHO = {"some": "some task", "full": "all tasks"}


def _psi(what: str, which: str) -> Metric:
    doc = _STALL.format(_WHO[which])
    return Metric("share", DOWN, PRESSURE[what], doc, Kind.RATE, (which,), scale=1e-6)  # microseconds


def _psi10(what: str, which: str) -> Metric:
    doc = f"the kernel's own ten-second average of '{which}', as a share (not percent)"
    return Metric("share", DOWN, PRESSURE[what], doc, Kind.LEVEL, (f"{which}.avg10",), scale=0.01)


def _rate(
    source: str, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0, per: str = ""
) -> Metric:
    return Metric(unit, better, source, doc, Kind.RATE, fields, scale=scale, per=per)


def _level(
    source: str, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0, per: str = ""
) -> Metric:
    return Metric(unit, better, source, doc, Kind.LEVEL, fields, scale=scale, per=per)


def _part(
    source: str, better: Way | None, doc: str, fields: tuple[str, ...], over: tuple[str, ...], per: str = ""
) -> Metric:
    """A share of what went on in the interval."""
    return Metric("share", better, source, doc, Kind.RATIO, fields, over, per=per)


def _fill(source: str, doc: str, field: str, limit: str, over: str = "0") -> Metric:
    """How full something is: `field` of its limit, which is number `over` in the file `limit`."""
    return Metric("share", DOWN, source, doc, Kind.LEVEL_RATIO, (field,), (over,), over_source=limit)


def _cpu(better: Way | None, doc: str, *fields: str) -> Metric:
    return _part(STAT, better, doc, fields, CPU_TIME, per="cpu")


def _vm(better: Way | None, doc: str, *fields: str, unit: str = "1/s") -> Metric:
    return _rate(VMSTAT, unit, better, doc, *fields)


def _pages(better: Way | None, doc: str, *fields: str) -> Metric:
    return _rate(VMSTAT, "pages/s", better, doc, *fields)


def _mem(better: Way | None, doc: str, field: str, over: str = "MemTotal") -> Metric:
    return Metric("share", better, MEMINFO, doc, Kind.LEVEL_RATIO, (field,), (over,))


def _tcp(better: Way | None, doc: str, field: str) -> Metric:
    return _rate(SNMP, "1/s", better, doc, f"Tcp.{field}")


def _ext(better: Way | None, doc: str, field: str) -> Metric:
    return _rate(NETSTAT, "1/s", better, doc, f"TcpExt.{field}")


def _udp(better: Way | None, doc: str, field: str) -> Metric:
    return _rate(SNMP, "1/s", better, f"IPv4 datagrams {doc}", f"Udp.{field}")


def _snmp6(better: Way | None, doc: str, field: str) -> Metric:
    return _rate(SNMP6, "1/s", better, f"IPv6 {doc}", field)


def _softnet(better: Way | None, doc: str, field: str) -> Metric:
    return _rate(SOFTNET, "1/s", better, doc, field, per="cpu")


def _nic(unit: str, better: Way | None, doc: str, field: str) -> Metric:
    return _rate(NETDEV, unit, better, doc, field, per="nic")


def _disk(unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0) -> Metric:
    return _rate(DISKSTATS, unit, better, doc, *fields, scale=scale, per="disk")


def _took(doc: str, field: str, over: str) -> Metric:
    return Metric("ms", DOWN, DISKSTATS, doc, Kind.RATIO, (field,), (over,), per="disk")


def _size(source: str, per: str, doc: str, field: str, over: str, scale: float) -> Metric:
    return Metric("bytes", None, source, doc, Kind.RATIO, (field,), (over,), scale, per)


def _softirq(doc: str, kind: str) -> Metric:
    return _rate(SOFTIRQS, "1/s", None, doc, kind, per="cpu")


def _sock(unit: str, better: Way | None, doc: str, field: str) -> Metric:
    return _level(SOCK_DIAG, unit, better, doc, field)


def _of_cgroup(
    file: str, kind: Kind, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0
) -> Metric:
    return Metric(unit, better, CGROUP2 + file, doc, kind, fields, (), scale, "cgroup", False)


def _cgroup_rate(
    file: str, unit: str, better: Way | None, doc: str, *fields: str, scale: float = 1.0
) -> Metric:
    return _of_cgroup(file, Kind.RATE, unit, better, doc, *fields, scale=scale)


def _cgroup_share(file: str, kind: Kind, doc: str, field: str, over: str, limit: str = "") -> Metric:
    limit = limit and CGROUP2 + limit
    return Metric(
        "share", DOWN, CGROUP2 + file, doc, kind, (field,), (over,), 1.0, "cgroup", False, over_source=limit
    )


METRICS: dict[str, Metric] = {
    # -- pressure: time that tasks waited
    "psi.cpu.some": _psi("cpu", "some"),
    "psi.cpu.full": _psi("cpu", "full"),
    "psi.cpu.some.avg10": _psi10("cpu", "some"),
    "psi.cpu.full.avg10": _psi10("cpu", "full"),
    "psi.memory.some": _psi("memory", "some"),
    "psi.memory.full": _psi("memory", "full"),
    "psi.memory.some.avg10": _psi10("memory", "some"),
    "psi.memory.full.avg10": _psi10("memory", "full"),
    "psi.io.some": _psi("io", "some"),
    "psi.io.full": _psi("io", "full"),
    "psi.io.some.avg10": _psi10("io", "some"),
    "psi.io.full.avg10": _psi10("io", "full"),
    "psi.irq.full": _psi("irq", "full"),
    # -- cpu: shares of CPU time in the last interval
    "cpu.busy": _cpu(None, "not idle and not waiting for I/O", *BUSY),
    "cpu.user": _cpu(None, "in programs, niced ones included", "user", "nice"),
    "cpu.system": _cpu(None, "in the kernel, interrupts included", "system", "irq", "softirq"),
    "cpu.softirq": _cpu(None, "in interrupts and softirqs", "irq", "softirq"),
    "cpu.iowait": _cpu(DOWN, "idle while a task waited for I/O", "iowait"),
    "cpu.steal": _cpu(DOWN, "taken by other guests of the hypervisor", "steal"),
    "cpu.idle": _cpu(None, "idle, nothing to wait for", "idle"),
    "cpu.ctxt_per_s": _rate(STAT, "1/s", None, "context switches", "ctxt"),
    "cpu.irq_per_s": _rate(STAT, "1/s", None, "interrupts", "intr"),
    "cpu.forks_per_s": _rate(STAT, "1/s", None, "processes and threads made", "processes"),
    "cpu.running": _level(STAT, "count", None, "tasks that run or could (we are one)", "procs_running"),
    "cpu.blocked": _level(STAT, "count", DOWN, "tasks blocked on I/O", "procs_blocked"),
    "cpu.runqueue_wait": _rate(
        SCHEDSTAT,
        "s/s",
        DOWN,
        "seconds that runnable tasks waited, a second",
        "wait_ns",
        scale=1e-9,
        per="cpu",
    ),
    "cpu.migrations_per_s": _rate(
        PERF_SOFTWARE,
        "1/s",
        DOWN,
        "tasks moved to another CPU (perf cpu-migrations)",
        "cpu-migrations",
        per="cpu",
    ),
    "cpu.ipc": Metric(
        "ratio",
        UP,
        PERF_HARDWARE,
        "instructions a cycle, all programs and the kernel (perf, hardware counters)",
        Kind.RATIO,
        ("instructions",),
        ("cycles",),
        per="cpu",
    ),
    # -- softirqs and interrupts
    "softirq.timer_per_s": _softirq("timers", "TIMER"),
    "softirq.hrtimer_per_s": _softirq("high-resolution timers", "HRTIMER"),
    "softirq.net_tx_per_s": _softirq("rounds of sending packets", "NET_TX"),
    "softirq.net_rx_per_s": _softirq("rounds of receiving packets", "NET_RX"),
    "softirq.block_per_s": _softirq("completions of block requests", "BLOCK"),
    "softirq.irq_poll_per_s": _softirq("rounds of polled block devices", "IRQ_POLL"),
    "softirq.tasklet_per_s": _softirq("tasklets, urgent ones included", "TASKLET"),
    "softirq.sched_per_s": _softirq("rounds of load balancing", "SCHED"),
    "softirq.rcu_per_s": _softirq("rounds of RCU callbacks", "RCU"),
    "irq.fired_per_s": _rate(
        INTERRUPTS, "1/s", None, "interrupts of devices, by their number", "count", per="irq"
    ),
    # -- vm
    "vm.pgscan_direct_per_s": _pages(DOWN, "scanned by allocating tasks themselves", "pgscan_direct"),
    "vm.pgscan_kswapd_per_s": _pages(DOWN, "scanned by kswapd", "pgscan_kswapd"),
    "vm.pgscan_per_s": _pages(DOWN, "scanned, by anyone", *PGSCAN),
    "vm.pgsteal_per_s": _pages(DOWN, "reclaimed, by anyone", *PGSTEAL),
    "vm.pgsteal_direct_per_s": _pages(DOWN, "reclaimed by allocating tasks themselves", "pgsteal_direct"),
    "vm.reclaimed_share": _part(VMSTAT, UP, "of pages scanned that could be reclaimed", PGSTEAL, PGSCAN),
    "vm.allocstall_per_s": _vm(DOWN, "allocations that had to reclaim", *ALLOCSTALL),
    "vm.kswapd_low_per_s": _vm(
        DOWN, "times kswapd slept and was at the low watermark again at once", "kswapd_low_wmark_hit_quickly"
    ),
    "vm.kswapd_high_per_s": _vm(
        DOWN,
        "times kswapd slept and was below the high watermark again at once",
        "kswapd_high_wmark_hit_quickly",
    ),
    "vm.pswpin_per_s": _pages(DOWN, "swapped in", "pswpin"),
    "vm.pswpout_per_s": _pages(DOWN, "swapped out", "pswpout"),
    "vm.zswpin_per_s": _pages(None, "read back from zswap", "zswpin"),
    "vm.zswpout_per_s": _pages(None, "put into zswap", "zswpout"),
    "vm.zswpwb_per_s": _pages(DOWN, "that zswap had to write to the disk", "zswpwb"),
    "vm.swap_ra_per_s": _pages(None, "swapped in ahead of use", "swap_ra"),
    "vm.swap_ra_hit_share": _part(
        VMSTAT, UP, "of pages swapped in ahead that were used", ("swap_ra_hit",), ("swap_ra",)
    ),
    "vm.pgfault_per_s": _vm(None, "page faults, major ones included", "pgfault"),
    "vm.pgmajfault_per_s": _vm(DOWN, "page faults that had to read", "pgmajfault"),
    "vm.refault_per_s": _pages(DOWN, "evicted and soon needed again", *REFAULT),
    "vm.refault_anon_per_s": _pages(DOWN, "the same, of programs' own memory", "workingset_refault_anon"),
    "vm.refault_file_per_s": _pages(DOWN, "the same, of files", "workingset_refault_file"),
    "vm.compact_stall_per_s": _vm(DOWN, "allocations that had to compact", "compact_stall"),
    "vm.compact_fail_per_s": _vm(DOWN, "allocations that compacted in vain", "compact_fail"),
    "vm.compact_success_per_s": _vm(None, "allocations that compacted with success", "compact_success"),
    "vm.compact_daemon_wake_per_s": _vm(None, "times kcompactd was woken", "compact_daemon_wake"),
    "vm.compact_scanned_per_s": _pages(
        DOWN, "scanned by compaction", "compact_migrate_scanned", "compact_free_scanned"
    ),
    "vm.thp_fault_alloc_per_s": _vm(None, "huge pages given at a fault", "thp_fault_alloc"),
    "vm.thp_fault_fallback_per_s": _vm(DOWN, "faults that found no huge page", "thp_fault_fallback"),
    "vm.thp_fallback_share": _part(
        VMSTAT,
        DOWN,
        "of faults that could take a huge page that found none",
        ("thp_fault_fallback",),
        ("thp_fault_fallback", "thp_fault_alloc"),
    ),
    "vm.thp_collapse_per_s": _vm(None, "huge pages made by khugepaged", "thp_collapse_alloc"),
    "vm.thp_split_per_s": _vm(DOWN, "huge pages split", "thp_split_page"),
    "vm.thp_split_pmd_per_s": _vm(DOWN, "mappings of huge pages split", "thp_split_pmd"),
    "vm.thp_swpout_fallback_per_s": _vm(DOWN, "huge pages split to be swapped out", "thp_swpout_fallback"),
    "vm.numa_hint_faults_per_s": _vm(None, "faults set up to see who uses a page", "numa_hint_faults"),
    "vm.numa_local_share": _part(
        VMSTAT,
        UP,
        "of those faults that came from the page's own node",
        ("numa_hint_faults_local",),
        ("numa_hint_faults",),
    ),
    "vm.numa_migrated_per_s": _pages(None, "moved to another node by NUMA balancing", "numa_pages_migrated"),
    "vm.numa_miss_per_s": _pages(DOWN, "taken from another node than preferred", "numa_miss"),
    "vm.oom_kills_per_s": _vm(DOWN, "processes killed for want of memory", "oom_kill"),
    "vm.dirtied_per_s": _pages(None, "made dirty", "nr_dirtied"),
    "vm.written_per_s": _pages(None, "of files written back", "nr_written"),
    "vm.dirty_limit_share": Metric(
        "share",
        DOWN,
        VMSTAT,
        "dirty pages, of the threshold at which writers are held back",
        Kind.LEVEL_RATIO,
        ("nr_dirty",),
        ("nr_dirty_threshold",),
    ),
    # -- mem
    "mem.available_share": _mem(UP, "of memory that new work could have without swapping", "MemAvailable"),
    "mem.free_share": _mem(None, "of memory that nobody uses", "MemFree"),
    "mem.dirty_share": _mem(None, "of memory that waits to be written to disk", "Dirty"),
    "mem.writeback_share": _mem(None, "of memory that is being written to disk", "Writeback"),
    "mem.anon_huge_share": _mem(
        None, "of programs' own memory that is in huge pages", "AnonHugePages", "AnonPages"
    ),
    "mem.swap_used_share": _mem(DOWN, "of swap in use", "SwapUsed", "SwapTotal"),
    "mem.committed_share": _mem(
        DOWN,
        "of the commit limit that was promised (vm.overcommit_memory = 2 refuses above it)",
        "Committed_AS",
        "CommitLimit",
    ),
    "mem.zswap_share": _mem(None, "of memory that zswap takes", "Zswap"),
    "mem.dirty_bytes": _level(MEMINFO, "bytes", None, "waits to be written to disk", "Dirty", scale=1024),
    "mem.writeback_bytes": _level(
        MEMINFO, "bytes", None, "is being written to disk", "Writeback", scale=1024
    ),
    "mem.ksm_pages": _level("/sys/kernel/mm/ksm/pages_sharing", "count", UP, "pages that KSM saves", "0"),
    # -- limits of the kernel that may run full
    "fs.files_share": _fill(
        "/proc/sys/fs/file-nr", "open files, of fs.file-max", "0", "/proc/sys/fs/file-nr", "2"
    ),
    "fs.aio_share": _fill(
        "/proc/sys/fs/aio-nr", "aio requests reserved, of fs.aio-max-nr", "0", "/proc/sys/fs/aio-max-nr"
    ),
    "kernel.threads_share": _fill(
        LOADAVG, "tasks, of kernel.threads-max", "tasks", "/proc/sys/kernel/threads-max"
    ),
    # -- tcp: of the network namespace we were started in
    "tcp.retrans_share": _part(
        SNMP,
        DOWN,
        "of segments sent that were sent again; unknown while nothing is sent",
        ("Tcp.RetransSegs",),
        ("Tcp.OutSegs", "Tcp.RetransSegs"),  # OutSegs does not count what is sent again
    ),
    "tcp.established": _level(SNMP, "count", None, "connections open", "Tcp.CurrEstab"),
    "tcp.in_segs_per_s": _tcp(None, "segments received", "InSegs"),
    "tcp.out_segs_per_s": _tcp(None, "segments sent, those sent again not counted", "OutSegs"),
    "tcp.active_opens_per_s": _tcp(None, "connections tried from here", "ActiveOpens"),
    "tcp.passive_opens_per_s": _tcp(None, "connections taken by listeners", "PassiveOpens"),
    "tcp.attempt_fails_per_s": _tcp(DOWN, "connections that failed", "AttemptFails"),
    "tcp.resets_per_s": _tcp(DOWN, "open connections that were reset", "EstabResets"),
    "tcp.listen_overflows_per_s": _ext(DOWN, "an accept queue was full", "ListenOverflows"),
    "tcp.listen_drops_per_s": _ext(
        DOWN, "SYNs or connections a listener dropped, for any reason", "ListenDrops"
    ),
    "tcp.syn_retrans_per_s": _ext(DOWN, "SYNs sent again", "TCPSynRetrans"),
    "tcp.syncookies_per_s": _ext(DOWN, "SYN cookies sent, the SYN queue being full", "SyncookiesSent"),
    "tcp.syn_queue_drop_per_s": _ext(DOWN, "SYNs dropped, the SYN queue being full", "TCPReqQFullDrop"),
    "tcp.timeouts_per_s": _ext(DOWN, "retransmission timers that ran out", "TCPTimeouts"),
    "tcp.fast_retrans_per_s": _ext(DOWN, "segments sent again before a timeout", "TCPFastRetrans"),
    "tcp.lost_retrans_per_s": _ext(DOWN, "segments sent again that were lost again", "TCPLostRetransmit"),
    "tcp.spurious_rtos_per_s": _ext(DOWN, "timeouts that were for nothing", "TCPSpuriousRTOs"),
    "tcp.dsack_per_s": _ext(DOWN, "peers said that they had it already", "TCPDSACKRecv"),
    "tcp.reordering_per_s": _ext(DOWN, "reordering seen by SACK", "TCPSACKReorder"),
    "tcp.ofo_queue_per_s": _ext(DOWN, "segments out of order", "TCPOFOQueue"),
    "tcp.ofo_drop_per_s": _ext(DOWN, "segments out of order dropped, for want of memory", "TCPOFODrop"),
    "tcp.rcv_collapsed_per_s": _ext(
        DOWN, "buffers merged, the receive queue being short of memory", "TCPRcvCollapsed"
    ),
    "tcp.prune_called_per_s": _ext(DOWN, "receive queues over their memory", "PruneCalled"),
    "tcp.rcv_pruned_per_s": _ext(DOWN, "segments dropped from receive queues over their memory", "RcvPruned"),
    "tcp.rcvq_drop_per_s": _ext(DOWN, "segments dropped, the receive queue being full", "TCPRcvQDrop"),
    "tcp.backlog_drop_per_s": _ext(DOWN, "dropped, the socket's backlog being full", "TCPBacklogDrop"),
    "tcp.zero_window_per_s": _ext(DOWN, "we had to close our window", "TCPToZeroWindowAdv"),
    "tcp.zero_window_drop_per_s": _ext(DOWN, "dropped, our window being closed", "TCPZeroWindowDrop"),
    "tcp.win_probe_per_s": _ext(DOWN, "probes of a peer's closed window", "TCPWinProbe"),
    "tcp.memory_pressures_per_s": _ext(DOWN, "TCP as a whole ran short of memory", "TCPMemoryPressures"),
    "tcp.abort_on_memory_per_s": _ext(
        DOWN, "connections ended for want of memory, or as one orphan too many", "TCPAbortOnMemory"
    ),
    "tcp.abort_on_timeout_per_s": _ext(DOWN, "connections given up after timeouts", "TCPAbortOnTimeout"),
    "tcp.wqueue_too_big_per_s": _ext(
        DOWN, "segments not split, the send queue being too long", "TCPWqueueTooBig"
    ),
    "tcp.tw_overflow_per_s": _ext(DOWN, "TIME_WAIT cut short, there being too many", "TCPTimeWaitOverflow"),
    "tcp.autocorking_per_s": _ext(None, "small writes held back to go out together", "TCPAutoCorking"),
    "tcp.fastopen_passive_per_s": _ext(None, "connections taken with data in the SYN", "TCPFastOpenPassive"),
    "tcp.fastopen_fail_per_s": _ext(DOWN, "data in our SYN that was not taken", "TCPFastOpenActiveFail"),
    "tcp.mtu_probe_fail_per_s": _ext(None, "probes for a larger packet that were lost", "TCPMTUPFail"),
    "tcp.mtu_probe_success_per_s": _ext(None, "probes for a larger packet that arrived", "TCPMTUPSuccess"),
    "tcp.busy_poll_per_s": _ext(None, "packets found by busy polling", "BusyPollRxPackets"),
    "tcp.ce_share": _part(
        NETSTAT,
        DOWN,
        "of segments delivered that met congestion, as ECN says",
        ("TcpExt.TCPDeliveredCE",),
        ("TcpExt.TCPDelivered",),
    ),
    "tcp.time_wait": _level(SOCKSTAT, "count", None, "sockets in TIME_WAIT", "TCP.tw"),
    "tcp.time_wait_share": _fill(
        SOCKSTAT,
        "sockets in TIME_WAIT, of tcp_max_tw_buckets",
        "TCP.tw",
        "/proc/sys/net/ipv4/tcp_max_tw_buckets",
    ),
    "tcp.orphans": _level(SOCKSTAT, "count", DOWN, "sockets that no program holds", "TCP.orphan"),
    "tcp.orphan_share": _fill(
        SOCKSTAT,
        "sockets that no program holds, of tcp_max_orphans",
        "TCP.orphan",
        "/proc/sys/net/ipv4/tcp_max_orphans",
    ),
    "tcp.mem_share": _fill(
        SOCKSTAT,
        "pages in TCP's buffers, of the third number of tcp_mem",
        "TCP.mem",
        "/proc/sys/net/ipv4/tcp_mem",
        "2",
    ),
    # -- connections one by one: a sample, see sockets.py
    "sock.count": _sock("count", None, "established connections in the sample", "count"),
    "sock.rtt_ms.p50": _sock("ms", DOWN, "smoothed round trip", "rtt_ms.p50"),
    "sock.rtt_ms.p95": _sock("ms", DOWN, "smoothed round trip", "rtt_ms.p95"),
    "sock.rttvar_ms.p50": _sock("ms", DOWN, "variation of the round trip", "rttvar_ms.p50"),
    "sock.rttvar_ms.p95": _sock("ms", DOWN, "variation of the round trip", "rttvar_ms.p95"),
    "sock.min_rtt_ms.p50": _sock("ms", DOWN, "least round trip seen lately", "min_rtt_ms.p50"),
    "sock.cwnd.p50": _sock("count", None, "congestion window, segments", "cwnd.p50"),
    "sock.cwnd.p95": _sock("count", None, "congestion window, segments", "cwnd.p95"),
    "sock.delivery_bytes_per_s.p50": _sock(
        "bytes/s",
        UP,
        "rate at which data last reached the peer, of connections that sent",
        "delivery_bytes.p50",
    ),
    "sock.delivery_bytes_per_s.p95": _sock(
        "bytes/s",
        UP,
        "rate at which data last reached the peer, of connections that sent",
        "delivery_bytes.p95",
    ),
    "sock.notsent_bytes.p50": _sock("bytes", None, "written and not sent yet", "notsent_bytes.p50"),
    "sock.notsent_bytes.p95": _sock("bytes", None, "written and not sent yet", "notsent_bytes.p95"),
    "sock.retrans_share": Metric(
        "share",
        DOWN,
        SOCK_DIAG,
        "of bytes sent that were sent again, over these connections' whole lives",
        Kind.LEVEL_RATIO,
        ("bytes_retrans",),
        ("bytes_sent",),
    ),
    # -- udp, ip
    "udp.in_datagrams_per_s": _udp(None, "received", "InDatagrams"),
    "udp.out_datagrams_per_s": _udp(None, "sent", "OutDatagrams"),
    "udp.rcvbuf_errors_per_s": _udp(DOWN, "dropped, the receive buffer being full", "RcvbufErrors"),
    "udp.sndbuf_errors_per_s": _udp(DOWN, "dropped, the send buffer being full", "SndbufErrors"),
    "udp.mem_errors_per_s": _udp(DOWN, "dropped, UDP as a whole being short of memory", "MemErrors"),
    "udp.no_ports_per_s": _udp(DOWN, "to ports where nobody listens", "NoPorts"),
    "udp6.in_datagrams_per_s": _snmp6(None, "datagrams received", "Udp6InDatagrams"),
    "udp6.out_datagrams_per_s": _snmp6(None, "datagrams sent", "Udp6OutDatagrams"),
    "udp6.rcvbuf_errors_per_s": _snmp6(
        DOWN, "datagrams dropped, the receive buffer being full", "Udp6RcvbufErrors"
    ),
    "udp6.sndbuf_errors_per_s": _snmp6(
        DOWN, "datagrams dropped, the send buffer being full", "Udp6SndbufErrors"
    ),
    "udp6.mem_errors_per_s": _snmp6(
        DOWN, "datagrams dropped, UDP as a whole being short of memory", "Udp6MemErrors"
    ),
    "udp.mem_share": _fill(
        SOCKSTAT,
        "pages in UDP's buffers, of the third number of udp_mem",
        "UDP.mem",
        "/proc/sys/net/ipv4/udp_mem",
        "2",
    ),
    "ip.in_bytes_per_s": _rate(NETSTAT, "bytes/s", None, "IPv4, headers included", "IpExt.InOctets"),
    "ip.out_bytes_per_s": _rate(NETSTAT, "bytes/s", None, "IPv4, headers included", "IpExt.OutOctets"),
    "ip.in_discards_per_s": _rate(
        SNMP, "1/s", DOWN, "IPv4 packets dropped for want of memory", "Ip.InDiscards"
    ),
    "ip.reasm_fails_per_s": _rate(
        SNMP, "1/s", DOWN, "IPv4 packets that could not be put together again", "Ip.ReasmFails"
    ),
    "ip.frags_in_per_s": _rate(SNMP, "1/s", None, "IPv4 fragments received", "Ip.ReasmReqds"),
    "ip.frags_out_per_s": _rate(SNMP, "1/s", None, "IPv4 fragments made", "Ip.FragCreates"),
    "ip.frag_mem_share": _fill(
        SOCKSTAT,
        "memory of fragments that wait for the others, of ipfrag_high_thresh",
        "FRAG.memory",
        "/proc/sys/net/ipv4/ipfrag_high_thresh",
    ),
    "ip6.reasm_fails_per_s": _snmp6(DOWN, "packets that could not be put together again", "Ip6ReasmFails"),
    "ip6.frags_in_per_s": _snmp6(None, "fragments received", "Ip6ReasmReqds"),
    "ip6.frag_mem_share": _fill(
        SOCKSTAT6,
        "memory of fragments that wait for the others, of ip6frag_high_thresh",
        "FRAG6.memory",
        "/proc/sys/net/ipv6/ip6frag_high_thresh",
    ),
    # -- the way of packets to and from the stack
    "net.softnet_processed_per_s": _softnet(None, "packets taken in", "processed"),
    "net.softnet_dropped_per_s": _softnet(DOWN, "packets dropped, a CPU's input queue being full", "dropped"),
    "net.softnet_squeezed_per_s": _softnet(
        DOWN, "receive rounds cut short by net.core.netdev_budget", "squeezed"
    ),
    "net.rps_per_s": _softnet(None, "times one CPU was woken by another to receive (RPS)", "received_rps"),
    "net.flow_limited_per_s": _softnet(
        DOWN, "packets of large flows dropped by the flow limit", "flow_limited"
    ),
    "net.backlog": _level(SOFTNET, "count", DOWN, "packets in CPUs' input queues", "backlog", per="cpu"),
    "nic.rx_bytes_per_s": _nic("bytes/s", None, "received", "rx_bytes"),
    "nic.tx_bytes_per_s": _nic("bytes/s", None, "sent", "tx_bytes"),
    "nic.rx_packets_per_s": _nic("1/s", None, "received", "rx_packets"),
    "nic.tx_packets_per_s": _nic("1/s", None, "sent", "tx_packets"),
    "nic.rx_dropped_per_s": _nic("1/s", DOWN, "received and dropped", "rx_drop"),
    "nic.tx_dropped_per_s": _nic("1/s", DOWN, "dropped before they were sent", "tx_drop"),
    "nic.rx_errors_per_s": _nic("1/s", DOWN, "received broken", "rx_errs"),
    "nic.tx_errors_per_s": _nic("1/s", DOWN, "could not be sent", "tx_errs"),
    "nic.rx_overruns_per_s": _nic("1/s", DOWN, "lost, the device's receive ring being full", "rx_fifo"),
    "nic.rx_packet_bytes": _size(
        NETDEV, "nic", "mean size of packets received", "rx_bytes", "rx_packets", 1.0
    ),
    "nic.rx_link_share": Metric(
        "share",
        None,
        NETDEV,
        "received, of the link's speed",
        Kind.RATE_RATIO,
        ("rx_bytes",),
        ("speed",),
        per="nic",
    ),
    "nic.tx_link_share": Metric(
        "share",
        None,
        NETDEV,
        "sent, of the link's speed",
        Kind.RATE_RATIO,
        ("tx_bytes",),
        ("speed",),
        per="nic",
    ),
    # -- neighbours, connection tracking
    "neigh.entries": _level(ARP, "count", None, "IPv4 neighbours known", "entries"),
    "neigh.fill_share": _fill(
        ARP, "IPv4 neighbours known, of gc_thresh3", "entries", "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
    ),
    "neigh.table_fulls_per_s": _rate(ARP, "1/s", DOWN, "IPv4 neighbours that found no room", "table_fulls"),
    "neigh.forced_gc_per_s": _rate(
        ARP, "1/s", DOWN, "rounds of clearing out in haste, IPv4", "forced_gc_runs"
    ),
    "neigh6.entries": _level(NDISC, "count", None, "IPv6 neighbours known", "entries"),
    "neigh6.fill_share": _fill(
        NDISC,
        "IPv6 neighbours known, of gc_thresh3",
        "entries",
        "/proc/sys/net/ipv6/neigh/default/gc_thresh3",
    ),
    "neigh6.table_fulls_per_s": _rate(
        NDISC, "1/s", DOWN, "IPv6 neighbours that found no room", "table_fulls"
    ),
    "neigh6.forced_gc_per_s": _rate(
        NDISC, "1/s", DOWN, "rounds of clearing out in haste, IPv6", "forced_gc_runs"
    ),
    "conntrack.fill_share": _fill(
        "/proc/sys/net/netfilter/nf_conntrack_count",
        "connections tracked, of nf_conntrack_max",
        "0",
        "/proc/sys/net/netfilter/nf_conntrack_max",
    ),
    "conntrack.insert_failed_per_s": _rate(
        CONNTRACK, "1/s", DOWN, "connections that could not be entered", "insert_failed"
    ),
    "conntrack.drop_per_s": _rate(CONNTRACK, "1/s", DOWN, "packets dropped, the table being full", "drop"),
    "conntrack.early_drop_per_s": _rate(
        CONNTRACK, "1/s", DOWN, "connections forgotten to make room", "early_drop"
    ),
    # -- disk
    "disk.util": _disk("share", None, "of the time with a request in flight", "busy_ms", scale=1e-3),
    "disk.inflight": _level(DISKSTATS, "count", None, "requests in flight", "inflight", per="disk"),
    "disk.queue_depth": _disk("count", None, "requests in flight on average", "weighted_ms", scale=1e-3),
    "disk.read_ms": _took("a read took", "read_ms", "reads"),
    "disk.write_ms": _took("a write took", "write_ms", "writes"),
    "disk.flush_ms": _took("a flush of the disk's cache took", "flush_ms", "flushes"),
    "disk.reads_per_s": _disk("1/s", None, "read requests done", "reads"),
    "disk.writes_per_s": _disk("1/s", None, "write requests done", "writes"),
    "disk.flushes_per_s": _disk("1/s", None, "flushes of the disk's cache", "flushes"),
    "disk.discards_per_s": _disk("1/s", None, "discards (trim) done", "discards"),
    "disk.read_bytes_per_s": _disk("bytes/s", None, "read", "read_sectors", scale=512),
    "disk.write_bytes_per_s": _disk("bytes/s", None, "written", "write_sectors", scale=512),
    "disk.read_size_bytes": _size(DISKSTATS, "disk", "mean size of a read", "read_sectors", "reads", 512),
    "disk.write_size_bytes": _size(DISKSTATS, "disk", "mean size of a write", "write_sectors", "writes", 512),
    "disk.read_share": _part(
        DISKSTATS,
        None,
        "of bytes moved that were read",
        ("read_sectors",),
        ("read_sectors", "write_sectors"),
        per="disk",
    ),
    "disk.read_merge_share": _part(
        DISKSTATS,
        None,
        "of reads asked for that were merged into others",
        ("reads_merged",),
        ("reads_merged", "reads"),
        per="disk",
    ),
    "disk.write_merge_share": _part(
        DISKSTATS,
        None,
        "of writes asked for that were merged into others",
        ("writes_merged",),
        ("writes_merged", "writes"),
        per="disk",
    ),
    # -- cgroups (version 2), those below counted in
    **{
        f"cgroup.psi.{what}.{which}": _cgroup_rate(
            f"{what}.pressure", "share", DOWN, _STALL.format(_WHO[which]), which, scale=1e-6
        )
        for what in RESOURCES
        for which in _WHO
    },
    "cgroup.cpu.usage": _cgroup_rate(
        "cpu.stat", "s/s", None, "CPU seconds used a second", "usage_usec", scale=1e-6
    ),
    "cgroup.cpu.throttled": _cgroup_rate(
        "cpu.stat",
        "s/s",
        DOWN,
        "seconds its CPUs were held back by cpu.max, a second",
        "throttled_usec",
        scale=1e-6,
    ),
    "cgroup.cpu.throttled_share": _cgroup_share(
        "cpu.stat", Kind.RATIO, "of periods in which cpu.max held it back", "nr_throttled", "nr_periods"
    ),
    "cgroup.memory.current_bytes": _of_cgroup(
        "memory.current", Kind.LEVEL, "bytes", None, "memory it has, caches included", "0"
    ),
    "cgroup.memory.current_share": _cgroup_share(
        "memory.current",
        Kind.LEVEL_RATIO,
        "memory it has, of memory.max; unknown without a limit",
        "0",
        "0",
        "memory.max",
    ),
    "cgroup.memory.high_share": _cgroup_share(
        "memory.current",
        Kind.LEVEL_RATIO,
        "memory it has, of memory.high; unknown without one",
        "0",
        "0",
        "memory.high",
    ),
    "cgroup.memory.swap_bytes": _of_cgroup(
        "memory.swap.current", Kind.LEVEL, "bytes", DOWN, "swap it has", "0"
    ),
    "cgroup.memory.high_per_s": _cgroup_rate(
        "memory.events", "1/s", DOWN, "times it was held back at memory.high", "high"
    ),
    "cgroup.memory.max_per_s": _cgroup_rate("memory.events", "1/s", DOWN, "times it hit memory.max", "max"),
    "cgroup.memory.low_per_s": _cgroup_rate(
        "memory.events", "1/s", DOWN, "times it lost memory although below memory.low", "low"
    ),
    "cgroup.memory.oom_kills_per_s": _cgroup_rate(
        "memory.events", "1/s", DOWN, "processes killed for want of memory", "oom_kill"
    ),
    "cgroup.memory.refault_per_s": _cgroup_rate(
        "memory.stat", "pages/s", DOWN, "evicted and soon needed again", *REFAULT
    ),
    "cgroup.memory.pgscan_per_s": _cgroup_rate("memory.stat", "pages/s", DOWN, "scanned", "pgscan"),
    "cgroup.memory.pgsteal_per_s": _cgroup_rate("memory.stat", "pages/s", DOWN, "reclaimed", "pgsteal"),
    "cgroup.memory.pgmajfault_per_s": _cgroup_rate(
        "memory.stat", "1/s", DOWN, "page faults that had to read", "pgmajfault"
    ),
    "cgroup.io.read_bytes_per_s": _cgroup_rate("io.stat", "bytes/s", None, "read from disks", "rbytes"),
    "cgroup.io.write_bytes_per_s": _cgroup_rate("io.stat", "bytes/s", None, "written to disks", "wbytes"),
    "cgroup.pids.count": _of_cgroup("pids.current", Kind.LEVEL, "count", None, "tasks", "0"),
    "cgroup.pids.limit_share": _cgroup_share(
        "pids.current", Kind.LEVEL_RATIO, "tasks, of pids.max; unknown without a limit", "0", "0", "pids.max"
    ),
}

_APP = re.compile(r"app\.[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def cgroup_path(path: str) -> str | None:
    """The canonical form of a cgroup named below the root of cgroup2; None if it is no such name."""
    parts = path.strip("/").split("/")
    good = all(part not in ("", ".", "..") and "\0" not in part and "\n" not in part for part in parts)
    return "/".join(parts) if good else None


def find(name: str) -> Metric | None:
    """The metric of that name, with or without an instance (a glob too), or a program's."""
    base, at, instance = name.partition("@")
    metric = METRICS.get(base)
    if metric is None:
        reported = Metric("as reported", None, "metrics.sock", "reported by a program", Kind.REPORTED)
        return reported if _APP.fullmatch(name) else None
    if not at:
        return metric if metric.alone else None
    if metric.per == "cgroup":
        return metric if cgroup_path(instance) == instance else None
    return metric if metric.per and re.fullmatch(r"[^\s/]+", instance) else None


def known(name: str) -> bool:
    """May a policy name this metric? Whether this host has it is another matter: see `Sense.absent`."""
    return find(name) is not None


def of_cgroup(path: str) -> tuple[str, ...]:
    """The names of all pressures of one cgroup."""
    return tuple(f"{name}@{path}" for name in METRICS if name.startswith("cgroup.psi."))


def cgroups_in(names: Iterable[str]) -> tuple[str, ...]:
    """The cgroups (or globs) that these metrics are about, each once, in the order of their names."""
    return tuple(sorted({split(name)[1] for name in names if name.startswith("cgroup.") and known(name)}))


# what a name says without an instance, and what may stand behind the "@"
PER = {
    "": ("", ""),
    "cpu": ("all CPUs together", "`cpu0`"),
    "irq": ("all of them together", "the interrupt's number, `24`"),
    "disk": ("the busiest whole disk", "`sda`, `nvme0n1`, `dm-0`"),
    "nic": ("the busiest device with hardware behind it", "`eth0`, `lo`"),
    "cgroup": ("needs an instance", "`system.slice/nginx.service`, a path below the root of cgroup2"),
}


def markdown() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "What a rule may name (made by `python -m tuned_spec.sense.metrics`). Only what a loaded policy",
        "names is read; what this host lacks is absent, and `tuned-spec check` and `doctor` say why. A rate",
        "is over the time since the last look. *Better* is the good way, where there is one.",
        "",
        "`NAME@INSTANCE` is the figure of one disk, NIC, CPU, interrupt or cgroup, `NAME@GLOB` of each that",
        "matches and is there now (`*` and `?` stop at a `/`, `**` does not). The plain name is the host's:",
        "",
        "| per | plain name | instance |",
        "|---|---|---|",
        *(f"| {per} | {plain} | {example} |" for per, (plain, example) in PER.items() if per),
        "",
        "Programs report their own as `app.NAME`.",
    ]
    family = ""
    for name, metric in METRICS.items():
        if (group := name.partition(".")[0]) != family:
            family = group
            lines += [
                "",
                f"## {family}",
                "",
                "| metric | unit | better | per | what | source |",
                "|---|---|---|---|---|---|",
            ]
        way = str(metric.better) if metric.better else ""
        source = f"`{metric.source}`" + (f", `{metric.over_source}`" if metric.over_source else "")
        lines.append(f"| `{name}` | {metric.unit} | {way} | {metric.per} | {metric.doc} | {source} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
