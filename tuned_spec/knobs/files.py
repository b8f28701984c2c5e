"""Knobs that are files: /proc/sys, /sys, debugfs. One class, three roots.

Owns how a value is shown, parsed, written and refused. Must not know of ranges, policies or the
journal: whether a value is wise is the envelope's question, this module asks the kernel.

All three kinds behave alike: one small text per file, one write(2) per value, errno for a no.
What differs is the way a value is shown, and `Knob.type` says that:

    int     `4096`                          bool    `0`, `1`, `N`, `Y`, `false`, `true`
    ints    `4096<TAB>131072<TAB>6291456`   choice  `always [madvise] never`, or one bare word
    words   `reno bbr`
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, assert_never

import msgspec

from ..errors import KnobAbsent, KnobError, KnobRefused
from ..model import Frozen, Knob, KnobType, Receipt, Value


class Availability(Frozen, frozen=True):
    """What this host offers of one knob. `why` is empty when it can be both read and written."""

    present: bool
    writable: bool
    why: str = ""


class Adapter(Protocol):
    """One way to reach a kind of knob. Only the ledger calls `write`."""

    def path(self, knob: Knob) -> Path: ...
    def probe(self, knob: Knob) -> Availability: ...
    def read_text(self, knob: Knob) -> str: ...
    def offered(self, knob: Knob) -> tuple[str, ...]: ...
    def parse(self, knob: Knob, text: str) -> Value: ...
    def format(self, knob: Knob, value: Value) -> str: ...
    def canonical(self, knob: Knob, value: Value) -> Value: ...
    def identity(self, knob: Knob) -> str: ...
    def write(self, receipt: Receipt, knob: Knob) -> None: ...


# adapter name -> directory below the root that its targets are relative to
PLACES = {
    "sysctl": "proc/sys",
    "sysfs": "sys",
    "debugfs": "sys/kernel/debug",
}


def adapters(root: Path = Path("/")) -> dict[str, Adapter]:
    """The adapters by the name that `Knob.adapter` gives."""
    return {name: Files(root, place) for name, place in PLACES.items()}


def narrowed(catalogue: Mapping[str, Knob], by: Mapping[str, Adapter]) -> dict[str, Knob]:
    """The catalogue with each choice cut down to what this host offers.

    A word that is not on offer is either EINVAL or, worse, loads a module that stays loaded
    (tcp_congestion_control): such a change has no way back.
    """
    return {
        id: msgspec.structs.replace(knob, choices=offered)
        if (offered := by[knob.adapter].offered(knob)) != knob.choices
        else knob
        for id, knob in catalogue.items()
    }


# ------------------------------------------------------------------------------- the files


class Files:
    """Knobs below one directory. `root` is / or a tree that looks like it."""

    def __init__(self, root: Path, place: str) -> None:
        self._root = root
        self._place = root / place

    def path(self, knob: Knob) -> Path:
        """Where the knob lies. KnobRefused for a target that would leave the adapter's directory."""
        return self._below(knob, knob.target)

    def _below(self, knob: Knob, target: str) -> Path:
        if not is_inside(target):
            raise KnobRefused(
                knob.id,
                "probe",
                f"target {target!r} leaves {self._place}",
                hint="give the catalogue entry a plain relative path",
            )
        return self._place / target

    def probe(self, knob: Knob) -> Availability:
        """Whether the knob is here, readable and writable. Opens it both ways, writes nothing.

        access(2) would not do: it knows neither lockdown nor a read-only mount's reason.
        """
        try:
            self.read_text(knob)
        except KnobAbsent as error:
            return Availability(present=False, writable=False, why=_said(error))
        except KnobError as error:
            # Without an errno it was not the kernel that refused: the target is not even looked at.
            return Availability(present=error.code != 0, writable=False, why=_said(error))
        try:
            os.close(os.open(self.path(knob), os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            return Availability(present=True, writable=False, why=_said(self._error(knob, "write", error)))
        return Availability(present=True, writable=True)

    def read_text(self, knob: Knob) -> str:
        """The text as the kernel shows it, stripped. KnobAbsent, or KnobRefused with the errno."""
        return self._read(knob, self.path(knob))

    def _read(self, knob: Knob, path: Path) -> str:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # A sysctl or sysfs attribute is one page at most, and comes whole in one read.
                return os.read(fd, 65536).decode(errors="replace").strip()
            finally:
                os.close(fd)
        except OSError as error:
            raise self._error(knob, "read", error) from error

    def offered(self, knob: Knob) -> tuple[str, ...]:
        """The choices that this host offers: of `choices_from`, of a bracketed text, or the catalogue's.

        Words unknown to the catalogue are left out, but for `choices_from`: that list is the
        kernel's own. A knob that cannot be read keeps its catalogue choices.
        """
        if knob.type is not KnobType.CHOICE:
            return knob.choices
        try:
            if knob.choices_from:
                return tuple(self._read(knob, self._below(knob, knob.choices_from)).split())
            shown = self.read_text(knob)
        except KnobError:
            return knob.choices
        if "[" not in shown:
            return knob.choices
        here = shown.replace("[", " ").replace("]", " ").split()
        return tuple(word for word in knob.choices if word in here)

    def identity(self, knob: Knob) -> str:
        """Which instance of the knob this process sees: "" for the host, or the network namespace.

        /proc/sys/net shows the reader's own namespace. A kernel without namespaces has only one: "".
        """
        if knob.scope != "netns":
            return ""
        try:
            return f"netns:[{(self._root / 'proc/self/ns/net').stat().st_ino}]"
        except FileNotFoundError:
            return ""

    def parse(self, knob: Knob, text: str) -> Value:
        """The canonical value of a text the kernel shows, or of one to write. ValueError says what is wrong.

        Ranges and choices are not asked: the live value of a newer kernel may lie outside the
        catalogue and must still be read, and put back.
        """
        words = text.split()
        match knob.type:
            case KnobType.INT:
                if len(words) != 1:
                    raise ValueError(f"{knob.id}: {text!r} is not one number")
                return _number(knob, words[0])
            case KnobType.INTS:
                if len(words) != len(knob.fields):
                    raise ValueError(
                        f"{knob.id}: {text!r} has {len(words)} numbers, not {len(knob.fields)}"
                        f" ({' '.join(knob.fields)})"
                    )
                return tuple(_number(knob, word) for word in words)
            case KnobType.BOOL:
                if text.strip() not in _BOOLS:
                    raise ValueError(f"{knob.id}: {text!r} is not one of {' '.join(_BOOLS)}")
                return _BOOLS[text.strip()]
            case KnobType.CHOICE:
                chosen = _BRACKETED.findall(text) or words
                if len(chosen) != 1:
                    raise ValueError(f"{knob.id}: {text!r} does not show one chosen word")
                return str(chosen[0])
            case KnobType.WORDS:
                if not words:
                    raise ValueError(f"{knob.id}: an empty list")
                return " ".join(words)
            case KnobType.CPUS:
                return text.strip()
            case _:
                assert_never(knob.type)

    def format(self, knob: Knob, value: Value) -> str:
        """The text to write. ValueError for a value of the wrong shape.

        The shape must be whole, because the kernel is lax: of a triple it takes the numbers that
        come and keeps the rest, an empty text is a successful write of nothing.
        """
        match knob.type, value:
            case KnobType.BOOL, int() if value in (0, 1):
                return str(int(value))
            case KnobType.INT, int() if _is_int(value):
                # written as it will be shown: of these, some knobs refuse what they would have to round
                return str(1 << (value - 1).bit_length() if knob.power_of_two and value > 0 else value)
            case KnobType.INTS, tuple() if len(value) == len(knob.fields) and all(map(_is_int, value)):
                return " ".join(str(number) for number in value)
            case KnobType.CHOICE, str() if len(value.split()) == 1 and not _BRACKETED.search(value):
                return value
            case KnobType.WORDS, str() if value.split():
                return " ".join(value.split())
        wanted = f"{len(knob.fields)} numbers" if knob.type is KnobType.INTS else f"of type {knob.type}"
        raise ValueError(f"{knob.id}: {value!r} is not {wanted}")

    def canonical(self, knob: Knob, value: Value) -> Value:
        """What the kernel will show after `value` was written. ValueError as `format`."""
        shown = self.parse(knob, self.format(knob, value))
        return shown - shown % knob.quantum if isinstance(shown, int) else shown

    def write(self, receipt: Receipt, knob: Knob) -> None:
        """Writes `receipt.text`, once, in one write(2). KnobAbsent, or KnobRefused with errno and hint."""
        path = self.path(knob)
        if (receipt.knob, receipt.target) != (knob.id, str(path)):
            # What the journal would put back elsewhere has no way back here.
            raise KnobRefused(
                knob.id, "write", f"the receipt is for {receipt.knob} at {receipt.target}, not {path}"
            )
        if not receipt.text.strip():
            raise KnobRefused(knob.id, "write", "an empty text, which the kernel takes for success")
        data = receipt.text.encode()
        try:
            # Neither O_CREAT nor O_TRUNC: a knob that is gone must not become a file.
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(knob, "write", error) from error
        try:
            written = os.write(fd, data)
        except OSError as error:
            # ENOENT from write(2) is about the value, not about the file.
            raise KnobRefused(
                knob.id,
                "write",
                f"{receipt.text!r} to {path}: {os.strerror(error.errno or 0)}",
                error.errno or 0,
                _VALUE_HINTS.get(error.errno or 0, ""),
            ) from error
        finally:
            os.close(fd)
        if written != len(data):
            raise KnobRefused(
                knob.id,
                "write",
                f"the kernel took {written} of the {len(data)} bytes of {receipt.text!r}",
                hint="read the knob back before anything else",
            )

    def _error(self, knob: Knob, op: str, error: OSError) -> KnobError:
        """What failing to open or read the file means."""
        code = error.errno or 0
        path = self.path(knob)
        if code in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV):
            hint = "this kernel does not offer it"
            if not self._place.is_dir():
                hint = f"{self._place} is missing"
            elif self._place.name == "debug" and _is_empty(self._place):
                hint = f"debugfs is not mounted: mount -t debugfs debugfs {self._place}"
            return KnobAbsent(knob.id, op, f"{path} is not there", code, hint)
        return KnobRefused(knob.id, op, f"{path}: {os.strerror(code)}", code, _FILE_HINTS.get(code, ""))


def is_inside(target: str) -> bool:
    """Whether `target`, relative to a directory, stays in it by name (symlinks of /sys are the kernel's)."""
    parts = target.split("/")
    return bool(target) and "\0" not in target and not {"", ".", ".."} & set(parts)


# ---------------------------------------------------------------------------------- details

_BOOLS = {"0": 0, "1": 1, "N": 0, "Y": 1, "n": 0, "y": 1, "false": 0, "true": 1}
_BRACKETED = re.compile(r"\[([^\[\]\s]+)\]")

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
}


def _is_empty(directory: Path) -> bool:
    try:
        return not any(directory.iterdir())
    except OSError:
        return False


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(knob: Knob, word: str) -> int:
    # int() alone would also take `1_000` and digits of other scripts
    if not re.fullmatch(r"-?[0-9]+", word):
        raise ValueError(f"{knob.id}: {word!r} is not a number")
    return int(word)


def _said(error: KnobError) -> str:
    return (
        error.what
        + (f" [{errno.errorcode.get(error.code, error.code)}]" if error.code else "")
        + (f"; {error.hint}" if error.hint else "")
    )
