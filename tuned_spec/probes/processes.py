"""Which processes use most of a resource, over one window, from /proc/PID.

Owns the formats of /proc/PID/{stat,io,cmdline,cgroup} (proc(5)). A process's name, command line and cgroup
are whatever somebody chose: made plain and starred.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tuned_spec.probes.answer import WINDOW_S, Unanswered, answer, figure
from tuned_spec.probes.redact import command, plain, starred

TOP = 10
MOST = 32_768  # processes looked at
ARGV_READ, ARGV_SHOWN, CGROUP_SHOWN = 4096, 120, 160

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_UTIME, _STIME, _START, _RSS = 11, 12, 19, 21  # behind the name: fields 14, 15, 22 and 24 of proc(5)


class Used(NamedTuple):
    name: bytes
    start: int  # ticks after boot: with the pid, which process it is
    cpu_s: float
    rss_bytes: int
    read_bytes: int = 0
    written_bytes: int = 0


class Row(NamedTuple):
    pid: int
    used: Used
    cpu: float  # of one CPU
    read: float  # bytes a second
    written: float


def top(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """`args`: by, a resource."""
    by, proc = args["by"], f"{root}/proc"
    began, before = time.monotonic(), look(proc, by)
    time.sleep(WINDOW_S)
    seconds, now = time.monotonic() - began, look(proc, by)
    if not now:
        raise Unanswered(f"top_processes: no process{' shows its I/O' if by == 'io' else ''} in {proc}")
    rows = ranked(before, now, seconds, by)
    facts = {"by": by, "over_s": figure(seconds), "processes": len(now)}
    return answer(facts, {"top": [told(proc, row, by) for row in rows]})


def look(proc: str, by: str) -> dict[int, Used]:
    """What each process has used so far; those that end meanwhile, or may not be seen, are left out."""
    found = {}
    pids = [int(name) for name in os.listdir(proc) if name.isdigit()]  # noqa: PTH208 (of 10,000, a Path each)
    for pid in pids[:MOST]:
        try:
            used = parse(_read(f"{proc}/{pid}/stat"))
            if by == "io":
                io = dict(line.split(b": ") for line in _read(f"{proc}/{pid}/io").splitlines())
                used = used._replace(read_bytes=int(io[b"read_bytes"]), written_bytes=int(io[b"write_bytes"]))
        except (OSError, ValueError, IndexError, KeyError):
            continue
        found[pid] = used
    return found


def parse(stat: bytes) -> Used:
    """/proc/PID/stat. A name may hold blanks, brackets and line ends, so it goes to the last bracket."""
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    cpu_s = (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS
    return Used(name, int(fields[_START]), cpu_s, int(fields[_RSS]) * _PAGE)


def ranked(before: Mapping[int, Used], now: Mapping[int, Used], seconds: float, by: str) -> list[Row]:
    """The TOP of them, most first; what used nothing is none of them."""
    rows = []
    for pid, used in now.items():
        then = before.get(pid)
        if then is None or then.start != used.start:  # began within the window
            then = Used(used.name, used.start, 0.0, 0)
        rows.append(
            Row(
                pid,
                used,
                (used.cpu_s - then.cpu_s) / seconds,
                (used.read_bytes - then.read_bytes) / seconds,
                (used.written_bytes - then.written_bytes) / seconds,
            )
        )

    def weight(row: Row) -> float:
        return {"cpu": row.cpu, "memory": row.used.rss_bytes, "io": row.read + row.written}[by]

    return heapq.nlargest(TOP, (row for row in rows if weight(row) > 0), key=weight)


def told(proc: str, row: Row, by: str) -> dict[str, object]:
    """One process, as it is shown."""
    figures: dict[str, object] = {"cpu_share": figure(row.cpu), "rss_bytes": row.used.rss_bytes}
    if by == "io":
        figures |= {"read_bytes_per_s": figure(row.read), "write_bytes_per_s": figure(row.written)}
    name = plain(row.used.name.decode(errors="replace"))
    texts = {"name": name, "argv": _argv(proc, row.pid), "cgroup": _cgroup(proc, row.pid)}
    return {"pid": row.pid, **figures, **{key: text for key, text in texts.items() if text}}


def _argv(proc: str, pid: int) -> str:
    """ "" of a kernel thread."""
    try:
        raw = _read(f"{proc}/{pid}/cmdline", ARGV_READ)
    except OSError:
        return ""
    if len(raw) == ARGV_READ:  # the last word is a part of one: half a secret does not look like one
        raw = raw.rpartition(b"\0")[0] or raw.rpartition(b" ")[0]
    return command(raw.rstrip(b"\0").decode(errors="replace").split("\0"))[:ARGV_SHOWN]


def _cgroup(proc: str, pid: int) -> str:
    """Its path in cgroup2, below the root; "" where there is none."""
    try:
        lines = _read(f"{proc}/{pid}/cgroup").split(b"\n")
    except OSError:
        return ""
    path = next((line[4:] for line in lines if line.startswith(b"0::/")), b"")
    return starred(plain(path.decode(errors="replace")))[:CGROUP_SHOWN]


def _read(path: str, most: int = 4096) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
