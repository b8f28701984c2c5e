"""The ear for tasks: the kernel's process events (CN_PROC) from a socket of pyroute2's, briefly retold.

Owns the subscription and the layout of an event. pyroute2 makes the socket and asks for the events; they are
unpacked here, because a decoder that builds a mapping an event would be the lookout's whole cost. A
filter on the socket leaves all but exec and exit in the kernel: a storm of forks is half as loud, and no
text that a program chose (comm) comes in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from pathlib import Path
from types import FrameType

from pyroute2.netlink.connector.cn_proc import (
    PROC_EVENT_EXEC,
    PROC_EVENT_EXIT,
    PROC_EVENT_NONE,
    ProcEventSocket,
)

from tuned_spec.lookout.messages import MOST, Lost, News, Tasks

FIRST = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h: the first namespace of processes
BUFFER = 8 << 20  # bytes that wait in the kernel: some ten thousand events
ANSWER_S = 2.0  # whom the kernel does not like it may leave without an answer
READ_AT_ONCE = 16384  # events
KNOWN = 1 << 16  # processes whose end is told

# nlmsghdr 16, cn_msg 20, then proc_event: what u32, cpu u32, timestamp u64, pid u32, tgid u32
_WHAT, _PID = 36, 52
_KIND = struct.Struct("=I")
_PIDS = struct.Struct("=II")
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33


class ProcEvents:
    """OSError if we may not hear: CAP_NET_ADMIN in the first namespaces, and CONFIG_PROC_EVENTS."""

    def __init__(self) -> None:
        if (here := str(Path("/proc/self/ns/pid").readlink())) != FIRST:
            raise OSError(errno.EPERM, f"in {here} the kernel's numbers of processes are not ours")
        self._socket = ProcEventSocket()
        self._fd: int = self._socket.fileno()
        self._known: set[int] = set()
        with socket.socket(fileno=os.dup(self._fd)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            _only(raw, (PROC_EVENT_NONE, PROC_EVENT_EXEC, PROC_EVENT_EXIT))
        self._socket.bind()
        self._subscribe()
        os.set_blocking(self._fd, False)

    def _subscribe(self) -> None:
        def too_late(_signal: int, _frame: FrameType | None) -> None:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer")

        before = signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, ANSWER_S)
        try:
            self._socket.control(listen=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def fileno(self) -> int:
        return self._fd

    def news(self) -> list[News]:
        """What has happened since the last call."""
        return gather(*self._read(), self._known)

    def _read(self) -> tuple[set[int], set[int], bool]:
        """Processes that executed and still live, tasks that ended, and whether events were lost."""
        execs: set[int] = set()
        exits: set[int] = set()
        lost = False
        for _ in range(READ_AT_ONCE):
            try:
                event = os.read(self._fd, 4096)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            (what,) = _KIND.unpack_from(event, _WHAT)
            pid, tgid = _PIDS.unpack_from(event, _PID)
            if what == PROC_EVENT_EXEC:
                execs.add(tgid)
            elif what == PROC_EVENT_EXIT:
                exits.add(pid)
                execs.discard(pid)
        return execs, exits, lost


def gather(execs: set[int], exits: set[int], lost: bool, known: set[int]) -> list[News]:
    """One packet's worth; `known` is kept up to date with what has been told and has not ended."""
    ended = known & exits
    known -= exits
    if max(len(execs), len(ended)) > MOST or len(known) > KNOWN:
        known.clear()
        return [Lost("too many programs were started to tell them one by one")]
    known |= execs
    told: list[News] = [Tasks(tuple(sorted(execs)), tuple(sorted(ended)))] if execs or ended else []
    return [*told, Lost("the kernel dropped events")] if lost else told


def _only(raw: socket.socket, wanted: tuple[int, ...]) -> None:
    """A classic BPF program: load the event's kind, take it if it is one of these."""
    load, equal, take = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = [(load, 0, 0, _WHAT)]
    for left, kind in zip(range(len(wanted), 0, -1), wanted, strict=True):
        program.append((equal, left, 0, socket.htonl(kind)))  # BPF loads in network order
    program += [(take, 0, 0, 0), (take, 0, 0, 0xFFFFFFFF)]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    raw.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
