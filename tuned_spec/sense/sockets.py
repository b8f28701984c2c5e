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
from collections.abc import Collection, Iterator

from tuned_spec.sense.reading import Rows

MAX_SOCKETS = 128
_SOCK_DIAG, _ESTABLISHED = 4, 1  # NETLINK_SOCK_DIAG, TCP_ESTABLISHED
# TCPDIAG_GETSOCK: unlike SOCK_DIAG_BY_FAMILY it gives IPv4 and IPv6 in one walk over the kernel's table, and
# that walk is most of the cost on a host with few connections. NLM_F_REQUEST | NLM_F_DUMP.
_GET_TCP, _DUMP = 18, 0x301
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_INFO = 2  # INET_DIAG_INFO
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=3xB48xI4x")  # inet_diag_req: extensions, states; any family, any socket
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_MESSAGE = 72  # sizeof(struct inet_diag_msg): attributes follow
_BUFFER = 32768

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
# the row's field, before `.p50` -> field of tcp_info, times what, and what it is where nothing was measured
_QUANTILES: dict[str, tuple[str, float, int | None]] = {
    "rtt_ms": ("rtt", 1e-3, 0),
    "rttvar_ms": ("rttvar", 1e-3, 0),
    "min_rtt_ms": ("min_rtt", 1e-3, 2**32 - 1),
    "cwnd": ("cwnd", 1.0, None),
    "delivery_bytes": ("delivery", 1.0, 0),
    "notsent_bytes": ("notsent", 1.0, None),
}


class Sockets:
    """Source of `sock.*`: one row, for the sample as a whole. `fields`: those of the row that are wanted."""

    name = "sock_diag"

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.why = ""
        self._fields = fields
        self._socket: socket.socket | None = None
        self._known = {_QUANTILES[what][0] for field in fields if (what := field[:-4]) in _QUANTILES}
        self._known |= {field for field in fields if field in _FIELDS}

    def read(self, t: float) -> Rows | None:
        try:
            sample = [tcp_info(message, self._known) for message in self._messages()]
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

    def _messages(self) -> Iterator[bytes]:
        """The next portion of the dump, to its end at most: MAX_SOCKETS or a little more."""
        count = 0
        if self._socket is None:
            self._socket = begin()
        while self._socket and count < MAX_SOCKETS:
            for kind, message in split(self._socket.recv(_BUFFER)):
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _DONE:
                    self._socket.close()
                    self._socket = None
                    break
                count += 1
                yield message


def begin(states: int = 1 << _ESTABLISHED, extensions: int = 1 << (_INFO - 1)) -> socket.socket:
    """A dump of the sockets in these states, a bit each: as asked by default, the established connections
    with their tcp_info. OSError where the kernel has no such thing."""
    dump = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG)
    dump.settimeout(1.0)  # the kernel answers at once; never hang on one that does not
    body = _REQUEST.pack(extensions, states)
    try:
        dump.send(_HEADER.pack(_HEADER.size + len(body), _GET_TCP, _DUMP, 1, 0) + body)
    except OSError:
        dump.close()
        raise
    return dump


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages of one datagram: type, body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def tcp_info(message: bytes, known: Collection[str] = tuple(_FIELDS)) -> dict[str, int]:
    """These fields of the connection that an inet_diag message is about, as far as this kernel tells them."""
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
                if name in known and offset + code.size <= len(info)
            }
        at += (length + 3) & ~3
    return {}


def summary(sample: list[dict[str, int]], fields: tuple[str, ...]) -> dict[str, float]:
    """Quantiles (nearest rank) and sums over the sample; what nobody in it shows is left out."""
    row: dict[str, float] = {"count": len(sample)}
    columns: dict[str, list[int]] = {}
    for field in fields:
        what, _, rank = field.rpartition(".p")
        if what in _QUANTILES:
            name, scale, nothing = _QUANTILES[what]
            if name not in columns:
                shown = [info[name] for info in sample if name in info]
                columns[name] = sorted(value for value in shown if value != nothing)
            if values := columns[name]:
                row[field] = values[min(len(values) - 1, len(values) * int(rank) // 100)] * scale
        elif field in _FIELDS and (shown := [info[field] for info in sample if field in info]):
            row[field] = sum(shown)
    return row
