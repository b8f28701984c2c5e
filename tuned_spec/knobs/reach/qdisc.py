"""The queueing discipline at the root of an interface: `qdisc:IFINDEX/kind`, `qdisc:IFINDEX/fq.quantum`.

Standard library only, Python 3.9. The kind reads as the disciplines on offer, the present one in brackets:
one word that `write` can establish again exactly.

    fq                          ours: it has a handle that only we give (5453: or 5454: in `tc qdisc show`)
    pfifo_fast@0:               the kernel's default, which comes back when ours is deleted
    fq_codel@8003:flows=512     somebody's own: its handle, and what is neither parameter nor default
    mq/fq                       a queue for each hardware queue, each with the discipline behind the slash

Parameters are numbers of their own, there while that discipline is and was set (the kernel's default cannot
be changed in place); those of `mq` are its queues', alike.
Refused with EOPNOTSUPP, because no word puts it back: a root with classes, filters, a size table or queues
of somebody's making below it, and a default that the kernel would not choose again (net.core.default_qdisc
was changed since). A discipline that is neither built in nor loaded is not offered: asking for it loads a
module that stays. Who wants it has it loaded at boot (modules-load.d).
Formats: include/uapi/linux/{rtnetlink,pkt_sched}.h; net/sched/sch_api.c, tc_modify_qdisc().
"""

from __future__ import annotations

import errno
import functools
import os
import re
import struct
from typing import NamedTuple

from . import link, netlink

_NEWQDISC, _DELQDISC, _GETQDISC, _GETTFILTER = 36, 37, 38, 46
_TC = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_ROOT, _MAJOR = 0xFFFFFFFF, 0xFFFF0000
_KIND, _OPTIONS, _STAB = 1, 2, 8  # TCA_*
_IFLA_NUM_TX_QUEUES = 31
# Two, because a discipline of another kind, or of fresh parameters, cannot take a handle in use.
_OURS = (0x54530000, 0x54540000)

# What can be changed in place, by the attribute of TCA_OPTIONS that carries it. 0: they are the number.
PARAMETERS: dict[str, dict[str, int]] = {
    "pfifo": {"limit": 0},
    "bfifo": {"limit": 0},
    "fq": {
        "limit": 1,
        "flow_limit": 2,
        "quantum": 3,
        "initial_quantum": 4,
        "maxrate": 7,
        "low_rate_threshold": 11,
        "timer_slack_ns": 13,
        "horizon_us": 14,
    },
    "fq_codel": {
        "target_us": 1,
        "limit": 2,
        "interval_us": 3,
        "ecn": 4,
        "quantum": 6,
        "drop_batch": 8,
        "memory_limit": 9,
    },
    "cake": {"bandwidth": 2, "rtt_us": 7, "target_us": 8, "memory_limit": 10, "split_gso": 17},
}
# Names for what else these kinds show; another attribute goes by its number.
_OTHERS: dict[str, dict[str, int]] = {
    "fq": {
        "pacing": 5,
        "buckets_log": 8,
        "refill_us": 9,
        "orphan_mask": 10,
        "ce_threshold_us": 12,
        "horizon_drop": 15,
        "priomap": 16,
        "weights": 17,
        "offload_horizon_us": 18,
    },
    "fq_codel": {"flows": 5, "ce_threshold_us": 7, "ce_selector": 10, "ce_mask": 11},
    "cake": {
        "diffserv": 3,
        "atm": 4,
        "flow_mode": 5,
        "overhead": 6,
        "autorate": 9,
        "nat": 11,
        "raw": 12,
        "wash": 13,
        "mpu": 14,
        "ingress": 15,
        "ack_filter": 16,
        "fwmark": 18,
    },
}
_CAKE_PAD = 1
_WIDE = {("cake", "bandwidth")}  # 64 bits
_CODEL = {("fq_codel", name) for name in ("target_us", "interval_us", "ce_threshold_us")}
UNLIMITED = "unlimited"  # in place of the number that stands for it
_UNLIMITED = {("fq", "maxrate"): 2**32 - 1, ("cake", "bandwidth"): 0}
_NO_CE = {("fq", "ce_threshold_us"): (2**31 - 1) // 1000}  # off; cut off by the way to us, so not sent back
_ALWAYS = ("pfifo_fast", "pfifo", "bfifo")  # part of every kernel with CONFIG_NET_SCHED
_MODULES = ("fq", "fq_codel", "cake")
_LEAVES = ("pfifo_fast", "fq", "fq_codel")
_WORD = re.compile(r"([a-z0-9_]+)(?:/([a-z0-9_]+))?(?:@([0-9a-f]{1,4}):(\S*))?")


class Queue(NamedTuple):
    """One discipline, as the kernel shows it."""

    kind: str
    handle: int
    parent: int
    options: bytes
    stab: bool


class Root(NamedTuple):
    device: int
    tx_queues: int  # of the hardware
    top: Queue
    leaves: tuple[Queue, ...]  # of mq

    @property
    def ours(self) -> bool:
        return self.top.handle in _OURS

    @property
    def working(self) -> tuple[Queue, ...]:
        """The queues that hold packets, which have the parameters."""
        return self.leaves or (self.top,)

    @property
    def leaf(self) -> str:
        kinds = {queue.kind for queue in self.leaves}
        return kinds.pop() if len(kinds) == 1 else ""

    @property
    def word(self) -> str:
        name = f"{self.top.kind}/{self.leaf or 'mixed'}" if self.leaves else self.top.kind
        return name if self.ours else f"{name}@{self.top.handle >> 16:x}:{_rest(self.top)}"


# ------------------------------------------------------------------------- what reach offers


def read(address: str) -> str:
    index, name = link.split(address)
    root = _root(index)
    if name == "kind":
        return " ".join([f"[{root.word}]", *(word for word in _offered(root) if word != root.word)])
    kind, parameter = _parameter(name)
    values = {_values(queue).get(parameter) for queue in root.working if queue.kind == kind}
    if len(values) != 1 or None in values:
        raise FileNotFoundError(errno.ENOENT, f"{link.name_of(index)} has {root.word}, no {kind} {parameter}")
    if why := _fixed(root):
        raise FileNotFoundError(errno.ENOENT, why)
    value = values.pop()
    return UNLIMITED if _UNLIMITED.get((kind, parameter)) == value else str(value)


def write(address: str, text: str) -> None:
    index, name = link.split(address)
    root = _root(index)
    if why := _obstacle(root):
        raise OSError(errno.EOPNOTSUPP, why)
    if name == "kind":
        _establish(root, text)
        return
    kind, parameter = _parameter(name)
    read(address)
    options = _options(kind, {parameter: _number(kind, parameter, text)})
    bodies = [_body(index, queue.handle, queue.parent, kind, options) for queue in root.working]
    netlink.ask(netlink.ROUTE, _NEWQDISC, *bodies)


def usable(address: str) -> None:
    index, _ = link.split(address)
    if why := _obstacle(_root(index)):
        raise OSError(errno.EOPNOTSUPP, why)
    if os.geteuid():
        raise PermissionError(errno.EPERM, "needs CAP_NET_ADMIN")


# --------------------------------------------------------------------------- kinds and words


def _establish(root: Root, word: str) -> None:
    """Make `word` the root; parameters that it does not give are the kernel's defaults."""
    match = _WORD.fullmatch(word)
    if not match:
        raise OSError(errno.EINVAL, f"{word!r} is no queueing discipline")
    kind, leaf, handle, rest = match.groups()
    if handle is None:
        if word not in _offered(root):
            raise OSError(errno.ENOENT, f"{word} is neither built in nor loaded, or not for this interface")
        free = next(ours for ours in _OURS if ours != root.top.handle)
        bodies = [_body(root.device, free, _ROOT, kind)]
        if leaf:
            bodies += [_body(root.device, 0, free | (i + 1), leaf) for i in range(root.tx_queues)]
    elif int(handle, 16):
        options = dict(pair.split("=", 1) for pair in rest.split(",")) if rest else {}
        bodies = [_body(root.device, int(handle, 16) << 16, _ROOT, kind, _options(kind, options))]
    else:
        if root.top.handle:
            netlink.ask(netlink.ROUTE, _DELQDISC, _TC.pack(0, root.device, root.top.handle, _ROOT, 0))
        return
    netlink.ask(netlink.ROUTE, _NEWQDISC, *bodies, flags=netlink.CREATE | netlink.REPLACE)


def _obstacle(root: Root) -> str:
    """Why this root could not be put back exactly, "" if it can. Ours need not be."""
    top = root.top
    if root.ours:
        return ""
    if top.kind == "noop":
        return "the interface is down and has no queue yet"
    if top.kind not in (*PARAMETERS, *_ALWAYS, "noqueue", "mq"):
        return f"somebody's {top.kind} may have classes, which one word cannot put back"
    if top.stab:
        return f"somebody's {top.kind} has a size table (tc-stab), which one word cannot put back"
    if top.kind == "mq" and (not root.leaf or any(queue.handle for queue in root.leaves)):
        return "somebody has given the queues below mq disciplines of their own"
    if top.handle and netlink.look(
        netlink.ROUTE, _GETTFILTER, _TC.pack(0, root.device, 0, top.handle, 0), netlink.DUMP
    ):
        return f"somebody's {top.kind} has filters, which one word cannot put back"
    default = _default()
    made = root.leaf if root.leaves else "" if top.handle or top.kind == "noqueue" else top.kind
    if made and default and made != default:
        return f"it has {made} by default, and the kernel's default is {default} by now"
    return ""


def _fixed(root: Root) -> str:
    """Why parameters cannot be changed in place: what the kernel has put there by itself has no handle."""
    if all(queue.handle for queue in root.working):
        return ""
    kind = f"mq/{root.leaf}" if root.leaves else root.top.kind
    return f"the kernel's default {kind} cannot be changed in place; set the discipline to {kind} first"


def _offered(root: Root) -> list[str]:
    kinds = [*_ALWAYS, *(kind for kind in _MODULES if _is_here(kind))]
    return kinds + [f"mq/{kind}" for kind in kinds if root.tx_queues > 1 and kind in _LEAVES]


def _is_here(kind: str) -> bool:
    """Whether the kernel has it without loading anything."""
    loaded = os.path.exists(f"/sys/module/sch_{kind}")  # noqa: PTH110
    return loaded or f"sch_{kind}" in _built_in() or kind == _default()


@functools.cache
def _built_in() -> tuple[str, ...]:
    """The queueing disciplines in modules.builtin; a kernel without modules often has no such list."""
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.builtin") as f:
            return tuple(re.findall(r"/(sch_\w+)\.ko", f.read()))
    except OSError:
        return ()


def _default() -> str:
    """net.core.default_qdisc; "" in a network namespace that does not show it."""
    try:
        with open("/proc/sys/net/core/default_qdisc") as f:
            return f.read().strip()
    except OSError:
        return ""


# -------------------------------------------------------------------------------- parameters


def _parameter(name: str) -> tuple[str, str]:
    kind, _, parameter = name.partition(".")
    if parameter not in PARAMETERS.get(kind, ()):
        raise FileNotFoundError(errno.ENOENT, f"{name} is no parameter that is known here")
    return kind, parameter


def _values(queue: Queue) -> dict[str, int]:
    """The parameters of one queue that have a knob, and their values."""
    known = PARAMETERS.get(queue.kind, {})
    if 0 in known.values():
        return {"limit": netlink.number(queue.options[:4])}
    found = netlink.unpack(queue.options)
    return {
        name: _shown(queue.kind, name, netlink.number(found[attribute]))
        for name, attribute in known.items()
        if attribute in found
    }


def _rest(queue: Queue) -> str:
    """What is not a parameter with a knob of a queue that somebody has set up: `flows=1024,ce_mask=0x00`."""
    if not queue.handle or queue.kind not in _OTHERS:
        return ""
    names = {attribute: name for name, attribute in _OTHERS[queue.kind].items()}
    parts = []
    for attribute, payload in netlink.each(queue.options):
        if attribute in PARAMETERS[queue.kind].values() or (queue.kind, attribute) == ("cake", _CAKE_PAD):
            continue
        name = names.get(attribute, str(attribute))
        if len(payload) != 4:
            parts.append(f"{name}=0x{payload.hex()}")
        elif (value := netlink.number(payload)) != _NO_CE.get((queue.kind, name)):
            parts.append(f"{name}={_shown(queue.kind, name, value)}")
    return ",".join(parts)


def _options(kind: str, texts: dict[str, str]) -> bytes:
    """TCA_OPTIONS of these values. OSError for one that the kernel could not show again."""
    names = {**PARAMETERS.get(kind, {}), **_OTHERS.get(kind, {})}
    packed = b""
    for name, text in texts.items():
        attribute = names[name] if name in names else int(name)
        if text.startswith("0x"):
            packed += netlink.pack(attribute, bytes.fromhex(text[2:]))
            continue
        if (kind, name) in _WIDE:
            packed += netlink.pack(attribute, struct.pack("=Q", int(text)))
            continue
        value = link.as_u32(text)
        if (kind, name) in _CODEL and _codel(value) != value:
            near = _codel(value)
            raise OSError(
                errno.EINVAL, f"the kernel counts in steps of 1.024 us: {near} is what {text} comes to"
            )
        if not attribute:
            return netlink.pack(_OPTIONS, struct.pack("=I", value))
        packed += netlink.pack_u32(attribute, value)
    return netlink.pack(_OPTIONS | netlink.NESTED, packed) if packed else b""


def _number(kind: str, parameter: str, text: str) -> str:
    return str(_UNLIMITED[kind, parameter]) if text == UNLIMITED else text


def _shown(kind: str, name: str, value: int) -> int:
    """The smallest number of us that the kernel keeps as it keeps this one: it shows 4999 for 5000."""
    if (kind, name) not in _CODEL:
        return value
    ticks = -(-value * 1000 // 1024)
    return -(-ticks * 1024 // 1000)


def _codel(us: int) -> int:
    """What `_shown` makes of it."""
    return -(-(us * 1000 // 1024) * 1024 // 1000)


# ----------------------------------------------------------------------------------- netlink


def _body(index: int, handle: int, parent: int, kind: str, options: bytes = b"") -> bytes:
    return _TC.pack(0, index, handle, parent, 0) + netlink.pack(_KIND, kind.encode() + b"\0") + options


def _root(index: int) -> Root:
    """The discipline at the root, and the queues of an mq. FileNotFoundError without such an interface."""
    tx_queues = netlink.number(link.attributes(index).get(_IFLA_NUM_TX_QUEUES, b""))
    # Asked for one, the kernel tells whoever listens for events; of a dump, it may give all interfaces.
    answers = netlink.look(netlink.ROUTE, _GETQDISC, _TC.pack(0, index, 0, 0, 0), netlink.DUMP)
    queues = [_queue(data) for _, data in answers if _TC.unpack_from(data)[1] == index]
    top = next((queue for queue in queues if queue.parent == _ROOT), None)
    if top is None:  # the kernel puts none there until the interface is up
        return Root(index, tx_queues, Queue("noop", 0, _ROOT, b"", False), ())
    leaves = [queue for queue in queues if top.kind == "mq" and queue.parent & _MAJOR == top.handle]
    return Root(index, tx_queues, top, tuple(sorted(leaves, key=lambda queue: queue.parent)))


def _queue(data: bytes) -> Queue:
    _, _, handle, parent, _ = _TC.unpack_from(data)
    attributes = netlink.unpack(data[_TC.size :])
    return Queue(
        netlink.word(attributes.get(_KIND, b"")),
        handle,
        parent,
        attributes.get(_OPTIONS, b""),
        _STAB in attributes,
    )
