"""What the kill matrix may change beside files of the host: interfaces of its own, a program that forks.

Owns a network namespace with a /sys of its own, two interfaces in it, and a process with a thread and ever
new children; gives their knobs of the real catalogue, and shows them as others do (ip, tc, getpriority).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.model import Knob, Write, Writes, entry_of

LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWNET, PRIVATE = 0x00020000, 0x40000000, 0x44000  # sched.h; MS_REC | MS_PRIVATE
NIC, PROGRAM = "ts-kill", f"ts-kill-{os.getpid()}"  # not another run's
CROWD = """
import os, signal, threading, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
threading.Thread(target=threading.Event().wait, daemon=True).start()
while True:
    if os.fork() == 0:
        time.sleep(0.03)
        os._exit(0)
    time.sleep(0.01)
"""
NOMERGES, NICE = "block.nomerges@loop0", f"task.nice@exe={PROGRAM}"
QUEUE, FLUSH, QDISC = f"nic.txqueuelen@{NIC}", f"nic.gro_flush_timeout@{NIC}", f"nic.qdisc@{NIC}"
CHANGES: tuple[tuple[Writes, Writes], ...] = (
    ((Write(NOMERGES, 1),), (Write(NOMERGES, 2),)),
    ((Write(NICE, 5),), (Write(NICE, 9),)),
    ((Write(QUEUE, 700), Write(FLUSH, 20_000)), (Write(QUEUE, 333), Write(FLUSH, 50_000))),
    ((Write(QDISC, "pfifo"),), (Write(QDISC, "pfifo_fast"),)),
)


class Stage(NamedTuple):
    catalogue: Mapping[str, Knob]
    shows: Mapping[str, Callable[[], str]]
    reset: Callable[[], None]


@contextmanager
def stage() -> Iterator[Stage]:
    """PermissionError without root. The caller's namespaces are as before afterwards."""
    here = Path.cwd()
    back = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY), flag) for name, flag in _KINDS]
    try:
        if LIBC.unshare(NEWNET | NEWNS):
            code = ctypes.get_errno()
            raise PermissionError(code, f"no network namespace of our own: {os.strerror(code)}")
        try:
            LIBC.mount(b"none", b"/", None, PRIVATE, None)
            LIBC.mount(b"sysfs", b"/sys", b"sysfs", 0, None)
            _cable()
            with tempfile.TemporaryDirectory() as place, _crowd(Path(place)) as pid:
                yield Stage(
                    _knobs(), {**_files(), NICE: lambda: _nices(pid), QDISC: _tc}, lambda: _reset(pid)
                )
        finally:
            for fd, flag in back:
                LIBC.setns(fd, flag)
            os.chdir(here)  # entering a mount namespace leaves one at its root
    finally:
        for fd, _ in back:
            os.close(fd)


_KINDS = (("net", NEWNET), ("mnt", NEWNS))


def _knobs() -> dict[str, Knob]:
    """The concrete ones with all that they are coupled with, and their entries."""
    here = Catalogue(load(), adapters())
    names = [write.knob for arms in CHANGES for writes in arms for write in writes]
    for name in names:
        names += [c.partner for c in here[name].coupled if c.partner not in names]
    return {id: here[id] for name in names for id in (name, entry_of(name))}


def _cable() -> None:
    for words in (
        f"ip link add {NIC} type veth peer name {NIC}-end",
        f"ip link set {NIC} up",
        f"ip link set {NIC}-end up",
    ):
        subprocess.run(words.split(), check=True)


@contextmanager
def _crowd(place: Path) -> Iterator[int]:
    exe = place / PROGRAM
    shutil.copy(Path(sys.executable).resolve(), exe)
    words = [str(exe), "-S", "-c", CROWD]
    process = subprocess.Popen(words, env=os.environ | {"PYTHONHOME": sys.base_prefix})
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _files() -> dict[str, Callable[[], str]]:
    nic, disk = Path("/sys/class/net") / NIC, Path("/sys/block/loop0/queue")
    return {
        NOMERGES: (disk / "nomerges").read_text,
        QUEUE: (nic / "tx_queue_len").read_text,
        FLUSH: (nic / "gro_flush_timeout").read_text,
    }


def _tc() -> str:
    return subprocess.run(
        ["tc", "qdisc", "show", "dev", NIC], capture_output=True, text=True, check=True
    ).stdout


def _tids(pid: int) -> Iterator[int]:
    """Of the program and its children."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in (pid, *map(int, children)):
            with suppress(OSError):
                yield from map(int, os.listdir(f"/proc/{process}/task"))  # noqa: PTH208


def _nices(pid: int) -> str:
    found = set()
    for tid in _tids(pid):
        with suppress(OSError):
            found.add(os.getpriority(os.PRIO_PROCESS, tid))
    return " ".join(map(str, sorted(found)))


def _reset(pid: int) -> None:
    """The last resort of the matrix itself; not what is tested."""
    for _ in range(3):
        for tid in _tids(pid):
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, tid, 0)
    subprocess.run(["ip", "link", "delete", NIC], check=True)
    _cable()
    Path("/sys/block/loop0/queue/nomerges").write_text("0")
