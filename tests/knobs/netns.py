"""A network namespace of the test's own, with a /sys that shows it: no interface of the host is touched."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_NEWNS, _NEWNET, _PRIVATE = 0x00020000, 0x40000000, 0x44000  # sched.h; MS_REC | MS_PRIVATE
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def own_netns() -> Iterator[None]:
    """Moves this process (its main thread, which /proc/self stands for) there, and back after the test."""
    here = Path.cwd()
    back = [(os.open(f"/proc/self/ns/{kind}", os.O_RDONLY), flag) for kind, flag in _KINDS]
    try:
        _enter()
        try:
            yield
        finally:
            for fd, flag in back:
                assert _libc.setns(fd, flag) == 0, os.strerror(ctypes.get_errno())
            os.chdir(here)  # entering a mount namespace leaves one at its root
    finally:
        for fd, _ in back:
            os.close(fd)


_KINDS = (("net", _NEWNET), ("mnt", _NEWNS))


def _enter() -> None:
    if os.geteuid() or _libc.unshare(_NEWNET | _NEWNS):
        pytest.skip("no network namespace of our own: root is needed")
    assert _libc.mount(b"none", b"/", None, _PRIVATE, None) == 0
    assert _libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None) == 0


def run(command: str) -> str:
    """A command in this namespace; its output, or a failure with its complaint."""
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def veth(name: str = "here", peer: str = "there", queues: int = 1) -> int:
    """A pair of interfaces, up; the number of the first. With `queues` 1 it has no mq."""
    many = f"numtxqueues {queues} numrxqueues {queues}"
    run(f"ip link add {name} {many} type veth peer name {peer} {many}")
    for end in (name, peer):
        run(f"ip link set {end} up")
    return socket.if_nametoindex(name)


def hardware() -> str:
    """A real interface that nobody uses, up in this namespace; it goes home with the namespace. Or skip."""
    spare = subprocess.run(
        ["nsenter", f"--net=/proc/{os.getppid()}/ns/net", "ip", "-j", "address"],
        capture_output=True,
        text=True,
    )
    for one in json.loads(spare.stdout or "[]"):
        name = one["ifname"]
        idle = "UP" not in one["flags"] and not one["addr_info"] and "LOOPBACK" not in one["flags"]
        if idle and Path(f"/proc/{os.getppid()}/root/sys/class/net/{name}/device").exists():
            run(f"nsenter --net=/proc/{os.getppid()}/ns/net ip link set {name} netns {os.getpid()}")
            run(f"ip link set {name} up")
            return str(name)
    pytest.skip("no interface of hardware (or virtio) that nobody uses")
