"""Knobs that are files of /proc, /sys and cgroup2: one small text each, one write(2) a value.

Standard library only, Python 3.9: repair.py uses it too.
"""

from __future__ import annotations

import errno
import os


def read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A sysctl or sysfs attribute is one page at most, and comes whole in one read.
        return os.read(fd, 65536).decode("utf-8", "replace").strip()
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
