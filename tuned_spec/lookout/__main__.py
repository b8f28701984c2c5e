"""`python -m tuned_spec.lookout --fd N --hear tasks`: started by the daemon, and dead when it is.

Hears what it is told to, gathers for GATHER_S after the first piece, and tells: a storm is a few packets a
second, each bounded, and what begins and ends within one is not told at all. Ends with status 0 when the
daemon closes its end.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Protocol

from tuned_spec.lookout.messages import Deaf, News, pack

GATHER_S = 0.05
NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


class Ear(Protocol):
    """One source of news; OSError from its maker if it cannot be had."""

    def fileno(self) -> int: ...
    def news(self) -> list[News]: ...


def tasks() -> Ear:
    from tuned_spec.lookout.tasks import ProcEvents

    return ProcEvents()


# what --hear names -> who hears it; imported only then
EARS: dict[str, Callable[[], Ear]] = {"tasks": tasks}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tuned_spec.lookout", description="Hears the kernel's events.")
    parser.add_argument("--fd", type=int, required=True, help="the packet socket to the daemon, inherited")
    parser.add_argument("--hear", action="append", choices=EARS, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to answer: it closes the door
    with socket.socket(fileno=args.fd) as door:
        try:
            listen(door, args.hear)
        except (BrokenPipeError, ConnectionResetError):
            pass
    return 0


def drop_privileges() -> None:
    """What is open stays open; nothing more is needed. Dead when the daemon is: its end of file says so, and
    this, should it die while we are about to tell it something."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of uid clears it


def listen(door: socket.socket, wanted: list[str]) -> None:
    """Until the daemon closes its end. While that is busy, news waits in the kernel, or is told lost."""
    ears: dict[int, Ear] = {}
    for name in wanted:
        try:
            ear = EARS[name]()
            ears[ear.fileno()] = ear
        except OSError as error:
            door.sendall(pack([Deaf(name, str(error))]))
    drop_privileges()
    poll = select.poll()
    for fd in (door.fileno(), *ears):
        poll.register(fd, select.POLLIN)
    door.sendall(pack([]))  # from here on all is heard
    while True:
        if any(fd == door.fileno() for fd, _ in poll.poll()):
            return  # it never speaks: this is its end
        time.sleep(GATHER_S)
        if news := [piece for ear in ears.values() for piece in ear.news()]:
            door.sendall(pack(news))


if __name__ == "__main__":
    raise SystemExit(main())
