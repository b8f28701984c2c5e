"""Asking the kernel by netlink: one request, its answers, or OSError with the kernel's own words.

Owns framing and attributes; must not know what is asked. Standard library only, Python 3.9. A request is
0.03 ms; the library for all of netlink would cost the daemon 23 MB, and a repair its independence (it serves
the tests as a second opinion, and the helper that listens for events).
Format: include/uapi/linux/netlink.h, genetlink.h; Documentation/userspace-api/netlink/intro.rst.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

ROUTE, GENERIC = 0, 16  # NETLINK_ROUTE, NETLINK_GENERIC
REPLACE, CREATE = 0x100, 0x400
DUMP = 0x300
NESTED = 0x8000  # in the type of an attribute that holds attributes

_REQUEST, _ACK = 0x1, 0x4
_ERROR, _DONE = 2, 3
_CAPPED, _ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _EXT_ACK, _GET_STRICT_CHK = 270, 11, 12
_CONTROL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct("=BBH")  # command, version, reserved
_PATIENCE_S = 5  # the kernel answers before send(2) returns; a hang would be its bug, not ours to wait for

Attributes = Mapping[int, bytes]
Answers = list[tuple[int, bytes]]


class _Told(threading.local):
    answers: dict[tuple[object, ...], Answers] | None = None  # None: nothing is kept


_told = _Told()


@contextmanager
def together() -> Iterator[None]:
    """Whatever this thread asks in the block is asked once, until it writes: many knobs are in one answer."""
    before = _told.answers
    _told.answers = {} if before is None else before
    try:
        yield
    finally:
        _told.answers = before


def look(protocol: int, kind: int, body: bytes, flags: int = 0) -> Answers:
    """`ask` for what changes nothing."""
    if _told.answers is None:
        return _ask(protocol, kind, (body,), flags)
    asked = (protocol, kind, body, flags)
    if asked not in _told.answers:
        _told.answers[asked] = _ask(protocol, kind, (body,), flags)
    return _told.answers[asked]


def ask(protocol: int, kind: int, *bodies: bytes, flags: int = 0) -> Answers:
    """The answers (type, body) to a request, when the kernel has acknowledged it. OSError if it refuses.

    Several bodies are several requests of one kind in one send(2): the kernel works through them before
    that returns, so that a kill comes before all or after all. The first refusal is raised.
    """
    if _told.answers is not None:
        _told.answers.clear()
    return _ask(protocol, kind, bodies, flags)


def _ask(protocol: int, kind: int, bodies: Sequence[bytes], flags: int) -> Answers:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as s:
        s.settimeout(_PATIENCE_S)
        for option in (_EXT_ACK, _GET_STRICT_CHK):
            try:
                s.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass  # then refusals come without words, and a dump with more than was asked for
        s.send(b"".join(_framed(kind, _REQUEST | _ACK | flags, body) for body in bodies))
        answers: Answers = []
        refusals: list[OSError] = []
        due = len(bodies)
        while due:
            for answer, answer_flags, data in _messages(s.recv(1 << 17)):
                if answer not in (_ERROR, _DONE):
                    answers.append((answer, data))
                    continue
                due -= 1
                code = -struct.unpack_from("=i", data)[0] if len(data) >= 4 else 0
                if code:
                    refusals.append(OSError(code, _words(data, answer_flags) or os.strerror(code)))
        if refusals:
            raise refusals[0]
        return answers


def ask_generic(family: str, command: int, body: bytes) -> list[bytes]:
    """The same of a generic netlink family, by its name; each answer without its generic header."""
    answers = ask(GENERIC, _family(family), _GENERIC.pack(command, 1, 0) + body)
    return [data[_GENERIC.size :] for _, data in answers]


def look_generic(family: str, command: int, body: bytes) -> list[bytes]:
    """`ask_generic` for what changes nothing."""
    answers = look(GENERIC, _family(family), _GENERIC.pack(command, 1, 0) + body)
    return [data[_GENERIC.size :] for _, data in answers]


def pack(kind: int, payload: bytes) -> bytes:
    """One attribute."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def pack_u32(kind: int, number: int) -> bytes:
    return pack(kind, struct.pack("=I", number))


def each(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, in the kernel's order."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]  # without the flags for nesting and byte order
        at += size + (-size % 4)


@functools.lru_cache(maxsize=32)  # what is looked at again and again has mostly not changed
def unpack(data: bytes) -> Attributes:
    """The same by type; of several of one type the last."""
    return dict(each(data))


def word(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode("ascii", "replace")


def number(payload: bytes) -> int:
    return int.from_bytes(payload, "little" if struct.pack("=H", 1)[0] else "big")


def _framed(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body + bytes(-len(body) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + _HEADER.size : at + size]
        at += size + (-size % 4)


def _words(data: bytes, flags: int) -> str:
    """What the kernel says beside the errno: NLMSGERR_ATTR_MSG."""
    if not flags & _ACK_TLVS:
        return ""
    echoed = _HEADER.size if flags & _CAPPED else _HEADER.unpack_from(data, 4)[0]
    return word(unpack(data[4 + echoed + (-echoed % 4) :]).get(1, b""))


@functools.cache
def _family(name: str) -> int:
    """A family keeps its number while the kernel (or its module) is loaded."""
    body = _GENERIC.pack(_GETFAMILY, 1, 0) + pack(_FAMILY_NAME, name.encode() + b"\0")
    for _, data in ask(GENERIC, _CONTROL, body):
        return number(unpack(data[_GENERIC.size :])[_FAMILY_ID])
    raise OSError(errno.ENOENT, f"this kernel has no netlink family {name}")
