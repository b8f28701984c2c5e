"""The life of one bundled load, and how it reports: what every load in this package shares.

Owns the command line that the loads have in common, their end (a time limit, SIGTERM, the death of whoever
started them), the dropping of root, and the sending of gauges. Must not know what a load does, nor anything
of tuned_spec: a load speaks to the daemon as any program on the host would, in statsd lines on a socket.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

REPORT_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class Life:
    """Runs one load: `Life(...)` prepares, `lasts(now)` says whether to go on, `report` sends gauges."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._ends_at = time.monotonic() + arguments.for_s
        self._echo: bool = arguments.echo
        self._socket = _connect(arguments.socket)
        self._stopped = False
        self._parent = os.getppid()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if arguments.uid is not None:
            _drop_root(arguments.uid)
        die_with_parent(self._parent)

    def lasts(self) -> bool:
        return not self._stopped and time.monotonic() < self._ends_at

    def report(self, **gauges: float) -> None:
        """One datagram of `name:value|g` lines; a daemon that is not there is no reason to stop."""
        if self._socket is not None:
            lines = "\n".join(f"{name}:{value:.3f}|g" for name, value in gauges.items())
            try:
                self._socket.send(lines.encode(), socket.MSG_DONTWAIT)
            except OSError:
                pass  # ECONNREFUSED: it died; EAGAIN: it is behind. The next figure is as good.
        if self._echo:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            try:
                sys.stdout.writelines(f"{now:.6f} {name} {value:.3f}\n" for name, value in gauges.items())
                sys.stdout.flush()
            except BrokenPipeError:
                self._stopped = True

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self._stopped = True


def options(description: str) -> argparse.ArgumentParser:
    """The command line that all loads share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--for", dest="for_s", type=float, default=60.0, metavar="SECONDS", help="how long")
    parser.add_argument("--socket", metavar="PATH", help="send gauges to this Unix datagram socket")
    parser.add_argument("--echo", action="store_true", help="print each gauge: boottime name value")
    parser.add_argument("--uid", type=int, help="become this user once the socket is connected (root only)")
    parser.add_argument("--null", action="store_true", help="the same load, made deaf to the knob")
    return parser


def main(description: str, load: Callable[[Life, bool], None]) -> None:
    """The whole of a load's `__main__`; exits 0 however it is ended."""
    arguments = options(description).parse_args()
    load(Life(arguments), arguments.null)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """This signal for this process when `parent` ends; after a change of uid, which would clear it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it went before we asked
        os._exit(0)


def p95(values: list[float]) -> float:
    """The 95th percentile of a list that is not empty (nearest rank); sorts it in place."""
    values.sort()
    return values[int(0.95 * (len(values) - 1))]


def _connect(path: str | None) -> socket.socket | None:
    if path is None:
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.connect(path)
    return channel


def _drop_root(uid: int) -> None:
    if os.geteuid() == uid:
        return
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
