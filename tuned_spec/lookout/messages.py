"""What the lookout tells the daemon: a list of these a packet, as JSON. The daemon says nothing.

Owns the messages and their packing; imported by both sides, so msgspec alone. A new kind of news is one more
struct in `News`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tuned_spec.model import Frozen

PACKET = 64 << 10  # bytes of one packet at most
MOST = 1024  # numbers in one Tasks


class Tasks(Frozen, frozen=True, tag="tasks"):
    """Processes so reported that have ended, then processes that have executed a program and still run it."""

    exec: tuple[int, ...] = ()
    exit: tuple[int, ...] = ()  # first: a number may be in both


class Lost(Frozen, frozen=True, tag="lost"):
    """More happened than is told: who needs to know must look for himself."""

    why: str


class Deaf(Frozen, frozen=True, tag="deaf"):
    """This kind of news will not come at all: not permitted, not in this kernel or namespace."""

    of: str
    why: str


News = Tasks | Lost | Deaf

_decoder = msgspec.json.Decoder(tuple[News, ...])


def pack(news: Iterable[News]) -> bytes:
    return msgspec.json.encode(tuple(news))


def unpack(packet: bytes) -> tuple[News, ...]:
    """msgspec.DecodeError or ValidationError for a packet that is not ours."""
    return _decoder.decode(packet)
