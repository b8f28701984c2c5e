"""What the helper gives up before its first answer: all of root's power but that to read.

By ctypes: prctl(2), capset(2) (uapi/linux/capability.h).
"""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38  # linux/prctl.h
DAC_READ_SEARCH, SYS_PTRACE, SYSLOG = 2, 19, 34  # files of others; /proc/PID/io; /dev/kmsg
KEPT = (DAC_READ_SEARCH, SYS_PTRACE, SYSLOG)
LAST = 63
_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Capabilities of 32 numbers."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_power() -> None:
    """No new privileges, dead when the daemon is, and, as root, no capability but KEPT.

    OSError if that cannot be had: a helper with root's hands must not answer.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _demand(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if os.geteuid() == 0:
        for capability in range(LAST + 1):
            if capability not in KEPT and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # EINVAL: this kernel has no more of them; EPERM: we have not that power either
        kept = sum(1 << capability for capability in KEPT) & _permitted()
        sets = (_Sets * 2)(*(_Sets(half, half, 0) for half in (kept & 0xFFFFFFFF, kept >> 32)))
        _demand(libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)))
    _demand(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _permitted() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))


def _demand(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
