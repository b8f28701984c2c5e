"""Requests that last as long as somebody holds them: `held:/dev/cpu_dma_latency`.

The file shows the strictest of all requests; writing makes one, closing takes it back. So the descriptor is
kept open here, in the process that wrote, and the kernel drops the request with that process, however it
dies: there is nothing left to repair. Standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import os
import struct

_NUMBER = struct.Struct("=i")
_held: dict[str, tuple[int, str]] = {}  # path -> the descriptor, and what was shown before there was one


def read(address: str) -> str:
    fd = os.open(_path(address), os.O_RDONLY | os.O_CLOEXEC)
    try:
        shown = os.read(fd, _NUMBER.size)
    finally:
        os.close(fd)
    if len(shown) != _NUMBER.size:
        raise OSError(errno.EIO, f"{address} shows {len(shown)} bytes, not one number")
    return str(_NUMBER.unpack(shown)[0])


def write(address: str, text: str) -> None:
    """Makes or changes our request; the text that was shown before it takes it back."""
    path = _path(address)
    fd, before = _held.get(path, (-1, ""))
    if fd < 0:
        before = read(address)
    if text == before:
        _held.pop(path, None)
        if fd >= 0:
            os.close(fd)
        return
    try:
        data = _NUMBER.pack(int(text))
    except (ValueError, struct.error):
        raise OSError(errno.EINVAL, f"{text!r} is not a number that {path} takes") from None
    if fd < 0:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError:
        if path not in _held:
            os.close(fd)
        raise
    _held[path] = (fd, before)


def usable(address: str) -> None:
    # Opening is a request for nothing.
    os.close(os.open(_path(address), os.O_WRONLY | os.O_CLOEXEC))


def _path(address: str) -> str:
    return address.partition(":")[2]
