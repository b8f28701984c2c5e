"""Reads /proc, PSI and cgroup2 files into raw figures, through descriptors that stay open.

Owns paths, descriptors and file formats. Must not know what a figure is for, nor compute a rate.
A file that is missing, vanishes or cannot be understood is reported as absent with the reason, and
tried again every RETRY_S seconds; nothing here raises for what it finds on the host.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from tuned_spec.sense import metrics

Fields = dict[str, float]  # counters are ints and stay exact; only PSI averages are fractions
Rows = dict[str, Fields]  # a row a CPU, a disk, or just "" for files without rows
Parser = Callable[[bytes], Rows]

RETRY_S = 10.0
_CHUNK = 16384
_NUMBER = re.compile(rb" *(\d+)")
_PRESSURE = re.compile(rb"(some|full) avg10=(\d+\.\d+) .*total=(\d+)")
_MEMORY_BACKED = ("loop", "ram", "zram", "fd", "sr")
_STACKED = ("dm-", "md")  # what is below them is listed too

HINTS = {
    "/proc/pressure": "pressure stall information is off: boot with psi=1 (kernel built with CONFIG_PSI)",
    "/proc/schedstat": "this kernel was built without CONFIG_SCHEDSTATS",
    metrics.CGROUP2: "no such cgroup now, or its PSI is off (cgroup.pressure)",
}


class Reading(msgspec.Struct, frozen=True):
    """The raw figures of one moment. A source that is not in it could not be read."""

    t: float
    sources: dict[str, Rows]


class Source:
    """One file, kept open. `why` says why the last `read` gave nothing, "" if it gave something."""

    def __init__(self, name: str, path: Path | None, parse: Parser) -> None:
        self.name, self.path, self.parse = name, path, parse
        self.why = "" if path else "no cgroup2 file system is mounted on this host"
        self._fd = -1
        self._retry_at = float("-inf")

    def read(self, t: float) -> Rows | None:
        if self.path is None or (self._fd < 0 and t < self._retry_at):
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


def _keyed(separator: str, fields: Collection[str]) -> Parser:
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


def _vmstat(fields: Collection[str], root: Path) -> Parser:
    return _keyed(" ", fields)


def _meminfo(fields: Collection[str], root: Path) -> Parser:
    keyed = _keyed(":", {*fields, "SwapFree"})

    def parse(data: bytes) -> Rows:
        rows = keyed(data)
        row = rows[""]
        if "SwapTotal" in row and "SwapFree" in row:
            row["SwapUsed"] = row["SwapTotal"] - row["SwapFree"]
        return rows

    return parse


def _stat(fields: Collection[str], root: Path) -> Parser:
    keyed = _keyed(" ", ("ctxt", "intr", "processes", "procs_running", "procs_blocked"))
    states = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")

    def parse(data: bytes) -> Rows:
        rows = keyed(data)
        if data.startswith(b"cpu "):
            ticks = data[4 : data.index(b"\n")].split()
            rows[""].update(zip(states, map(int, ticks), strict=False))
        return rows

    return parse


def _schedstat(fields: Collection[str], root: Path) -> Parser:
    def parse(data: bytes) -> Rows:
        cpus = (line.split() for line in data.splitlines() if line.startswith(b"cpu"))
        return {cpu[0].decode("ascii"): {"wait_ns": int(cpu[8])} for cpu in cpus}

    return parse


@functools.lru_cache(maxsize=32)
def _columns(header: bytes) -> dict[str, int]:
    return {name.decode("ascii"): at for at, name in enumerate(header.split())}


def _two_lines(fields: Collection[str], root: Path) -> Parser:
    """Pairs of lines `Group: names` and `Group: numbers`, as in net/snmp and net/netstat."""
    groups: dict[str, list[str]] = {}
    for field in fields:
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


def _sockstat(fields: Collection[str], root: Path) -> Parser:
    tw = re.compile(rb"^TCP: .*\btw (\d+)", re.MULTILINE)

    def parse(data: bytes) -> Rows:
        found = tw.search(data)
        return {"": {"tw": int(found[1])} if found else {}}

    return parse


def _softnet(fields: Collection[str], root: Path) -> Parser:
    """Hexadecimal, a line each online CPU; column 12 is the CPU's number since Linux 5.10."""

    def parse(data: bytes) -> Rows:
        rows: Rows = {}
        for at, line in enumerate(data.splitlines()):
            words = line.split()
            cpu = str(int(words[12], 16)) if len(words) > 12 else f"line {at}"
            rows[cpu] = {"dropped": int(words[1], 16), "squeezed": int(words[2], 16)}
        return rows

    return parse


def _diskstats(fields: Collection[str], root: Path) -> Parser:
    """Whole disks only: those that /sys/block lists, less memory-backed, removable and stacked ones."""
    block = root / "sys/block"
    columns = dict(
        zip(
            (
                "reads",
                "read_sectors",
                "read_ms",
                "writes",
                "write_sectors",
                "write_ms",
                "inflight",
                "busy_ms",
            ),
            (3, 5, 6, 7, 9, 10, 11, 12),
            strict=True,
        )
    )

    @functools.lru_cache(maxsize=1024)
    def whole(name: str) -> bool:
        if name.startswith(_MEMORY_BACKED + _STACKED):
            return False
        return (block / name.replace("/", "!")).exists()

    def parse(data: bytes) -> Rows:
        lines = (line.split() for line in data.splitlines())
        return {
            name: {field: int(words[at]) for field, at in columns.items()}
            for words in lines
            if whole(name := words[2].decode("ascii"))
        }

    return parse


def _pressure(fields: Collection[str], root: Path) -> Parser:
    def parse(data: bytes) -> Rows:
        row: Fields = {}
        for which, avg10, total in _PRESSURE.findall(data):
            kind = which.decode("ascii")
            row[kind] = int(total)
            row[f"{kind}.avg10"] = float(avg10)
        return {"": row}

    return parse


PARSERS: dict[str, Callable[[Collection[str], Path], Parser]] = {
    metrics.STAT: _stat,
    metrics.VMSTAT: _vmstat,
    metrics.MEMINFO: _meminfo,
    metrics.SNMP: _two_lines,
    metrics.NETSTAT: _two_lines,
    metrics.SOCKSTAT: _sockstat,
    metrics.SOFTNET: _softnet,
    metrics.DISKSTATS: _diskstats,
    metrics.SCHEDSTAT: _schedstat,
}  # all others are pressure files


# ------------------------------------------------------------------------------------ places


def cgroup2_root(root: Path) -> Path | None:
    """Where cgroup2 is mounted, from mountinfo; None if it is not (or mountinfo cannot be read).

    Hybrid layouts have it beside the version 1 controllers, mostly at /sys/fs/cgroup/unified.
    """
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, filesystem = line.partition(" - ")
        if filesystem.startswith("cgroup2 "):
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split()[4])
            return root / point.lstrip("/")
    return None


def locate(name: str, root: Path, cgroup2: Path | None) -> Path | None:
    """The path of a source; None for a cgroup's while there is no cgroup2."""
    if not name.startswith(metrics.CGROUP2):
        return root / name.lstrip("/")
    return cgroup2 / name[len(metrics.CGROUP2) + 1 :] if cgroup2 else None


def open_source(name: str, fields: Collection[str], root: Path, cgroup2: Path | None) -> Source:
    parse = PARSERS.get(name, _pressure)(fields, root)
    return Source(name, locate(name, root, cgroup2), parse)
