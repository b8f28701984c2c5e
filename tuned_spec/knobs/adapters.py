"""Access to the knobs of this host: one adapter, and a table of what differs from kind to kind.

Owns where a knob of each kind is, which instances of an entry are here, and what a refusal means. How an
address is read and written is `reach`'s, what a text means `text`'s. Must not know of ranges, policies or
the journal: whether a value is wise is the envelope's question, this module asks the kernel.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import KnobAbsent, KnobError, KnobRefused
from ..model import Frozen, Knob, KnobType, Receipt, Value
from . import blocks, caps, cgroups, cpus, links, namespaces, reach, tasks, text
from .facts import host_facts


class Availability(Frozen, frozen=True):
    """What this host offers of one knob. `why` is empty when it can be both read and written."""

    present: bool
    writable: bool
    why: str = ""


def _no_instances(root: Path, entry: Knob) -> tuple[str, ...]:
    return ()


def _no_facts(root: Path, knob: Knob) -> caps.Facts:
    return {}


def _itself(
    root: Path, knob: Knob, among: Collection[int] | None = None, known: Container[int] = ()
) -> tuple[Knob, ...]:
    return (knob,)


def _as_it_is(root: Path, knob: Knob) -> Knob:
    return knob


class Kind(NamedTuple):
    """What differs. `address` raises KnobRefused for a target that leads elsewhere; `instances` are the
    names that an entry has here now, sorted; `members` are the concrete knobs that one stands for;
    `facts` are those of one instance that its cap asks for; `within` cuts the range down to what the device
    itself says that it takes."""

    address: Callable[[Path, Knob], str]
    instances: Callable[[Path, Knob], tuple[str, ...]] = _no_instances
    identity: Callable[[Path, Knob], str] = namespaces.identity
    members: Callable[[Path, Knob, Collection[int] | None, Container[int]], tuple[Knob, ...]] = _itself
    facts: Callable[[Path, Knob], caps.Facts] = _no_facts
    within: Callable[[Path, Knob], Knob] = _as_it_is


def is_inside(target: str) -> bool:
    """Whether `target`, relative to a directory, stays in it by name (symlinks of /sys are the kernel's)."""
    parts = target.split("/")
    return bool(target) and "\0" not in target and not {"", ".", ".."} & set(parts)


def below(place: str, scheme: str = "", between: str = "") -> Callable[[Path, Knob], str]:
    """Addresses of files: the knob's target below one directory, read and written by `scheme` if not plainly.

    `between` comes after the target's first directory: eth0/rx-0/rps_cpus is eth0/queues/rx-0/rps_cpus.
    """

    def address(root: Path, knob: Knob) -> str:
        if not is_inside(knob.target):
            hint = "give the catalogue entry a plain relative path"
            raise KnobRefused(knob.id, "probe", f"target {knob.target!r} leaves {root / place}", hint=hint)
        first, _, rest = knob.target.partition("/")
        path = root / place / first / between / rest
        return f"{scheme}:{path}" if scheme else str(path)

    return address


# adapter name -> directory below the root that its targets are relative to
PLACES = {
    "sysctl": "proc/sys",
    "sysfs": "sys",
    "debugfs": "sys/kernel/debug",
}

_sysctl = below(PLACES["sysctl"])

KINDS: dict[str, Kind] = {
    "sysctl": Kind(lambda root, knob: namespaces.address(root, knob, _sysctl(root, knob)), namespaces.names),
    "sysfs": Kind(below(PLACES["sysfs"]), cpus.found(PLACES["sysfs"])),
    "debugfs": Kind(below(PLACES["debugfs"])),
    "feature": Kind(below("sys/kernel/debug", "words")),
    "block": Kind(below("sys"), blocks.disks, blocks.identity, facts=blocks.facts),
    "cgroup": Kind(cgroups.address, cgroups.instances, cgroups.identity),
    "cpu": Kind(
        below("sys/devices/system/cpu"), cpus.found("sys/devices/system/cpu"), facts=cpus.frequencies
    ),
    "idle": Kind(
        below("sys/devices/system/cpu", between="cpuidle"), cpus.found("sys/devices/system/cpu", "cpuidle")
    ),
    "irq": Kind(below("proc"), cpus.irqs, cpus.irq_identity),
    "queue": Kind(below("sys/class/net", between="queues"), cpus.queues, cpus.nic_identity),
    "held": Kind(below("dev", "held"), identity=cpus.holder),
    **{
        name: Kind(links.address, links.instances, links.identity, within=links.within)
        for name in ("link", "qdisc", "ethtool")
    },
    "task": Kind(tasks.address, identity=tasks.identity, members=tasks.members),
}


def adapters(root: Path = Path("/")) -> dict[str, Adapter]:
    """The adapters by the name that `Knob.adapter` gives."""
    facts = host_facts(root)
    return {name: Adapter(root, kind, facts) for name, kind in KINDS.items()}


def offering(knob: Knob, adapter: Adapter) -> Knob:
    """The knob with its choices cut down to what this host offers, its range to what the host can bear.

    A word that is not on offer is either EINVAL or, worse, loads a module that stays loaded
    (tcp_congestion_control): such a change has no way back.
    """
    knob, offered = adapter.within(knob), adapter.offered(knob)
    if offered != knob.choices:
        return msgspec.structs.replace(knob, choices=offered)
    return caps.capped(knob, adapter.facts(knob)) if knob.cap else knob


class Adapter:
    """Knobs of one kind. `root` is / or a tree that looks like it."""

    def __init__(self, root: Path, kind: Kind, facts: caps.Facts) -> None:
        self._root, self._kind, self._facts = root, kind, facts

    def facts(self, knob: Knob) -> caps.Facts:
        """What this host tells of itself, and of the one thing that the knob is of."""
        return {**self._facts, **self._kind.facts(self._root, knob)}

    def address(self, knob: Knob) -> str:
        """Where the knob is, for `reach`. KnobRefused, or KnobAbsent for an entry without an instance."""
        if knob.per and not knob.instance:
            hint = f"name one: {knob.id}@... (`tuned-spec knobs {knob.id}` lists them)"
            raise KnobAbsent(knob.id, "probe", f"there is one for each {knob.per}", hint=hint)
        return self._kind.address(self._root, knob)

    def instances(self, entry: Knob) -> tuple[str, ...]:
        """The names of which this host has such a knob now."""
        return self._kind.instances(self._root, entry)

    def within(self, knob: Knob) -> Knob:
        """The knob with the range that this very device takes."""
        return self._kind.within(self._root, knob)

    def members(
        self, knob: Knob, among: Collection[int] | None = None, known: Container[int] = ()
    ) -> tuple[Knob, ...]:
        """The knobs that are written when this one is: itself, but for a selector of tasks, which stands for
        those there are now (of `among` these processes, but for `known` TIDs). KnobRefused: no selector."""
        return self._kind.members(self._root, knob, among, known)

    def identity(self, knob: Knob) -> str:
        """Which very thing it is a knob of: "" for the host, or as `reach.gone` takes it."""
        return self._kind.identity(self._root, knob)

    def probe(self, knob: Knob) -> Availability:
        """Whether the knob is here, readable and writable. Writes nothing."""
        try:
            members = self.members(knob)
            self._text_of(knob, members)
        except KnobAbsent as error:
            return Availability(present=False, writable=False, why=_said(error))
        except KnobError as error:
            # Without an errno it was not the kernel that refused: the target is not even looked at.
            return Availability(present=error.code != 0, writable=False, why=_said(error))
        try:
            for one in members:
                try:
                    reach.usable(self.address(one))
                except FileNotFoundError:
                    if one is knob:
                        raise  # a task that has ended says nothing of the others
        except OSError as error:
            return Availability(present=True, writable=False, why=_said(self._error(knob, "write", error)))
        return Availability(present=True, writable=True)

    def read_text(self, knob: Knob) -> str:
        """The text as the kernel shows it, stripped; of a selector what most of its members show.

        KnobAbsent, or KnobRefused with the errno.
        """
        return self._text_of(knob, self.members(knob))

    def _text_of(self, knob: Knob, members: tuple[Knob, ...]) -> str:
        if members == (knob,):
            return self._read(knob, self.address(knob))
        texts: list[str] = []
        why: KnobError = KnobAbsent(knob.id, "read", f"no task matches {knob.instance} now")
        for one in members:
            try:
                texts.append(self._read(one, self.address(one)))
            except KnobError as error:
                why = error  # it has ended, or has no such thing
        if not texts:
            raise why
        return self.prevailing(knob, texts)

    def prevailing(self, knob: Knob, texts: Iterable[str]) -> str:
        """The most frequent text; of several the one of the lowest value."""

        def rank(counted: tuple[str, int]) -> tuple[int, bool, Value]:
            try:
                return -counted[1], False, self.parse(knob, counted[0])
            except ValueError:
                return -counted[1], True, counted[0]

        return min(Counter(texts).items(), key=rank)[0]

    def _read(self, knob: Knob, address: str) -> str:
        try:
            shown = reach.read(address)
        except OSError as error:
            raise self._error(knob, "read", error) from error
        if not shown and knob.type not in _EMPTY:  # kernel.sched_energy_aware, where no CPU is slower
            raise KnobAbsent(knob.id, "read", f"{address} shows nothing", hint="it has no use on this host")
        return shown

    def offered(self, knob: Knob) -> tuple[str, ...]:
        """The choices that this host offers: of `choices_from`, of a bracketed text, or the catalogue's.

        Words unknown to the catalogue are left out, but for `choices_from`: that list is the
        kernel's own. A knob that cannot be read keeps its catalogue choices.
        """
        if knob.type is not KnobType.CHOICE:
            return knob.choices
        try:
            if knob.choices_from:
                beside = msgspec.structs.replace(knob, target=knob.choices_from)
                return tuple(self._read(knob, self.address(beside)).split())
            shown = self.read_text(knob)
        except KnobError:
            return knob.choices
        if not set(shown) & set("[("):
            return knob.choices
        here = shown.translate(str.maketrans("[]()", "    ")).split()
        return tuple(word for word in knob.choices if word in here)

    def parse(self, knob: Knob, shown: str) -> Value:
        return text.parse(knob, shown)

    def format(self, knob: Knob, value: Value) -> str:
        return text.format(knob, value)

    def canonical(self, knob: Knob, value: Value) -> Value:
        return text.canonical(knob, value)

    def write(self, receipt: Receipt, knob: Knob) -> None:
        """Writes `receipt.text`, once. KnobAbsent, or KnobRefused with errno and hint."""
        address = self.address(knob)
        if (receipt.knob, receipt.target) != (knob.id, address):
            # What the journal would put back elsewhere has no way back here.
            raise KnobRefused(
                knob.id, "write", f"the receipt is for {receipt.knob} at {receipt.target}, not {address}"
            )
        if not receipt.text.strip() and knob.type not in _EMPTY:
            raise KnobRefused(knob.id, "write", "an empty text, which the kernel takes for success")
        try:
            reach.write(address, receipt.text)
        except OSError as error:
            try:
                reach.usable(address)
            except OSError as missing:
                raise self._error(knob, "write", missing) from error
            # It is there: even ENOENT is about the value.
            code = error.errno or 0
            what = f"{receipt.text!r} to {address}: {error.strerror or error}"
            raise KnobRefused(knob.id, "write", what, code, _VALUE_HINTS.get(code, "")) from error

    def _error(self, knob: Knob, op: str, error: OSError) -> KnobError:
        """What failing to open or read it means."""
        code = error.errno or 0
        address = self.address(knob)
        if code in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.ESRCH):
            hint = "this kernel does not offer it" if not knob.instance else f"{knob.instance} has none now"
            if place := PLACES.get(knob.adapter):
                directory = self._root / place
                if not directory.is_dir():
                    hint = f"{directory} is missing"
                elif directory.name == "debug" and _is_empty(directory):
                    hint = f"debugfs is not mounted: mount -t debugfs debugfs {directory}"
            if error.strerror not in (None, os.strerror(code)):
                hint = error.strerror  # reach says why
            return KnobAbsent(knob.id, op, f"{address} is not there", code, hint)
        what = f"{address}: {error.strerror or os.strerror(code)}"
        return KnobRefused(knob.id, op, what, code, _FILE_HINTS.get(code, ""))


# ---------------------------------------------------------------------------------- details

_EMPTY = (KnobType.CPUS, KnobType.CPUMASK)  # no CPU is a value

# errno of open(2) and read(2)
_FILE_HINTS = {
    errno.EPERM: "kernel lockdown or a missing capability: see /sys/kernel/security/lockdown and the"
    " CapabilityBoundingSet of the service",
    errno.EACCES: "run as root; a file without write permission stays read-only even for root",
    errno.EROFS: "mounted read-only: a container, or ProtectKernelTunables= of the service",
    errno.EISDIR: "the catalogue's target is a directory",
    errno.EINVAL: "this kernel cannot show it now",
}

# errno of write(2)
_VALUE_HINTS = {
    errno.EINVAL: "the kernel does not accept this value, or not now: see the entry's range and source",
    errno.ERANGE: "the number does not fit the kernel's type",
    errno.EPERM: "kernel lockdown, a missing capability, or a namespace that may not choose this value",
    errno.EACCES: "run as root with the capability this knob asks for",
    errno.EROFS: "mounted read-only: a container, or ProtectKernelTunables= of the service",
    errno.EBUSY: "in use: try again when its users are gone",
    errno.ENOENT: "this kernel has nothing of that name, built in or as a module",
    errno.ENODEV: "the feature behind it failed to start: see the kernel log",
    errno.ENOMEM: "the kernel has no memory for it now",
    errno.EOPNOTSUPP: "this kernel or its hardware does not support the value",
    errno.EIO: "read the knob back before anything else",
}


def _is_empty(directory: Path) -> bool:
    try:
        return not any(directory.iterdir())
    except OSError:
        return False


def _said(error: KnobError) -> str:
    return (
        error.what
        + (f" [{errno.errorcode.get(error.code, error.code)}]" if error.code else "")
        + (f"; {error.hint}" if error.hint else "")
    )
