"""What a network driver can be told: `ethtool:4/ring.rx`, `ethtool:4/feature.rx-gro`.

Standard library only, Python 3.9. By generic netlink (5.8; Documentation/networking/ethtool-netlink.rst),
which unlike the older ioctl says what a driver lacks, and changes one value without its neighbours.
A driver that lacks it is FileNotFoundError with the reason. `high` is how far the device goes.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from typing import NamedTuple

from . import link, netlink

_HEADER, _DEV_INDEX, _HEADER_FLAGS, _OMIT_REPLY = 1, 1, 3, 2
_FEATURES = 11  # ETHTOOL_MSG_FEATURES_GET
_HARDWARE, _WANTED, _ACTIVE, _NEVER = 2, 3, 4, 5  # ETHTOOL_A_FEATURES_*
_NOMASK, _BITS, _BIT, _BIT_NAME, _BIT_VALUE = 1, 3, 1, 2, 3  # ETHTOOL_A_BITSET_*


class Setting(NamedTuple):
    """`get` is ETHTOOL_MSG_*_GET, the message that sets is the next; `limit` the attribute of its maximum."""

    get: int
    attribute: int
    limit: int = 0
    form: str = "=I"


SETTINGS: dict[str, Setting] = {
    "ring.rx": Setting(15, 6, limit=2),
    "ring.tx": Setting(15, 9, limit=5),
    "channels.rx": Setting(17, 6, limit=2),
    "channels.tx": Setting(17, 7, limit=3),
    "channels.combined": Setting(17, 9, limit=5),
    "coalesce.rx_usecs": Setting(19, 2),
    "coalesce.rx_frames": Setting(19, 3),
    "coalesce.tx_usecs": Setting(19, 6),
    "coalesce.tx_frames": Setting(19, 7),
    "coalesce.adaptive_rx": Setting(19, 11, form="=B"),
    "coalesce.adaptive_tx": Setting(19, 12, form="=B"),
}


def read(address: str) -> str:
    index, name = link.split(address)
    if name.startswith("feature."):
        return str(int(_feature(index, name[len("feature.") :], _ACTIVE)))
    setting = _setting(name)
    found = _attributes(index, setting.get).get(setting.attribute)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"the driver of {link.name_of(index)} has no {name}")
    return str(netlink.number(found))


def write(address: str, text: str) -> None:
    index, name = link.split(address)
    if name.startswith("feature."):
        _switch(index, name[len("feature.") :], bool(int(text)))
        return
    setting = _setting(name)
    try:
        value = struct.pack(setting.form, int(text))
    except struct.error:
        raise OSError(errno.ERANGE, f"{text} does not fit") from None
    before = read(address)
    _set(index, setting.get + 1, netlink.pack(setting.attribute, value))
    if read(address) == before != text:
        raise OSError(
            errno.EOPNOTSUPP, f"the driver of {link.name_of(index)} took {name} and changed nothing"
        )


def usable(address: str) -> None:
    index, name = link.split(address)
    if name.startswith("feature."):
        if why := _stuck(index, name[len("feature.") :]):
            raise OSError(errno.EOPNOTSUPP, why)
    else:
        read(address)
    if os.geteuid():
        raise PermissionError(errno.EPERM, "needs CAP_NET_ADMIN")


def high(address: str) -> int | None:
    """The most that this device takes; None where it does not say."""
    index, name = link.split(address)
    setting = SETTINGS.get(name)
    if setting is None or not setting.limit:
        return None
    found = _attributes(index, setting.get).get(setting.limit)
    return None if found is None else netlink.number(found)


# ---------------------------------------------------------------------------------- offloads


def _feature(index: int, feature: str, which: int) -> bool:
    found = _attributes(index, _FEATURES)
    if feature in _names(found.get(which, b"")):
        return True
    if feature not in _names(found.get(_HARDWARE, b""), all_of_them=True):
        raise FileNotFoundError(errno.ENOENT, f"this kernel knows no offload {feature}")
    return False


def _stuck(index: int, feature: str) -> str:
    """Why an offload cannot be switched and switched back."""
    if not _feature(index, feature, _HARDWARE) or _feature(index, feature, _NEVER):
        return f"the driver of {link.name_of(index)} has {feature} fixed"
    if _feature(index, feature, _WANTED) != _feature(index, feature, _ACTIVE):
        return f"{feature} is wanted another way than it is: something it needs is off"
    return ""


def _switch(index: int, feature: str, on: bool) -> None:
    """Set what is wanted, and take that back if the kernel does not follow: half a switch must not linger."""
    was = _feature(index, feature, _WANTED)
    _want(index, feature, on)
    if _feature(index, feature, _ACTIVE) != on:
        _want(index, feature, was)
        raise OSError(
            errno.EOPNOTSUPP, f"{feature} stays {'off' if on else 'on'}: fixed, or tied to another one"
        )


def _want(index: int, feature: str, on: bool) -> None:
    bit = netlink.pack(_BIT_NAME, feature.encode() + b"\0") + (netlink.pack(_BIT_VALUE, b"") if on else b"")
    bits = netlink.pack(_BITS | netlink.NESTED, netlink.pack(_BIT | netlink.NESTED, bit))
    _set(index, _FEATURES + 1, netlink.pack(_WANTED | netlink.NESTED, bits))


@functools.lru_cache(maxsize=16)  # a device has a handful, mostly the same as before, and they are long
def _names(bitset: bytes, all_of_them: bool = False) -> frozenset[str]:
    """The bits that are set, or all that the set speaks of. Without a mask each that is listed is set."""
    parts = netlink.unpack(bitset)
    every = all_of_them or _NOMASK in parts
    bits = (netlink.unpack(bit) for _, bit in netlink.each(parts.get(_BITS, b"")))
    return frozenset(netlink.word(bit[_BIT_NAME]) for bit in bits if every or _BIT_VALUE in bit)


# ----------------------------------------------------------------------------------- netlink


def _setting(name: str) -> Setting:
    if name not in SETTINGS:
        raise FileNotFoundError(errno.ENOENT, f"{name} is no setting of a driver that is known here")
    return SETTINGS[name]


def _attributes(index: int, get: int) -> netlink.Attributes:
    """FileNotFoundError if the interface is gone or its driver has nothing of that sort."""
    try:
        (data,) = netlink.look_generic("ethtool", get, _header(index))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
            raise
        raise FileNotFoundError(
            errno.ENOENT, f"the driver of {link.name_of(index)}: {error.strerror}"
        ) from None
    return netlink.unpack(data)


def _set(index: int, message: int, attributes: bytes) -> None:
    netlink.ask_generic("ethtool", message, _header(index, _OMIT_REPLY) + attributes)


def _header(index: int, flags: int = 0) -> bytes:
    named = netlink.pack_u32(_DEV_INDEX, index)
    return netlink.pack(
        _HEADER | netlink.NESTED, named + (netlink.pack_u32(_HEADER_FLAGS, flags) if flags else b"")
    )
