"""What may be spent on models in any hour and any day, and a record of it that outlives the actor.

A call is charged before it is made, with an estimate, and corrected after: one that fails, is abandoned, or
takes the actor with it stays charged. The record is two files, opened while privileges last and kept open:
when one has grown, what still counts is copied to the other, and only then is it emptied, so that a kill at
any moment loses nothing (entries have names, so both together are read as one). Must not know a model or a
price.

Ages within a boot are by CLOCK_BOOTTIME, which never steps. What an earlier boot spent is aged by the wall
clock as it stands when the record is opened; from the future it counts as just spent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import msgspec

from tuned_spec.actor.config import Budget
from tuned_spec.model import Frozen

HOUR_S, DAY_S = 3600.0, 86400.0
COMPACT_BYTES = 256 * 1024
MOST_READ = 4 << 20  # of one file, its end: more than that is damage
MOST_NAMED = 5  # damaged lines that are complained of, one by one
LOCK_S = 2.0  # how long an actor that is being killed may still hold the record


class Spent(Exception):
    """The budget does not allow it; says which and when it will."""


class Entry(Frozen, frozen=True):
    """One call. The last of a name counts."""

    id: str
    boot: str
    t: float  # CLOCK_BOOTTIME
    wall: float
    tokens: Annotated[int, msgspec.Meta(ge=0)]
    money: Annotated[float, msgspec.Meta(ge=0)]


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Purse:
    """Thread-safe. Without files (tests, `actor check`) it forgets when it is gone."""

    def __init__(
        self,
        budget: Budget,
        record: Record | None = None,
        clock: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        boot: str = "",
    ) -> None:
        self.budget = budget
        self._clock, self._wall, self._boot = clock, wall, boot
        self._lock = threading.Lock()
        self._bounded = any(bound is not None for bound in msgspec.structs.astuple(budget))
        self._record = record if self._bounded else None
        self._entries: dict[str, Entry] = {}
        if self._record:
            self._entries = {e.id: self._aged(e) for e in self._record.read()}

    def reserve(self, tokens: int, money: float) -> str:
        """A name for `settle`; Spent if it is too much, or cannot be put on record."""
        with self._lock:
            now = self._clock()
            self._entries = {name: e for name, e in self._entries.items() if now - e.t < DAY_S}
            for what, bound, window, amount in self._bounds(tokens, money):
                self._check(what, bound, window, amount, now)
            entry = Entry(secrets.token_hex(6), self._boot, now, self._wall(), tokens, money)
            self._write(entry)
            return entry.id

    def settle(self, name: str, tokens: int, money: float) -> None:
        """What it came to. Not on record, the estimate stands there."""
        with self._lock:
            if (entry := self._entries.get(name)) is None:
                return
            try:
                self._write(msgspec.structs.replace(entry, tokens=tokens, money=money))
            except Spent:
                pass

    def spent(self, window: float) -> tuple[int, float]:
        """Tokens and money of the last so many seconds."""
        with self._lock:
            recent = [e for e in self._entries.values() if self._clock() - e.t < window]
            return sum(e.tokens for e in recent), sum(e.money for e in recent)

    def _bounds(self, tokens: int, money: float) -> list[tuple[str, float | None, float, float]]:
        budget = self.budget
        return [
            ("tokens_an_hour", budget.tokens_an_hour, HOUR_S, tokens),
            ("tokens_a_day", budget.tokens_a_day, DAY_S, tokens),
            ("money_an_hour", budget.money_an_hour, HOUR_S, money),
            ("money_a_day", budget.money_a_day, DAY_S, money),
        ]

    def _check(self, what: str, bound: float | None, window: float, amount: float, now: float) -> None:
        if bound is None:
            return
        if amount > bound:
            raise Spent(f"budget.{what}: {amount:.6g} for one call is more than all of {bound:.6g}; raise it")
        of = attrgetter(what.partition("_")[0])
        recent = sorted((e for e in self._entries.values() if now - e.t < window), key=lambda e: e.t)
        used = sum(of(e) for e in recent)
        if used + amount <= bound * (1 + 1e-12):
            return
        left, free_at = used, now
        for entry in recent:
            left, free_at = left - of(entry), entry.t + window
            if left + amount <= bound:
                break
        raise Spent(
            f"budget.{what} is spent: {used:.6g} of {bound:.6g}; free again in {_span(free_at - now)}"
        )

    def _write(self, entry: Entry) -> None:
        if self._record:
            try:
                self._record.append(entry, self._entries.values())
            except OSError as error:
                raise Spent(
                    f"what a call costs cannot be recorded ({error.strerror}): none is made; make room"
                ) from None
        if self._bounded:
            self._entries[entry.id] = entry

    def _aged(self, entry: Entry) -> Entry:
        """With `t` as this boot's clock would have shown it."""
        now = self._clock()
        same = entry.boot == self._boot and entry.t <= now
        t = entry.t if same else now - max(0.0, self._wall() - entry.wall)
        return msgspec.structs.replace(entry, t=t)


class Record:
    """The two files. OSError, or BlockingIOError if another actor has them."""

    def __init__(self, directory: Path, name: str, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._paths = (directory / f"{name}.0", directory / f"{name}.1")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fds = [os.open(path, flags, 0o600) for path in self._paths]
        for path, fd in zip(self._paths, self._fds, strict=True):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                self.close()
                raise OSError(errno.EINVAL, "is not a regular file", str(path))
        self._now = 0  # which of them is appended to
        self._size = 0
        end = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(self._fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    self.close()
                    raise
                time.sleep(0.02)

    def read(self) -> list[Entry]:
        """What both hold, each name once, damaged lines named; appending goes on where most is."""
        found: dict[str, Entry] = {}
        sizes = []
        damaged = 0
        for path, fd in zip(self._paths, self._fds, strict=True):
            size = os.fstat(fd).st_size
            sizes.append(size)
            data = os.pread(fd, MOST_READ, max(0, size - MOST_READ))
            for number, line in enumerate(data.splitlines(), 1):
                if not line.strip():
                    continue
                try:
                    entry = msgspec.json.decode(line, type=Entry)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    damaged += 1
                    if damaged <= MOST_NAMED:
                        self._complain(f"{path}:{number}: damaged, so what it says was spent is not counted")
                    continue
                found[entry.id] = entry
            if data and not data.endswith(b"\n"):
                os.write(fd, b"\n")
        if damaged > MOST_NAMED:
            self._complain(f"{self._paths[0].parent}: {damaged - MOST_NAMED} more damaged lines")
        self._now = max((0, 1), key=sizes.__getitem__)
        self._size = sizes[self._now]
        return list(found.values())

    def append(self, entry: Entry, live: Iterable[Entry]) -> None:
        """On disk but for the kernel's own buffers: a killed process loses nothing."""
        if self._size > COMPACT_BYTES:
            self._change_over(live)
        self._put(self._fds[self._now], _lines([entry]))

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _change_over(self, live: Iterable[Entry]) -> None:
        """Only what still counts, in the other file; then this one is emptied."""
        other = 1 - self._now
        lines = _lines(live)
        if len(lines) > COMPACT_BYTES / 2:
            return  # so busy a day is left to grow
        os.ftruncate(self._fds[other], 0)
        self._put(self._fds[other], lines)
        os.ftruncate(self._fds[self._now], 0)
        self._now, self._size = other, len(lines)

    def _put(self, fd: int, lines: bytes) -> None:
        written = os.write(fd, lines)
        if written < len(lines):  # the disk is full: half a line must not damage the next
            os.ftruncate(fd, os.fstat(fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _span(seconds: float) -> str:
    """As one says it, rounded up."""
    minutes = -(-seconds // 60)
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
