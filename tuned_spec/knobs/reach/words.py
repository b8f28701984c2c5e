"""Switches of which many share one file: `words:/sys/kernel/debug/sched/features/NEXT_BUDDY`.

The file shows each as its name, or as NO_ and its name where it is off, and takes one such word at a time.
As text a switch is 1 or 0. Standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import os

from . import files


def read(address: str) -> str:
    path, name = _split(address)
    words = files.read(path).split()
    if name in words:
        return "1"
    if "NO_" + name in words:
        return "0"
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address)


def write(address: str, text: str) -> None:
    path, name = _split(address)
    if text not in ("0", "1"):
        raise OSError(errno.EINVAL, f"{text!r} is neither 0 nor 1")
    files.write(path, name if text == "1" else "NO_" + name)


def usable(address: str) -> None:
    files.usable(_split(address)[0])


def _split(address: str) -> tuple[str, str]:
    path, _, name = address.partition(":")[2].rpartition("/")
    return path, name
