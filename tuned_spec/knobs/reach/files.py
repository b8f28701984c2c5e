"""Knobs that are files of /proc, /sys and cgroup2: one small text each, one write(2) a value.

Standard library only, Python 3.9: repair.py uses it too.
"""

from __future__ import annotations

import errno
import os

# What sysfs shows is one at most. The kernel zeroes as much memory as a reader of a sysctl asks for: 64 KiB
# take it longer than all the rest.
_PAGE = 4096


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(fd, _PAGE)
        while len(part) == _PAGE:  # a bitmap or an allowed list, as of many ports
            part = os.read(fd, _PAGE)
            data += part
        return data.decode("utf-8", "replace").strip()
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    # Neither O_CREAT nor O_TRUNC: a knob that is gone must not become a file.
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        data = text.encode()
        if os.write(fd, data) != len(data):
            raise OSError(errno.EIO, f"the kernel took a part of {text!r}")
    finally:
        os.close(fd)


def usable(path: str) -> None:
    """Opened and closed. access(2) would not do: it knows neither lockdown nor a read-only mount."""
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
