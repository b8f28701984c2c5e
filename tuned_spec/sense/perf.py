"""Counters of perf_event_open(2), one set a CPU, all programs and the kernel together.

Owns the system call (there is no wrapper in libc) and the layout of its struct. Must not know what a figure
is for. Imported only when such a metric is wanted: ctypes alone takes a megabyte. From perf_event_open(2) and
include/uapi/linux/perf_event.h. Counting a whole CPU needs CAP_PERFMON, or kernel.perf_event_paranoid at 0 or
below; hardware counters are missing on most virtual machines (ENOENT). Both are reasons, not errors.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from tuned_spec.sense.reading import RETRY_S, Rows

# event -> type (PERF_TYPE_HARDWARE 0, PERF_TYPE_SOFTWARE 1), config
EVENTS = {
    "cycles": (0, 0),
    "instructions": (0, 1),
    "context-switches": (1, 3),
    "cpu-migrations": (1, 4),
}
# __NR_perf_event_open; `generic` is the table that newer architectures share
_SYSCALL = {"x86_64": 298, "i686": 336, "ppc64le": 319, "s390x": 331, "armv7l": 364}
_GENERIC = 241
_SIZE = 112  # PERF_ATTR_SIZE_VER5: known to every kernel that we are for
# type, size, config, sample period and type, read format, flags; the rest is zero
_ATTR = struct.Struct(f"=IIQQQQQ{_SIZE - 48}x")
_FORMAT = 0b1011  # time enabled, time running, group
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC

_HINTS = {
    errno.ENOENT: "this host has no such counter (most virtual machines have no hardware counters)",
    errno.EOPNOTSUPP: "this host has no such counter (most virtual machines have no hardware counters)",
    errno.EACCES: "needs root, CAP_PERFMON, or kernel.perf_event_paranoid at 0 or below",
    errno.EPERM: "needs root, CAP_PERFMON, or kernel.perf_event_paranoid at 0 or below",
    errno.ENOSYS: "this kernel was built without CONFIG_PERF_EVENTS",
    errno.EMFILE: "too many descriptors: one is needed for each CPU and event",
}


class Counters:
    """A source: a row a CPU that was online when it was opened, with the events in `fields`.

    Where the hardware has fewer counters than are asked for it takes turns; figures are then scaled up, as
    the man page says.
    """

    def __init__(self, name: str, fields: tuple[str, ...]) -> None:
        self.name, self.why = name, ""
        self._events = fields
        self._fds: dict[str, list[int]] = {}  # CPU -> its group, leader first
        self._retry_at = float("-inf")

    def read(self, t: float) -> Rows | None:
        if not self._fds and t < self._retry_at:
            return None
        try:
            if not self._fds:
                self._open()
            rows = {cpu: self._counts(fds[0]) for cpu, fds in self._fds.items()}
        except OSError as error:
            self.close()
            self._retry_at = t + RETRY_S
            hint = _HINTS.get(error.errno or 0, "")
            why = f"perf_event_open {'+'.join(self._events)}: {error.strerror}"
            self.why = f"{why}; {hint}" if hint else why
            return None
        self.why = ""
        return rows

    def close(self) -> None:
        for fds in self._fds.values():
            for fd in fds:
                os.close(fd)
        self._fds = {}

    def _open(self) -> None:
        for cpu in sorted(os.sched_getaffinity(0) | _online()):
            fds = self._fds[f"cpu{cpu}"] = []
            for event in self._events:
                fds.append(_perf_event_open(*EVENTS[event], cpu, fds[0] if fds else -1))

    def _counts(self, leader: int) -> dict[str, float]:
        count = len(self._events)
        _, enabled, running, *values = struct.unpack(f"={3 + count}Q", os.read(leader, 8 * (3 + count)))
        if not running:  # it has not had its turn
            return {}
        scaled = enabled != running
        return {
            event: value * enabled // running if scaled else value
            for event, value in zip(self._events, values, strict=True)
        }


def _online() -> set[int]:
    """CPUs beside those that we may run on."""
    found: set[int] = set()
    try:
        with open("/sys/devices/system/cpu/online") as file:
            text = file.read()
    except OSError:
        return found
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _perf_event_open(kind: int, config: int, cpu: int, group: int) -> int:
    """All processes on one CPU. Raises OSError."""
    attr = ctypes.create_string_buffer(_ATTR.pack(kind, _SIZE, config, 0, 0, _FORMAT, 0), _SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYSCALL.get(platform.machine(), _GENERIC)
    fd: int = libc.syscall(
        ctypes.c_long(number),
        attr,
        ctypes.c_int(-1),
        ctypes.c_int(cpu),
        ctypes.c_int(group),
        ctypes.c_ulong(_CLOEXEC),
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
