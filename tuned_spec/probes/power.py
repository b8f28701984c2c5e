"""What the helper gives up before its first answer: all of root's power but that to read.

By ctypes: prctl(2), capset(2) (uapi/linux/capability.h), unshare(2), mount_setattr(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38  # linux/prctl.h
CLONE_NEWNS, MS_REC, MS_SLAVE = 0x20000, 1 << 14, 1 << 19  # linux/sched.h, linux/mount.h
SYS_mount_setattr, MOUNT_ATTR_RDONLY = 442, 1  # one number on all architectures; linux/mount.h
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
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
    """No new privileges, dead when the daemon is, and, as root, all mounts read-only where the kernel lets
    us (Linux 5.12) and no capability but KEPT.

    OSError if that cannot be had: a helper with root's hands must not answer.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _demand(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        _mount_read_only(libc)
        for capability in range(LAST + 1):
            if capability not in KEPT and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # EINVAL: this kernel has no more of them; EPERM: we have not that power either
        kept = sum(1 << capability for capability in KEPT) & _permitted()
        sets = (_Sets * 2)(*(_Sets(half, half, 0) for half in (kept & 0xFFFFFFFF, kept >> 32)))
        _demand(libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(sets)))
    _demand(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _mount_read_only(libc: ctypes.CDLL) -> None:
    """In a mount namespace of our own, to which the host's mounts and unmounts still come. Knobs, too, are
    files. Where it cannot be had (no CAP_SYS_ADMIN, an older kernel) nothing here writes all the same."""
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None):
        return
    wanted = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr: set, clear, ...
    libc.syscall(SYS_mount_setattr, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))


def _permitted() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))


def _demand(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
