"""Sockets by state, listeners whose queue fills up, and what goes wrong in TCP and UDP over one window.

Owns what is shown; `sense.sockets` speaks with the kernel. Of our network namespace, IPv4 and IPv6.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tuned_spec.probes.answer import Unanswered, answer, figure
from tuned_spec.probes.host import observed
from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sockets import begin, split

MOST = 50_000  # sockets counted
_BUFFER = 1 << 18
# include/net/tcp_states.h
STATES = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "close",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "new_syn_recv",
}
LISTEN = 10
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_SOCKET = struct.Struct("=BB2x")  # inet_diag_msg: family, state
_PORT, _ADDRESS, _QUEUES = 4, 8, 56  # where its port, address and queues are
_METRICS = tuple(
    name
    for name, metric in METRICS.items()
    if name.startswith(("tcp.", "udp.", "udp6.")) and metric.unit != "pages"
)


class Listener(NamedTuple):
    address: str
    waiting: int  # connections that nobody has accepted yet
    backlog: int


def seen(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """Metrics of nothing are left out."""
    values, seconds = observed(_METRICS, root)
    try:
        states, listeners, all_seen = counted(_dump())
    except (OSError, struct.error) as error:
        raise Unanswered(f"sockets: sock_diag: {error}; needs CONFIG_INET_DIAG") from error
    facts: dict[str, object] = {
        "over_s": figure(seconds),
        "states": dict(states.most_common()),
        "metrics": {name: figure(values[name]) for name in _METRICS if values.get(name)},
    }
    if not all_seen:
        facts["note"] = f"only {MOST} sockets were counted"
    return answer(facts, {"listeners": [row._asdict() for row in fullest(listeners)]})


def counted(messages: Iterator[bytes]) -> tuple[Counter[str], list[Listener], bool]:
    """Sockets by state, the listeners, and whether those were all."""
    states: Counter[int] = Counter()
    listeners: list[Listener] = []
    all_seen = True
    for number, message in enumerate(messages):
        if number == MOST:
            all_seen = False
            break
        family, state = _SOCKET.unpack_from(message)
        states[state] += 1
        if state == LISTEN:
            listeners.append(_listener(message, family))
    return Counter({STATES.get(k, str(k)): n for k, n in states.items()}), listeners, all_seen


def fullest(listeners: list[Listener]) -> list[Listener]:
    return sorted(listeners, key=lambda row: (-row.waiting / max(row.backlog, 1), -row.waiting, row.address))


def _listener(message: bytes, family: int) -> Listener:
    waiting, backlog = struct.unpack_from("=II", message, _QUEUES)
    (port,) = struct.unpack_from("!H", message, _PORT)
    v6 = family == 10  # AF_INET6
    address = ipaddress.ip_address(message[_ADDRESS : _ADDRESS + (16 if v6 else 4)])
    return Listener(f"[{address}]:{port}" if v6 else f"{address}:{port}", waiting, backlog)


def _dump() -> Iterator[bytes]:
    with begin(states=sum(1 << state for state in STATES), extensions=0) as dump:
        while True:
            for kind, message in split(dump.recv(_BUFFER)):
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", message)[0]
                    raise OSError(code, "the kernel refused")
                if kind == _DONE:
                    return
                yield message
