"""Figures of single TCP connections through NETLINK_SOCK_DIAG, a bounded sample each look.

Owns the netlink messages and the layout of `struct tcp_info`. Must not know what a figure is for. Imported
only when a `sock.*` metric is wanted. Formats: include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h.

A dump of the kernel's table goes on only as it is read, a few dozen connections a message. So one dump of the
established connections is read in portions, MAX_SOCKETS a look at most, and begun anew when it ends: a host
with few connections shows all of them each time, one with many a part after the other. The kernel fills one
message ahead, so on such a host figures may be one look old. The sample is of our network namespace, IPv4
and IPv6.

`struct tcp_info` only grows at its end: an older kernel gives a shorter one, and what it lacks is left out.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from tuned_spec.sense.sources import Rows

MAX_SOCKETS = 256
_SOCK_DIAG, _ESTABLISHED = 4, 1  # NETLINK_SOCK_DIAG, TCP_ESTABLISHED
_BY_FAMILY, _DUMP = 20, 0x301  # SOCK_DIAG_BY_FAMILY; NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_INFO = 2  # INET_DIAG_INFO
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, extensions, states; no socket id
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_MESSAGE = 72  # sizeof(struct inet_diag_msg): attributes follow
_BUFFER = 32768
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

# field of tcp_info -> offset, format; times in microseconds
_LAYOUT = {
    "rtt": (68, "I"),
    "rttvar": (72, "I"),
    "cwnd": (80, "I"),
    "notsent": (144, "I"),
    "min_rtt": (148, "I"),
    "delivery": (160, "Q"),
    "bytes_sent": (200, "Q"),
    "bytes_retrans": (208, "Q"),
}
_FIELDS = {name: (at, struct.Struct("=" + code)) for name, (at, code) in _LAYOUT.items()}
# the row's field, before `.p50` -> field of tcp_info, times what
_QUANTILES = {
    "rtt_ms": ("rtt", 1e-3),
    "rttvar_ms": ("rttvar", 1e-3),
    "min_rtt_ms": ("min_rtt", 1e-3),
    "cwnd": ("cwnd", 1.0),
    "delivery_bytes": ("delivery", 1.0),
    "notsent_bytes": ("notsent", 1.0),
}
_NO_MIN_RTT = 2**32 - 1  # none was measured yet


class Sockets:
    """Source of `sock.*`: one row, for the sample as a whole. `fields`: those of the row that are wanted."""

    name = "sock_diag"

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.why = ""
        self._fields = fields
        self._socket: socket.socket | None = None
        self._families: list[int] = []  # still to be dumped in this round

    def read(self, t: float) -> Rows | None:
        try:
            sample = [tcp_info(message) for message in self._messages()]
        except (OSError, struct.error) as error:
            self.close()
            self.why = f"sock_diag: {getattr(error, 'strerror', '') or error}; needs CONFIG_INET_DIAG"
            return None
        self.why = ""
        return {"": summary([info for info in sample if info], self._fields)}

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None
        self._families = []

    def _messages(self) -> Iterator[bytes]:
        """The next portion of the dump: one round through the table at most, MAX_SOCKETS or a little more."""
        count, begun = 0, False
        while count < MAX_SOCKETS:
            if self._socket is None:
                if not self._families:
                    if begun:  # once round
                        return
                    self._families, begun = list(_FAMILIES), True
                self._begin(self._families.pop(0))
            assert self._socket is not None
            data = self._socket.recv(_BUFFER)
            for kind, message in _split(data):
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _DONE:
                    self._socket.close()
                    self._socket = None
                    break
                count += 1
                yield message

    def _begin(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._socket.settimeout(1.0)  # the kernel answers at once; never hang on one that does not
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 1 << _ESTABLISHED)
        header = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0)
        self._socket.send(header + body)


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram: type, body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def tcp_info(message: bytes) -> dict[str, int]:
    """What one inet_diag message says of its connection, as far as this kernel tells it."""
    at = _MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        if kind == _INFO:
            info = message[at + _ATTRIBUTE.size : at + length]
            return {
                name: code.unpack_from(info, offset)[0]
                for name, (offset, code) in _FIELDS.items()
                if offset + code.size <= len(info)
            }
        at += (length + 3) & ~3
    return {}


def summary(sample: list[dict[str, int]], fields: tuple[str, ...]) -> dict[str, float]:
    """Quantiles (nearest rank) and sums over the sample; what nobody in it shows is left out."""
    row: dict[str, float] = {"count": len(sample)}
    for field in fields:
        what, _, rank = field.rpartition(".p")
        if what in _QUANTILES:
            name, scale = _QUANTILES[what]
            values = sorted(info[name] for info in sample if _counts(name, info))
            if values:
                row[field] = values[min(len(values) - 1, len(values) * int(rank) // 100)] * scale
        elif field in _FIELDS and (shown := [info[field] for info in sample if field in info]):
            row[field] = sum(shown)
    return row


def _counts(name: str, info: dict[str, int]) -> bool:
    """A connection that never sent has no rate, one that never measured no round trip."""
    if name in ("delivery", "rtt", "rttvar"):
        return bool(info.get(name))
    return name in info and not (name == "min_rtt" and info[name] == _NO_MIN_RTT)
