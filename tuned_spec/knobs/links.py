"""Knobs of network interfaces: which interfaces there are, and where and of whom a knob is.

Reading and writing is `reach`'s, by small netlink requests of our own: the library for netlink costs 23 MB of
a daemon that may have 45, and a repair cannot rely on it. It is used where it costs nobody: in the tests as a
second opinion, and in the helper process that listens for events. Must not know values or ranges.

Who else owns interfaces (NetworkManager, systemd-networkd) writes when it likes; nothing announces that to
this process, so it is found by comparing, and then it is theirs.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from ..errors import KnobAbsent
from ..model import Knob
from . import reach
from .reach import ethtool, link, netlink

_MASTER, _LINKINFO, _INFO_KIND = 10, 18, 1  # IFLA_*


def address(root: Path, knob: Knob) -> str:
    """`link:4/txqueuelen` for the target `eth0/txqueuelen`. KnobAbsent without such an interface."""
    name, _, setting = knob.target.partition("/")
    return f"{knob.adapter}:{_index(root, knob.id, name)}/{setting}"


def instances(root: Path, entry: Knob) -> tuple[str, ...]:
    """The interfaces that have it, but loopback and the cables of containers: a veth that is a port of a
    bridge has no queue of its own, and a host can have a thousand of them. (One can still be named.)"""
    if root != Path("/"):
        return ()
    setting = entry.target.partition("/")[2]
    return tuple(
        sorted(
            name
            for index, name in socket.if_nameindex()
            if _is_worth_it(index) and _has(f"{entry.adapter}:{index}/{setting}")
        )
    )


def identity(root: Path, knob: Knob) -> str:
    """The namespace and the number, which survives a new name; the name is for the reader."""
    name = knob.target.partition("/")[0]
    inode = (root / "proc/self/ns/net").stat().st_ino
    return f"netns:[{inode}]@{name}#{_index(root, knob.id, name)}"


def within(root: Path, knob: Knob) -> Knob:
    """The knob with its range cut down to what this device says that it takes, such as a ring's maximum."""
    if knob.adapter not in _LIMITS or knob.high is None:
        return knob
    try:
        most = _LIMITS[knob.adapter](address(root, knob))
    except (KnobAbsent, OSError):
        return knob
    return knob if most is None or most >= knob.high else msgspec.structs.replace(knob, high=most)


_LIMITS = {"link": link.high, "ethtool": ethtool.high}


def _index(root: Path, id: str, name: str) -> int:
    if root != Path("/"):
        raise KnobAbsent(id, "probe", f"interfaces are asked of the kernel, not of {root}")
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        hint = "`ip link` lists them"
        raise KnobAbsent(id, "probe", f"there is no interface {name}", error.errno or 0, hint) from error


def _is_worth_it(index: int) -> bool:
    try:
        if link.is_loopback(index):
            return False
        of = link.attributes(index)
    except OSError:
        return False  # gone since
    kind = netlink.unpack(of.get(_LINKINFO, b"")).get(_INFO_KIND, b"")
    return not (netlink.word(kind) == "veth" and _MASTER in of)


def _has(where: str) -> bool:
    try:
        reach.read(where)
    except OSError:
        return False
    return True
