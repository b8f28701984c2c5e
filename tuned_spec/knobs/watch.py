"""Who else writes our knobs: fanotify on the managed files, at the moment of the write.

Owns the fanotify descriptor and the marks. Must not know of values or the journal: it says *that*
somebody wrote, and who; whether the value is foreign is found by comparing (a same-value write is
no claim). It is a help and never the only way: it needs CAP_SYS_ADMIN, and it does not see a write
through another mount of /proc (a container's own) or one from inside the kernel.

Only FAN_MODIFY is asked for: it comes for each write(2) that the kernel accepted. FAN_CLOSE_WRITE
would also name those who merely opened the file, our own probe among them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..model import Frozen

# include/uapi/linux/fanotify.h
_FAN_CLASS_NOTIF = 0x0
_FAN_CLOEXEC = 0x1
_FAN_NONBLOCK = 0x2
_FAN_MARK_ADD = 0x1
_FAN_MARK_REMOVE = 0x2
_FAN_MODIFY = 0x2
_FAN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("=IBBHQii")  # event_len, version, -, metadata_len, mask, fd, pid
_AT_FDCWD = -100


class WriterSeen(Frozen, frozen=True):
    """One write by somebody else. `comm` is "" when the writer was gone before it could be asked.

    `pid` is 0 for a writer outside this process's pid namespace.
    """

    path: Path
    pid: int
    comm: str


class Watch:
    """Watches files until closed. `why` is empty while it works, else the reason why it cannot.

    A watch that cannot work is still safe to use: `fileno()` is None, `read()` is empty, and comparing
    at each tick is all there is. `unseen` gives the reason for each file that could not be marked.
    `overflows` counts the times the kernel dropped events: compare everything then.
    """

    def __init__(self, paths: Iterable[Path] = (), *, own_pid: int | None = None) -> None:
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._held: dict[Path, int] = {}
        self._fd = -1
        self.why = ""
        self.unseen: dict[Path, str] = {}
        self.overflows = 0
        try:
            self._libc, self._last_errno = _load_libc()
            self._fd = self._call(
                "fanotify_init", _FAN_CLASS_NOTIF | _FAN_CLOEXEC | _FAN_NONBLOCK, os.O_RDONLY | os.O_CLOEXEC
            )
        except (OSError, ImportError, AttributeError) as error:
            self.why = f"fanotify: {error}; other writers are found by comparing (it needs CAP_SYS_ADMIN)"
        for path in paths:
            self.add(path)

    def fileno(self) -> int | None:
        """The descriptor to poll for reading, or None."""
        return self._fd if self._fd >= 0 else None

    def add(self, path: Path) -> str:
        """Starts to watch a file. Returns "" or why it cannot be watched (also kept in `unseen`)."""
        if self._fd < 0:
            return self.why
        if path in self._held:
            if _is(self._held[path], path):
                return ""
            self.drop(path)  # another file has come under its name
        try:
            # A mark is on the inode, and procfs makes a new inode for a name it has forgotten.
            # O_PATH keeps the name in use, so that every later open meets the marked inode.
            held = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                self._mark(_FAN_MARK_ADD, path)
            except OSError:
                os.close(held)
                raise
        except OSError as error:
            self.unseen[path] = f"{path}: cannot be watched: {error.strerror}"
            return self.unseen[path]
        self._held[path] = held
        self.unseen.pop(path, None)
        return ""

    def drop(self, path: Path) -> None:
        """Stops to watch a file; no harm if it was not watched."""
        self.unseen.pop(path, None)
        if (held := self._held.pop(path, None)) is None:
            return
        try:
            self._mark(_FAN_MARK_REMOVE, path)
        except OSError:
            pass  # the file went away, and its mark with it
        os.close(held)

    def read(self) -> list[WriterSeen]:
        """The writes by others since the last call. Never blocks."""
        if self._fd < 0:
            return []
        try:
            events = os.read(self._fd, 16384)
        except OSError:  # mostly EAGAIN; EMFILE: the kernel has dropped the event, comparing finds the write
            return []
        seen = []
        at = 0
        while at < len(events):
            size, _, _, _, mask, fd, pid = _EVENT.unpack_from(events, at)
            at += size
            if mask & _FAN_Q_OVERFLOW:
                self.overflows += 1
            if fd < 0:
                continue
            try:
                if pid != self._own_pid:
                    seen.append(WriterSeen(Path(f"/proc/self/fd/{fd}").readlink(), pid, _comm(pid)))
            finally:
                os.close(fd)
        return seen

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)
        self._held.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _mark(self, how: int, path: Path) -> None:
        self._call("fanotify_mark", self._fd, how, _FAN_MODIFY, _AT_FDCWD, os.fsencode(path))

    def _call(self, name: str, *args: Any) -> int:
        result = int(getattr(self._libc, name)(*args))
        if result < 0:
            code = self._last_errno()
            raise OSError(code, f"{name}: {os.strerror(code)}")
        return result


def _load_libc() -> tuple[Any, Callable[[], int]]:
    """The C library with both calls declared, and its errno. Late: only a daemon that watches pays."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fanotify_init.argtypes = (ctypes.c_uint, ctypes.c_uint)
    libc.fanotify_mark.argtypes = (
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint64,
        ctypes.c_int,
        ctypes.c_char_p,
    )
    return libc, ctypes.get_errno


def _is(held: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), path.stat())
    except OSError:
        return False


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
