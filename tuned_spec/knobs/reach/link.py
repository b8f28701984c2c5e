"""A network interface's own settings: `link:IFINDEX/txqueuelen`, `link:IFINDEX/gro_flush_timeout`.

By number and not by name, so that one that was renamed is put back under its new name; the number is not
given to another one while the network namespace lives. Standard library only, Python 3.9.
What the kernel shares by rtnetlink is read and written there (IFLA_*, include/uapi/linux/if_link.h); the
NAPI settings of a whole interface are files of /sys/class/net (Documentation/ABI/testing/sysfs-class-net),
and a /sys that shows another network namespace is refused.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from . import files, netlink

_GETLINK, _SETLINK = 18, 19
_INFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS, _EXT_MASK, _WITHOUT_STATISTICS = 1, 29, 8
_IFF_LOOPBACK = 0x8

# IFLA_*
NUMBERS = {
    "txqueuelen": 13,
    "gso_max_segs": 40,
    "gso_max_size": 41,
    "gro_max_size": 58,
    "gso_ipv4_max_size": 63,
    "gro_ipv4_max_size": 64,
}
_LIMITS = {"gso_max_size": 59, "gso_max_segs": 60, "gso_ipv4_max_size": 59}  # IFLA_TSO_MAX_*
together = netlink.together  # also of those modules that ask for an interface by this one
FILES = ("gro_flush_timeout", "napi_defer_hard_irqs", "threaded")


def read(address: str) -> str:
    index, name = split(address)
    if name in FILES:
        return files.read(_file(index, name))
    found = attributes(index).get(NUMBERS.get(name, 0))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"this kernel has no {name} of interfaces")
    return str(netlink.number(found))


def write(address: str, text: str) -> None:
    index, name = split(address)
    if name in FILES:
        files.write(_file(index, name), text)
        return
    if name not in NUMBERS:
        raise OSError(errno.EACCES, f"{name} cannot be written")
    before = read(address)
    body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + netlink.pack_u32(NUMBERS[name], as_u32(text))
    netlink.ask(netlink.ROUTE, _SETLINK, body)
    if read(address) == before != text:
        raise OSError(errno.EOPNOTSUPP, f"this kernel took {name} and changed nothing")


def usable(address: str) -> None:
    index, name = split(address)
    if name in FILES:
        files.usable(_file(index, name))
    elif os.geteuid():
        raise PermissionError(errno.EPERM, "needs CAP_NET_ADMIN")


def split(address: str) -> tuple[int, str]:
    """`link:4/txqueuelen` -> 4, "txqueuelen"."""
    index, _, name = address.partition(":")[2].partition("/")
    return int(index), name


def as_u32(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise OSError(errno.ERANGE, f"{text} does not fit in 32 bits")
    return value


def attributes(index: int) -> netlink.Attributes:
    """IFLA_* of one interface. FileNotFoundError if there is none of that number here."""
    return netlink.unpack(_about(index)[_INFO.size :])


def is_loopback(index: int) -> bool:
    return bool(_INFO.unpack_from(_about(index))[3] & _IFF_LOOPBACK)


def high(address: str) -> int | None:
    """The most that the hardware takes; None where it does not say."""
    index, name = split(address)
    found = attributes(index).get(_LIMITS.get(name, 0))
    return None if found is None else netlink.number(found)


def name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        raise FileNotFoundError(errno.ENOENT, f"there is no interface {index} any more") from None


def _about(index: int) -> bytes:
    body = _INFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + netlink.pack_u32(_EXT_MASK, _WITHOUT_STATISTICS)
    try:
        ((_, data),) = netlink.look(netlink.ROUTE, _GETLINK, body)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise FileNotFoundError(errno.ENOENT, f"there is no interface {index} any more") from None
    return data


def _file(index: int, name: str) -> str:
    """The file of /sys, proved to be this interface's: /sys shows the namespace it was mounted from."""
    here = f"/sys/class/net/{name_of(index)}"
    try:
        shown = (files.read(here + "/ifindex"), files.read(here + "/address"))
    except FileNotFoundError:
        shown = ("", "")
    if shown != (str(index), attributes(index).get(_ADDRESS, b"").hex(":")):
        raise OSError(
            errno.EXDEV, "/sys shows another network namespace: `ip netns exec` mounts the right one"
        )
    return f"{here}/{name}"
