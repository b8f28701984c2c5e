"""Reads /proc and PSI files into raw figures, through descriptors that stay open.

Owns paths, descriptors and file formats. Must not know what a figure is for, nor compute a rate.
A file that is missing, vanishes or cannot be understood is reported as absent with the reason, and
tried again every RETRY_S seconds; nothing here raises for what it finds on the host.
What is no such file (cgroups, sockets, performance counters) has a module of its own, imported when wanted.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from tuned_spec.sense import metrics
from tuned_spec.sense.reading import RETRY_S, Fields, Rows, Want

Parser = Callable[[bytes], Rows]

_CHUNK = 16384
_NUMBER = re.compile(rb" *(\d+)")
_PRESSURE = re.compile(rb"(some|full) avg10=(\d+\.\d+) .*total=(\d+)")
_MEMORY_BACKED = ("loop", "ram", "zram", "fd", "sr")
_STACKED = ("dm-", "md")  # what is below them is listed too
_SPEED_EVERY = 16  # looks: asking a NIC for its speed may wait for its driver

HINTS = {
    "/proc/pressure/irq": "needs Linux 6.1 with CONFIG_IRQ_TIME_ACCOUNTING, and psi=1",
    "/proc/pressure": "pressure stall information is off: boot with psi=1 (kernel built with CONFIG_PSI)",
    "/proc/schedstat": "this kernel was built without CONFIG_SCHEDSTATS",
    "/proc/sys/net/netfilter": "connections are not tracked here (nf_conntrack)",
    "/proc/net/stat/nf_conntrack": "connections are not tracked here (nf_conntrack)",
    metrics.CGROUP2: "no such cgroup now, or its PSI is off (cgroup.pressure)",
    "/proc/net/snmp6": "IPv6 is off",
    "/proc/net/sockstat6": "IPv6 is off",
    "/proc/sys/net/ipv6": "IPv6 is off",
    "/sys/kernel/mm/ksm": "this kernel was built without CONFIG_KSM",
}


class Source(Protocol):
    """Something that gives figures. `why` says why the last `read` gave nothing, "" if it gave something."""

    name: str
    why: str

    def read(self, t: float) -> Rows | None: ...

    def close(self) -> None: ...


class File:
    """A source that is one file, kept open."""

    def __init__(self, name: str, path: Path, parse: Parser) -> None:
        self.name, self.path, self.parse = name, path, parse
        self.why = ""
        self._fd = -1
        self._retry_at = float("-inf")

    def read(self, t: float) -> Rows | None:
        if self._fd < 0 and t < self._retry_at:
            return None
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            rows = self.parse(_whole(self._fd))
        except OSError as error:
            self._fail(t, _explain(self.name, error))
        except (ValueError, IndexError) as error:
            self._fail(t, f"in a format that is not understood: {error}")
        else:
            self.why = ""
            return rows
        return None

    def _fail(self, t: float, why: str) -> None:
        self.close()
        self.why = f"{self.path}: {why}"
        self._retry_at = t + RETRY_S

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _whole(fd: int) -> bytes:
    """The file from its start. A seq_file gives a page or so a read, so until it gives nothing."""
    data = os.pread(fd, _CHUNK, 0)
    while more := os.pread(fd, _CHUNK, len(data)):
        data += more
    return data


def _explain(name: str, error: OSError) -> str:
    hint = next((hint for start, hint in HINTS.items() if name.startswith(start)), "")
    missing = error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
    return f"{os.strerror(error.errno or 0)}; {hint}" if missing and hint else os.strerror(error.errno or 0)


# ---------------------------------------------------------------------------------- formats


def _keyed(separator: str, fields: Iterable[str]) -> Parser:
    """Lines of `name<separator>number`: finds the few that are wanted instead of splitting them all."""
    needles = [(field, f"\n{field}{separator}".encode()) for field in fields]

    def parse(data: bytes) -> Rows:
        data = b"\n" + data
        row: Fields = {}
        for field, needle in needles:
            at = data.find(needle)
            if at >= 0 and (number := _NUMBER.match(data, at + len(needle))):
                row[field] = int(number[1])
        return {"": row}

    return parse


def _vmstat(want: Want) -> Parser:
    return _keyed(" ", want.fields)


def _meminfo(want: Want) -> Parser:
    used = "SwapUsed" in want.fields
    keyed = _keyed(":", {*want.fields, "SwapFree", "SwapTotal"} if used else want.fields)

    def parse(data: bytes) -> Rows:
        rows = keyed(data)
        row = rows[""]
        if used and "SwapTotal" in row and "SwapFree" in row:
            row["SwapUsed"] = row["SwapTotal"] - row["SwapFree"]
        return rows

    return parse


_STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def _stat(want: Want) -> Parser:
    keyed = _keyed(" ", [field for field in want.fields if field not in _STATES])
    cpus = re.compile(rb"^(cpu\d+) (.*)$" if want.rows else rb"(?!)", re.MULTILINE)

    def parse(data: bytes) -> Rows:
        rows = keyed(data)
        if data.startswith(b"cpu "):
            ticks = data[4 : data.index(b"\n")].split()
            rows[""].update(zip(_STATES, map(int, ticks), strict=False))
        for name, line in cpus.findall(data):
            rows[name.decode("ascii")] = dict(zip(_STATES, map(int, line.split()), strict=False))
        return rows

    return parse


def _schedstat(want: Want) -> Parser:
    def parse(data: bytes) -> Rows:
        cpus = (line.split() for line in data.splitlines() if line.startswith(b"cpu"))
        return {cpu[0].decode("ascii"): {"wait_ns": int(cpu[8])} for cpu in cpus}

    return parse


def _softirqs(want: Want) -> Parser:
    """A column each CPU, a line each kind; `TASKLET` holds the urgent ones (`HI`) too."""

    def parse(data: bytes) -> Rows:
        header, *lines = data.splitlines()
        cpus = [cpu.decode("ascii").lower() for cpu in header.split()]
        rows: Rows = {cpu: {} for cpu in cpus}
        for line in lines:
            kind, _, counts = line.decode("ascii").partition(":")
            field = kind.strip().replace("HI", "TASKLET") if kind.strip() == "HI" else kind.strip()
            if field in want.fields:
                for cpu, count in zip(cpus, counts.split(), strict=False):
                    rows[cpu][field] = rows[cpu].get(field, 0) + int(count)
        return rows

    return parse


def _interrupts(want: Want) -> Parser:
    """Numbered interrupts, their CPUs added up."""

    def parse(data: bytes) -> Rows:
        header, *lines = data.splitlines()
        cpus = len(header.split())
        words = (line.split(None, cpus + 1) for line in lines)
        return {
            word[0][:-1].decode("ascii"): {"count": sum(map(int, word[1 : cpus + 1]))}
            for word in words
            if word and word[0][:-1].isdigit()
        }

    return parse


def _loadavg(want: Want) -> Parser:
    def parse(data: bytes) -> Rows:
        return {"": {"tasks": int(data.split()[3].partition(b"/")[2])}}

    return parse


def _numbers(want: Want) -> Parser:
    """A file that is one or a few numbers: the fields are "0", "1", ...; words (`max`) are no numbers."""

    def parse(data: bytes) -> Rows:
        words = enumerate(data.split())
        return {"": {str(at): int(word) for at, word in words if word.isdigit()}}

    return parse


@functools.lru_cache(maxsize=32)
def _columns(header: bytes) -> dict[str, int]:
    return {name.decode("ascii"): at for at, name in enumerate(header.split())}


def _two_lines(want: Want) -> Parser:
    """Pairs of lines `Group: names` and `Group: numbers`, as in net/snmp and net/netstat."""
    groups: dict[str, list[str]] = {}
    for field in want.fields:
        group, _, name = field.partition(".")
        groups.setdefault(group, []).append(name)

    def parse(data: bytes) -> Rows:
        data = b"\n" + data
        row: Fields = {}
        for group, names in groups.items():
            start = f"\n{group}: ".encode()
            head = data.find(start)
            body = data.find(start, head + 1)
            if head < 0 or body < 0:
                continue
            columns = _columns(data[head + 1 : body])
            numbers = data[body + 1 : data.index(b"\n", body + 1)].split()
            row.update({f"{group}.{name}": int(numbers[columns[name]]) for name in names if name in columns})
        return {"": row}

    return parse


def _snmp6(want: Want) -> Parser:
    needles = {field.encode(): field for field in want.fields}
    line = re.compile(rb"^(" + b"|".join(map(re.escape, needles)) + rb")\s+(\d+)", re.MULTILINE)

    def parse(data: bytes) -> Rows:
        return {"": {needles[name]: int(count) for name, count in line.findall(data)}}

    return parse


def _sockstat(want: Want) -> Parser:
    """`TCP: inuse 1 orphan 0`: the fields are `TCP.inuse`, `TCP.orphan`."""

    def parse(data: bytes) -> Rows:
        row: Fields = {}
        for line in data.decode("ascii").splitlines():
            group, _, rest = line.partition(":")
            words = rest.split()
            row.update(
                {f"{group}.{name}": int(count) for name, count in zip(words[::2], words[1::2], strict=True)}
            )
        return {"": {field: row[field] for field in want.fields if field in row}}

    return parse


_SOFTNET = {"processed": 0, "dropped": 1, "squeezed": 2, "received_rps": 9, "flow_limited": 10, "backlog": 11}


def _softnet(want: Want) -> Parser:
    """Hexadecimal, a line each online CPU; column 12 is the CPU's number since Linux 5.10."""

    def parse(data: bytes) -> Rows:
        rows: Rows = {}
        for at, line in enumerate(data.splitlines()):
            words = line.split()
            cpu = f"cpu{int(words[12], 16)}" if len(words) > 12 else f"line {at}"
            columns = [(field, _SOFTNET[field]) for field in want.fields]
            rows[cpu] = {field: int(words[column], 16) for field, column in columns if column < len(words)}
        return rows

    return parse


def _per_cpu_hex(want: Want) -> Parser:
    """A header and a line each CPU, hexadecimal: added up, but for `entries`: the table's, on each line."""

    def parse(data: bytes) -> Rows:
        columns = _columns(data[: data.index(b"\n")])
        lines = [line.split() for line in data.splitlines()[1:]]
        sums: Fields = {
            field: sum(int(line[columns[field]], 16) for line in lines[: 1 if field == "entries" else None])
            for field in want.fields
            if field in columns
        }
        return {"": sums}

    return parse


_NETDEV = ("bytes", "packets", "errs", "drop", "fifo")
_NETDEV_COLUMNS = {
    f"{way}_{name}": at + n for way, at in (("rx", 0), ("tx", 8)) for n, name in enumerate(_NETDEV)
}


def _netdev(want: Want) -> Parser:
    """Network devices; those without hardware (lo, bridges, tunnels) only stand for themselves."""
    net = want.root / "sys/class/net"
    busy = ("rx_bytes", "tx_bytes")  # by these the busiest is found
    columns = {field: at for field, at in _NETDEV_COLUMNS.items() if field in (*want.fields, *busy)}
    speeds: dict[str, float | None] = {}
    looks = 0

    @functools.lru_cache(maxsize=1024)
    def hardware(name: str) -> bool:
        return (net / name / "device").exists()

    def speed(name: str) -> float | None:
        """Bytes a second of the link; None for one that is down or does not say."""
        try:
            megabits = int((net / name / "speed").read_text())
        except (OSError, ValueError):
            return None
        return megabits * 125_000.0 if megabits > 0 else None

    def parse(data: bytes) -> Rows:
        nonlocal looks
        if looks % _SPEED_EVERY == 0:
            speeds.clear()
        looks += 1
        rows: Rows = {}
        for line in data.decode("utf-8", "surrogateescape").splitlines()[2:]:
            name, _, counts = line.strip().rpartition(": ")
            aside = not hardware(name)
            if aside and not want.rows:
                continue
            words = counts.split()
            row: Fields = {field: int(words[at]) for field, at in columns.items()}
            if aside:
                row["aside"] = 1
            if "speed" in want.fields:
                if name not in speeds:
                    speeds[name] = speed(name)
                if (known := speeds[name]) is not None:
                    row["speed"] = known
            rows[name] = row
        return rows

    return parse


_DISK = (
    *("reads", "reads_merged", "read_sectors", "read_ms"),
    *("writes", "writes_merged", "write_sectors", "write_ms"),
    *("inflight", "busy_ms", "weighted_ms"),
    *("discards", "discards_merged", "discard_sectors", "discard_ms", "flushes", "flush_ms"),
)


def _diskstats(want: Want) -> Parser:
    """Whole disks: those that /sys/block lists, less memory-backed and removable ones; stacked ones only
    stand for themselves."""
    block = want.root / "sys/block"
    busy = ("busy_ms", "read_sectors", "write_sectors", "inflight")  # by these the busiest is found
    columns = [(field, at) for at, field in enumerate(_DISK, 3) if field in (*want.fields, *busy)]

    @functools.lru_cache(maxsize=1024)
    def whole(name: str) -> bool:
        return not name.startswith(_MEMORY_BACKED) and (block / name).exists()

    def parse(data: bytes) -> Rows:
        rows: Rows = {}
        for line in data.splitlines():
            words = line.split()
            name = words[2].decode("ascii").replace("/", "!")  # as sysfs writes it
            aside = name.startswith(_STACKED)
            if (aside and not want.rows) or not whole(name):
                continue
            rows[name] = {field: int(words[at]) for field, at in columns if at < len(words)}
            if aside:
                rows[name]["aside"] = 1
        return rows

    return parse


def _pressure(want: Want) -> Parser:
    def parse(data: bytes) -> Rows:
        row: Fields = {}
        for which, avg10, total in _PRESSURE.findall(data):
            kind = which.decode("ascii")
            row[kind] = int(total)
            row[f"{kind}.avg10"] = float(avg10)
        return {"": row}

    return parse


PARSERS: dict[str, Callable[[Want], Parser]] = {
    metrics.STAT: _stat,
    metrics.VMSTAT: _vmstat,
    metrics.MEMINFO: _meminfo,
    metrics.SNMP: _two_lines,
    metrics.NETSTAT: _two_lines,
    metrics.SNMP6: _snmp6,
    metrics.SOCKSTAT: _sockstat,
    metrics.SOCKSTAT6: _sockstat,
    metrics.SOFTNET: _softnet,
    metrics.NETDEV: _netdev,
    metrics.ARP: _per_cpu_hex,
    metrics.NDISC: _per_cpu_hex,
    metrics.CONNTRACK: _per_cpu_hex,
    metrics.DISKSTATS: _diskstats,
    metrics.SCHEDSTAT: _schedstat,
    metrics.LOADAVG: _loadavg,
    metrics.SOFTIRQS: _softirqs,
    metrics.INTERRUPTS: _interrupts,
    **dict.fromkeys(metrics.PRESSURE.values(), _pressure),
}  # all others are a few numbers


def open_source(name: str, want: Want) -> Source:
    kind = (
        name.partition(":")[0] if want.root == Path("/") else ""
    )  # a tree has no kernel that could be asked
    match kind:
        case metrics.SOCK_DIAG:
            from tuned_spec.sense.sockets import Sockets

            return Sockets(want.fields)
        case "perf":
            from tuned_spec.sense.perf import Counters

            return Counters(name, want.fields)
    parse = PARSERS.get(name, _numbers)(want)
    return File(name, want.root / name.lstrip("/"), parse)
