"""Cgroup settings of systemd's units: `unit:nginx.service/CPUWeight`, `unit:a.service/IOReadIOPSMax/vda`.

Owns the few D-Bus messages that this takes (SetUnitProperties, Reload, Get), spoken with PID 1 over its own
socket so that neither a bus daemon nor systemctl need be healthy, and the text in which a setting is kept.
Must not know of knobs or the journal. Standard library only, Python 3.9: the repair uses it too.

systemd writes the cgroup's files from its own properties, so a value is set where systemd keeps it: as a
run-time property, which leaves a drop-in below /run and so outlives a daemon-reload. The way back has to end
both. A text is the value in the words of the cgroup's own file, and, in brackets, what else stands:

    200                        set by a run-time drop-in, as systemd writes it
    100 (unset, no drop-in)    not set (100 is what counts then), and no run-time drop-in
    max (no drop-in)           from elsewhere: the unit's own file, a default
    300 (drop-in W1Nl...)      a run-time drop-in with another text is in that place (base64)
    max 100000 (no drop-in; unset, no drop-in)     one remark for each of the two properties behind cpu.max

`write` brings about what a text says. Where there was no drop-in, it removes ours and has systemd reload,
which derives the value from what is left and writes it to the cgroup. Whether one stands is asked of
systemd, not of the file system: so the way back happens in one moment, the reload; whoever dies before
it leaves value and drop-in, and after it neither. The reload is that of `systemctl daemon-reload`: it also
takes up whatever else was changed in unit files since the last.

The wire format is that of the D-Bus Specification, "Message Protocol" and "Authentication Protocol".
"""

# Paths are strings here: the way back imports little. zip(strict=) is Python 3.10.
# ruff: noqa: PTH106, PTH108, PTH110, PTH116, PTH118, PTH119, PTH120, B905

from __future__ import annotations

import binascii
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

SOCKET = "/run/systemd/private"
DROPINS = "/run/systemd/system.control"
TRANSIENT = "/run/systemd/transient"  # units made at run time, and their drop-ins
LASTING = "/etc/systemd/system.control/"  # `systemctl set-property` without --runtime: wins over DROPINS
PATIENCE_S = 30.0  # for one answer; a reload of many units takes seconds
MANAGER = "/org/freedesktop/systemd1"
PEER = "org.freedesktop.systemd1"
SYSTEMD = PEER + "."  # begins the name of each of its interfaces
UNSET = 2**64 - 1  # in each property that is a number
PAGE = 4096  # the kernel rounds memory limits down to it; so do we, that all see one number
PERCENT = 10_000  # microseconds a second: systemd's drop-in keeps a quota as whole percents
ABSENT = "no drop-in"


IDLE = "CPUIdle"  # not a property but a weight of 0, `idle`; of the drop-in CPUWeight's text speaks


class Property(NamedTuple):
    name: str  # on the bus
    type: str  # its D-Bus signature
    key: str  # in the drop-in
    file: str  # the drop-in is 50-FILE.conf
    unset: str  # the word for what counts while it is not set


def _same(name: str, type: str = "t", unset: str = "max") -> tuple[Property, ...]:
    return (Property(name, type, name, name, unset),)


# What an address names -> the properties behind it
PROPERTIES: dict[str, tuple[Property, ...]] = {
    "CPUWeight": _same("CPUWeight", unset="100"),
    IDLE: _same("CPUWeight", unset="0"),
    "CPUQuota": (
        Property("CPUQuotaPerSecUSec", "t", "CPUQuota", "CPUQuota", "max"),
        Property("CPUQuotaPeriodUSec", "t", "CPUQuotaPeriodSec", "CPUQuotaPeriodSec", "100000"),
    ),
    "AllowedCPUs": _same("AllowedCPUs", "ay", ""),
    "AllowedMemoryNodes": _same("AllowedMemoryNodes", "ay", ""),
    "MemoryMin": _same("MemoryMin"),
    "MemoryLow": _same("MemoryLow"),
    "MemoryHigh": _same("MemoryHigh"),
    "MemorySwapMax": _same("MemorySwapMax"),
    "MemoryZSwapMax": _same("MemoryZSwapMax"),
    "IOWeight": _same("IOWeight", unset="100"),
    "IOReadBandwidthMax": _same("IOReadBandwidthMax", "a(st)"),
    "IOWriteBandwidthMax": _same("IOWriteBandwidthMax", "a(st)"),
    "IOReadIOPSMax": _same("IOReadIOPSMax", "a(st)"),
    "IOWriteIOPSMax": _same("IOWriteIOPSMax", "a(st)"),
    "IODeviceLatency": (
        Property(
            "IODeviceLatencyTargetUSec", "a(st)", "IODeviceLatencyTargetSec", "IODeviceLatencyTargetUSec", "0"
        ),
    ),
    "TasksMax": _same("TasksMax"),
}


class Part(NamedTuple):
    """One property as a text has it."""

    word: str
    unset: bool = False
    dropin: str = ""  # "": one as systemd writes it stands; ABSENT; or the text of it in base64

    @property
    def remark(self) -> str:
        dropin = self.dropin if self.dropin in ("", ABSENT) else f"drop-in {self.dropin}"
        return ", ".join(filter(None, ("unset" if self.unset else "", dropin)))


# ------------------------------------------------------------------------------- read and write


def read(address: str) -> str:
    """The setting as a text. FileNotFoundError: there is no such unit."""
    unit, name, disk = split(address)
    with _bus() as bus:
        return _text(_state(bus, unit, name, disk)[0])


def write(address: str, text: str) -> None:
    """Brings about what the text says. OSError with systemd's words for what it refuses."""
    unit, name, disk = split(address)
    wanted = _parts(name, text)
    with _bus() as bus:
        now, _ = _state(bus, unit, name, disk)
        if now == wanted:
            return
        settings, removed, put = [], [], []
        for property, part, raw in zip(PROPERTIES[name], wanted, _raw(name, wanted, disk)):
            file = _dropin(unit, property)
            # A drop-in is kept by the lines of other disks.
            kept = part.dropin == "" or (part.dropin == ABSENT and _lines(file, property, disk, others=True))
            if not kept and part.dropin == ABSENT:
                removed.append(file)
            elif not kept:
                put.append((file, binascii.a2b_base64(part.dropin)))
            if kept or disk:  # a disk that systemd forgets in a reload keeps its limit in the kernel
                settings.append((property.name, (property.type, raw)))
        if settings:
            bus.call(MANAGER, SYSTEMD + "Manager", "SetUnitProperties", "sba(sv)", unit, True, settings)
        for file in removed:
            _remove(file)
        for file, content in put:
            with open(file, "wb") as f:
                f.write(content)
        if removed or put:
            bus.call(MANAGER, SYSTEMD + "Manager", "Reload")


class _Kept(threading.local):
    bus: Bus | None = None
    wanted = 0


_kept = _Kept()


@contextmanager
def together() -> Iterator[None]:
    """One connection for all that this thread reads and writes in the block: connecting takes longest.

    It must not be kept for longer: systemd sends its signals to every connection, and holds them for those
    who do not listen.
    """
    _kept.wanted += 1
    try:
        yield
    finally:
        _kept.wanted -= 1
        if not _kept.wanted and _kept.bus is not None:
            _kept.bus.close()
            _kept.bus = None


@contextmanager
def _bus() -> Iterator[Bus]:
    if not _kept.wanted:
        with Bus() as bus:
            yield bus
        return
    if _kept.bus is None:
        _kept.bus = Bus()
    try:
        yield _kept.bus
    except (
        ConnectionError,
        TimeoutError,
    ):  # systemd began anew, or is stuck: the next call connects
        _kept.bus.close()
        _kept.bus = None
        raise


_CPUSETS = ("AllowedCPUs", "AllowedMemoryNodes")


def value(text: str) -> str:
    """The text without its remarks: what the cgroup's own file would show."""
    return text.partition("(")[0].strip()


def usable(address: str) -> None:
    """EBUSY if another drop-in would undo a run-time value at the next reload: one read after ours,
    or one of the same name in a directory that wins (systemd.unit(5)); or if there is no way back."""
    unit, name, disk = split(address)
    with Bus() as bus:
        now, dropins = _state(bus, unit, name, disk)
    if name in _CPUSETS and not now[0].word:
        # systemd leaves the controller on, and the kernel takes no empty list back (reach.cgroup).
        raise OSError(
            errno.EBUSY, f"{unit} has no {name}=, and would not be rid of one: give it its slice's list"
        )
    for property in PROPERTIES[name]:
        ours = os.path.basename(_dropin(unit, property))
        for path in dropins:
            file = os.path.basename(path)
            if (file > ours or (file == ours and path.startswith(LASTING))) and _sets(path, property):
                raise OSError(
                    errno.EBUSY,
                    f"{path} sets {property.key}= too and wins at the next reload: remove it there",
                )


def canonical(address: str, text: str) -> str:
    """What `read` gives after that text was written."""
    return _text(_parts(split(address)[1], text))


def known(name: str) -> bool:
    """Whether this systemd has the properties behind a name. OSError where there is no systemd."""
    with Bus() as bus:
        try:
            _state(bus, "-.slice", name, "")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
    return True


def split(address: str) -> tuple[str, str, str]:
    """Unit, name in PROPERTIES, disk or ""."""
    unit, name, disk = [*address.partition(":")[2].split("/"), "", ""][:3]
    if name not in PROPERTIES:
        raise OSError(errno.EINVAL, f"{address}: no setting {name!r}; there are {', '.join(PROPERTIES)}")
    return unit, name, disk


# --------------------------------------------------------------------------------- text, values


def _text(parts: Sequence[Part]) -> str:
    words = " ".join(part.word for part in parts)
    remarks = "; ".join(part.remark for part in parts)
    return f"{words} ({remarks})".strip() if remarks.strip("; ") else words


def _parts(name: str, text: str) -> list[Part]:
    """What a text says, rounded as kernel and systemd would."""
    properties = PROPERTIES[name]
    words = value(text).split() or [""]
    remarks = text.partition("(")[2].rstrip(")").split("; ")
    if len(remarks) != len(properties):
        remarks = [""] * len(properties)
    try:
        if len(words) != len(properties):
            raise ValueError
        if name == "CPUQuota" and words[0] != "max":
            share = max(1, int(words[0]) * 1_000_000 // int(words[1]) // PERCENT)
            words[0] = str(share * PERCENT * int(words[1]) // 1_000_000)
        if name.startswith("Memory") and words[0] != "max":
            words[0] = str(int(words[0]) // PAGE * PAGE)
    except (ValueError, ZeroDivisionError):
        raise OSError(errno.EINVAL, f"{text!r} is no value of {name}") from None
    parts = []
    for word, remark in zip(words, remarks):
        dropin = remark[len("unset") :].lstrip(", ") if remark.startswith("unset") else remark
        parts.append(Part(word, remark.startswith("unset"), dropin if dropin == ABSENT else dropin[8:]))
    return parts


def _raw(name: str, parts: Sequence[Part], disk: str) -> list[Any]:
    """The values for the bus."""
    raw: list[Any] = []
    for property, part in zip(PROPERTIES[name], parts):
        if property.type == "ay":
            raw.append(_bits(part.word))
            continue
        unset = part.unset or part.word == "max" or (disk and part.word == property.unset)
        number = UNSET if unset else int(part.word)
        raw.append([(f"/dev/{disk}", number)] if disk else number)
    if name == IDLE:
        raw[0] = 0 if parts[0].word == "1" else UNSET
    if name == "CPUQuota" and raw[0] != UNSET:
        # The next whole percent: the quota is one, rounded down to microseconds.
        raw[0] = max(1, round(raw[0] * 1_000_000 / int(parts[1].word) / PERCENT)) * PERCENT
    return raw


def _words(name: str, raw: Sequence[Any], disk: str) -> list[str]:
    """The other way round."""
    words = []
    for property, found in zip(PROPERTIES[name], raw):
        if property.type == "ay":
            words.append(_list(found))
            continue
        here = _device(f"/dev/{disk}") if disk else 0
        number = next((x for path, x in found if _device(path) == here), UNSET) if disk else found
        words.append(property.unset if number == UNSET else str(number))
    if name == IDLE:
        words[0] = str(int(raw[0] == 0))
    if name == "CPUQuota" and raw[0] != UNSET:
        words[0] = str(raw[0] * int(words[1]) // 1_000_000)
    return words


def _bits(cpus: str) -> bytes:
    """`0-2,5` as a bit each, the lowest first."""
    bits = 0
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        for cpu in range(int(first), int(last or first) + 1):
            bits |= 1 << cpu
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _list(bits: bytes) -> str:
    cpus = [i for i in range(8 * len(bits)) if bits[i // 8] >> i % 8 & 1]
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# ---------------------------------------------------------------------------- systemd's state


def _state(bus: Bus, unit: str, name: str, disk: str) -> tuple[list[Part], list[str]]:
    """What stands, and the paths of all drop-ins of the unit, as systemd has them in memory."""
    properties = PROPERTIES[name]
    kind = unit.rpartition(".")[2].capitalize()
    asked = [(SYSTEMD + "Unit", "LoadState"), (SYSTEMD + "Unit", "DropInPaths")]
    asked += [(SYSTEMD + kind, property.name) for property in properties]
    load, dropins, *raw = bus.get(f"{MANAGER}/unit/{label(unit)}", asked)
    if load != "loaded":
        raise FileNotFoundError(errno.ENOENT, f"{unit} is {load}")
    if any(x.startswith(TRANSIENT) for x in dropins) and not os.path.exists(os.path.join(TRANSIENT, unit)):
        raise FileNotFoundError(
            errno.ENOENT, f"{unit} was made at run time, and is over"
        )  # not yet forgotten
    parts = []
    for property, word, found in zip(properties, _words(name, raw, disk), raw):
        if name == IDLE:
            return [Part(word)], dropins
        unset = found == UNSET and property.unset != "max"
        parts.append(Part(word, unset, _standing(_dropin(unit, property), property, disk, dropins)))
    return parts, dropins


def _standing(file: str, property: Property, disk: str, dropins: Sequence[str]) -> str:
    """As Part.dropin."""
    if file not in dropins:
        return ABSENT
    try:
        with open(file, "rb") as f:
            content = f.read()
    except FileNotFoundError:
        return ""  # removed, and in force until the reload
    lines = [x for x in content.decode("utf-8", "replace").split("\n") if x and x[0] not in "#["]
    if not content.startswith(b"#") or not all(line.startswith(property.key + "=") for line in lines):
        return binascii.b2a_base64(content, newline=False).decode()
    return ABSENT if disk and not _lines(file, property, disk, others=False) else ""


def _lines(file: str, property: Property, disk: str, others: bool) -> bool:
    """Whether that drop-in has a line of this disk, or of others."""
    if not disk:
        return False
    here = _device(f"/dev/{disk}")
    try:
        with open(file) as f:
            values = [x.split("=", 1)[1].split() for x in f if x.startswith(property.key + "=")]
    except FileNotFoundError:
        return False
    return any((_device(x[0]) != here) == others for x in values if x)


def _sets(path: str, property: Property) -> bool:
    try:
        with open(path, errors="replace") as f:
            return any(line.replace(" ", "").startswith(property.key + "=") for line in f)
    except OSError:
        return False


def _dropin(unit: str, property: Property) -> str:
    where = TRANSIENT if os.path.exists(os.path.join(TRANSIENT, unit)) else DROPINS
    return os.path.join(where, f"{unit}.d", f"50-{property.file}.conf")


def _remove(file: str) -> None:
    try:
        os.unlink(file)
        os.rmdir(os.path.dirname(file))
    except FileNotFoundError:
        pass  # already, by one who died before the reload
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _device(path: str) -> int | str:
    """The number of a disk, by whatever name, or of the one that a file is on; else the path itself."""
    try:
        found = os.stat(path)
    except OSError:
        return path
    if stat.S_ISCHR(found.st_mode):
        return path
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev


# ------------------------------------------------------------------------------------- the bus


class Bus:
    """One connection, and the peer on it that is spoken with: PID 1, without a bus in between."""

    def __init__(self, path: str = SOCKET, peer: str = PEER) -> None:
        self._serial, self._peer = 0, peer
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.connect(path)
            self._stream = self._socket.makefile("rb")
            uid = str(os.geteuid()).encode().hex()
            self._socket.sendall(f"\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n".encode())
            answer = self._stream.readline(512)
        except OSError as error:
            self._socket.close()
            # Not ENOENT, which would say that the unit is gone.
            raise OSError(errno.ENOTCONN, f"{path}: {error.strerror or error}: is PID 1 systemd?") from error
        if not answer.startswith(b"OK "):
            self.close()
            raise OSError(errno.EACCES, f"{path} does not take uid {os.geteuid()}: {answer.decode().strip()}")

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def call(self, path: str, interface: str, member: str, signature: str = "", *args: Any) -> list[Any]:
        """One call; the body of the answer. OSError for one of error."""
        self._send(path, interface, member, signature, args)
        return self._answer(self._serial)

    def get(self, path: str, properties: Iterable[tuple[str, str]]) -> list[Any]:
        """The values of several (interface, name) in one go."""
        serials = []
        for interface, name in properties:
            self._send(path, "org.freedesktop.DBus.Properties", "Get", "ss", (interface, name))
            serials.append(self._serial)
        return [self._answer(serial)[0][1] for serial in serials]

    def _send(self, path: str, interface: str, member: str, signature: str, args: Sequence[Any]) -> None:
        self._serial += 1
        self._socket.sendall(message(self._serial, self._peer, path, interface, member, signature, args))

    def _answer(self, serial: int) -> list[Any]:
        """Whatever else comes in between (signals) is passed over."""
        while True:
            kind, fields, body = self._receive()
            if fields.get(5) != serial:
                continue
            if kind == 3:
                raise _refusal(str(fields.get(4, "")), str(body[0]) if body else "")
            return body

    def _receive(self) -> tuple[int, dict[int, Any], list[Any]]:
        """Type, header fields and body of the next message."""
        head = self._take(16)
        if head[:1] != b"l":
            raise OSError(errno.EPROTO, "systemd answers in another byte order")
        length, _, size = struct.unpack_from("<III", head, 4)
        rest = self._take(size + -size % 8 + length)
        fields, _ = unmarshal("a(yv)", head[12:] + b"\0\0\0\0" + rest[:size], 0)
        known = {code: value for code, (_, value) in fields}
        body, at = [], 0
        data = rest[size + -size % 8 :]
        for type in types(known.get(8, "")):
            value, at = unmarshal(type, data, at)
            body.append(value)
        return head[1], known, body

    def _take(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except OSError as error:  # a timeout has no errno
            raise OSError(errno.ETIMEDOUT, f"systemd has not answered in {PATIENCE_S:g} s") from error
        if len(data) < size:
            raise OSError(errno.ECONNRESET, "systemd closed the connection")
        return data


_ERRORS = {  # the last part of the bus's name of an error
    "NoSuchUnit": errno.ENOENT,
    "UnknownObject": errno.ENOENT,
    "InvalidArgs": errno.EINVAL,
    "UnknownProperty": errno.EOPNOTSUPP,
    "PropertyReadOnly": errno.EOPNOTSUPP,
    "AccessDenied": errno.EACCES,
    "UnitMasked": errno.EBUSY,
}


def _refusal(name: str, what: str) -> OSError:
    return OSError(_ERRORS.get(name.rpartition(".")[2], errno.EIO), f"systemd: {what or name}")


def label(unit: str) -> str:
    """A unit's name as the last part of its object path."""
    safe = [chr(c) if c < 128 and chr(c).isalnum() else f"_{c:02x}" for c in unit.encode()]
    if safe[:1] and safe[0].isdigit():
        safe[0] = f"_{ord(safe[0]):02x}"
    return "".join(safe)


def message(
    serial: int, peer: str, path: str, interface: str, member: str, signature: str, args: Sequence[Any]
) -> bytes:
    """A method call."""
    body = bytearray()
    for type, arg in zip(types(signature), args):
        marshal(body, type, arg)
    fields = [(1, ("o", path)), (2, ("s", interface)), (3, ("s", member)), (6, ("s", peer))]
    if signature:
        fields.append((8, ("g", signature)))
    out = bytearray(struct.pack("<cBBBII", b"l", 1, 0, 1, len(body), serial))
    marshal(out, "a(yv)", fields)
    _pad(out, 8)
    return bytes(out + body)


_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}


def types(signature: str) -> list[str]:
    """The complete types of a signature."""
    found = []
    at = 0
    while at < len(signature):
        end = at
        while signature[end] == "a":
            end += 1
        depth = 0
        while True:
            depth += (signature[end] in "({") - (signature[end] in ")}")
            end += 1
            if not depth:
                break
        found.append(signature[at:end])
        at = end
    return found


def _alignment(type: str) -> int:
    return (
        struct.calcsize(_FIXED[type]) if type in _FIXED else {"(": 8, "{": 8, "g": 1, "v": 1}.get(type[0], 4)
    )


def _pad(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def marshal(out: bytearray, type: str, value: Any) -> None:
    """Appends one value of one complete type; `out` begins where alignment counts from."""
    _pad(out, _alignment(type))
    if type in _FIXED:
        out += struct.pack("<" + _FIXED[type], value)
    elif type in ("s", "o", "g"):
        data = value.encode()
        out += struct.pack("<B" if type == "g" else "<I", len(data)) + data + b"\0"
    elif type == "v":
        marshal(out, "g", value[0])
        marshal(out, value[0], value[1])
    elif type[0] == "a":
        at = len(out)
        out += bytes(4)
        _pad(out, _alignment(type[1:]))
        start = len(out)
        for item in value:
            marshal(out, type[1:], item)
        struct.pack_into("<I", out, at, len(out) - start)
    else:
        for member, item in zip(types(type[1:-1]), value):
            marshal(out, member, item)


def unmarshal(type: str, data: bytes, at: int) -> tuple[Any, int]:
    """One value of one complete type, and where it ends."""
    at += -at % _alignment(type)
    if type in _FIXED:
        (value,) = struct.unpack_from("<" + _FIXED[type], data, at)
        return (bool(value) if type == "b" else value), at + struct.calcsize(_FIXED[type])
    if type in ("s", "o", "g"):
        head = "<B" if type == "g" else "<I"
        (size,) = struct.unpack_from(head, data, at)
        at += struct.calcsize(head)
        return data[at : at + size].decode("utf-8", "replace"), at + size + 1
    if type == "v":
        inner, at = unmarshal("g", data, at)
        value, at = unmarshal(inner, data, at)
        return (inner, value), at
    if type[0] == "a":
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        at += -at % _alignment(type[1:])
        end, items = at + size, []
        while at < end:
            item, at = unmarshal(type[1:], data, at)
            items.append(item)
        return (bytes(items) if type == "ay" else items), at
    values = []
    for member in types(type[1:-1]):
        value, at = unmarshal(member, data, at)
        values.append(value)
    return tuple(values), at
