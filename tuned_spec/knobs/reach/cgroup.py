"""Files of cgroup v2 that hold more than one number, or show it in another form than they take it.

    cgroup:/sys/fs/cgroup/a/cpu.uclamp.min       hundredths of a percent: `12.34` is 1234, `max` is 10000
    cgroup:/sys/fs/cgroup/a/io.weight            of `default 100` and a line for each disk: the default
    cgroup:/sys/fs/cgroup/a/io.max/8:0/rbps      one limit of one disk; a disk without a line has `max`
    cgroup:/sys/fs/cgroup/a/io.latency/8:0/target     microseconds; a disk without a line has 0, none
    cgroup:/sys/fs/cgroup/a/cpuset.cpus          a list; empty is the parent's
    cgroup:/sys/fs/cgroup/a/memory.reclaim       a deed: bytes to reclaim now; reads back as 0

Owns these forms. Must not know of knobs or the journal. Standard library only, Python 3.9: the repair uses it
too.

Source of the forms: Documentation/admin-guide/cgroup-v2.rst.
"""

# Paths are strings here: the way back imports little.
# ruff: noqa: PTH116, PTH119

from __future__ import annotations

import errno
import os

from . import files

# What a file says of a disk that it has no line for
_NO_LINE = {"io.max": "max", "io.latency": "0"}


def read(address: str) -> str:
    path, disk, key = split(address)
    name = os.path.basename(path)
    if name == "memory.reclaim":
        os.stat(path)  # write-only: gone is gone
        return "0"
    text = files.read(path)
    if disk:
        return _of_disk(text, disk).get(key, _NO_LINE[name])
    if name == "io.weight":
        return _of_disk(text, "default").get("", "100")
    if name.startswith("cpu.uclamp."):
        return "10000" if text.strip() == "max" else str(round(float(text) * 100))
    return text


def write(address: str, text: str) -> None:
    """OSError; not EAGAIN of memory.reclaim: less could be had than was asked for, and that was done."""
    path, disk, key = split(address)
    name = os.path.basename(path)
    if name == "memory.reclaim" and text == "0":
        return
    if disk:
        data = f"{disk} {key}={text}"
    elif name == "io.weight":
        data = f"default {text}"
    elif name.startswith("cpu.uclamp."):
        data = f"{int(text) // 100}.{int(text) % 100:02}"
    else:
        data = text + "\n"  # without it an empty list would be a write of nothing
    try:
        files.write(path, data)
    except BlockingIOError:
        if name != "memory.reclaim":
            raise


def usable(address: str) -> None:
    """OSError; EBUSY for an empty list of CPUs or nodes, to which no write leads back."""
    path = split(address)[0]
    files.usable(path)
    if os.path.basename(path).startswith("cpuset.") and not files.read(path):
        # validate_change() of kernel/cgroup/cpuset.c: ENOSPC while there are tasks
        what = f"{path} is empty, and cannot be emptied again while it has tasks; give it its parent's list"
        raise OSError(errno.EBUSY, what)


def split(address: str) -> tuple[str, str, str]:
    """Path, disk as MAJOR:MINOR, key of its line; the last two are "" for a file without lines."""
    path = address.partition(":")[2]
    head, _, key = path.rpartition("/")
    file, _, disk = head.rpartition("/")
    return (file, disk, key) if os.path.basename(file) in _NO_LINE else (path, "", "")


def _of_disk(text: str, disk: str) -> dict[str, str]:
    """`8:0 rbps=max wbps=1048576` -> the limits by key; `default 100` -> "" is its one value."""
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name == disk:
            pairs = [word.partition("=") for word in rest.split()]
            return {k if eq else "": v if eq else k for k, eq, v in pairs}
    return {}
