"""The undo journal: what each knob was before we touched it, on record before we touch it.

Owns undo.db and undo.index in the runtime directory (their format is repair.py's, which must read them
without us), the memory copy of the rows, and the making of receipts. Must not know how a knob is read
or written, nor when.

The daemon dies, not the power: SQLite with a write-ahead log and synchronous=OFF. A write is two
transactions whatever the number of knobs: `intend` (before the kernel) with every text that any row
may show until the write has been read back, and `settle` (after) with what it then showed. The memory copy
is what the process itself restores from, so that reverts need no disk; rows that the disk has missed
are written with the next transaction that succeeds.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from tuned_spec import paths
from tuned_spec.errors import AlreadyRunning, JournalError, UsageError
from tuned_spec.knobs import reach
from tuned_spec.ledger import repair
from tuned_spec.ledger.repair import Row
from tuned_spec.model import Receipt, RowStatus

REACH = Path(reach.__file__).parent
INDEX_LIMIT = 65536  # bytes; beyond, the index is written anew with one line a knob


def take_lock(directory: Path) -> int:
    """Hold the runtime directory for the life of the process; the descriptor is the hold.

    AlreadyRunning names the process that has it. UsageError: others could write what we would trust.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        repair.demand_ours(os.fspath(directory))
        return repair.take_lock(os.fspath(directory))
    except repair.Unusable as e:
        raise UsageError(str(e)) from e
    except repair.Locked as e:
        raise AlreadyRunning(
            f"{directory} is {e}: stop that one first, or give this one another --runtime-dir"
        ) from e


def leave_repair(directory: Path) -> None:
    """The way back, as files of its own: what reaches the knobs first, then what needs it."""
    (directory / REACH.name).mkdir(mode=0o755, exist_ok=True)
    for source in (*REACH.glob("*.py"), Path(repair.__file__)):
        place = directory / (REACH.name if source.parent == REACH else "") / source.name
        shutil.copyfile(source, place.with_suffix(".new"))
        place.with_suffix(".new").rename(place)


class Journal:
    """Open once, by the process that holds the lock of `directory`.

    `boot_id` is the kernel's random/boot_id; rows of another boot become VOID. Opening leaves a copy of
    repair.py (with `reach`) in the directory. JournalError: the directory cannot be used, or the
    journal in it is damaged.
    """

    def __init__(self, directory: Path, boot_id: str) -> None:
        self.directory, self.boot_id = directory, boot_id
        self.path = directory / paths.JOURNAL
        self.rows: dict[str, Row] = {}
        self._late: set[str] = set()  # knobs whose rows the disk has missed
        self._index_late: set[str] = set()  # knobs whose change of state the index has missed
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            loaded = repair.load(os.fspath(directory))
            if loaded.db is not None:
                loaded.db.close()
            if loaded.damage:
                raise JournalError(
                    "; ".join(loaded.damage) + f": run `python3 {directory / paths.REPAIR}`, then move "
                    f"{self.path}* and {directory / repair.INDEX} away"
                )
            self.rows = {row.knob: row for row in loaded.rows}
            self._seq = max((row.seq for row in loaded.rows), default=0)
            self._ids = max((row.id for row in loaded.rows), default=0)
            leave_repair(directory)
            self._db = repair.connect(os.fspath(self.path))
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 100")
            repair.renew(self._db, loaded.rows)
            self._db.execute(repair.SCHEMA)
            self._file = self._inode()
            if self.rows:
                repair.save_index(os.fspath(directory), self.rows.values())
            old = [r for r in loaded.rows if r.boot_id != boot_id and r.status in repair.ACTIVE]
            if old:
                self.mark(row._replace(status=RowStatus.VOID.value) for row in old)
        except (OSError, sqlite3.Error) as e:
            raise JournalError(
                f"{self.path}: {e}: nothing can be changed without it; check space and permissions, "
                f"or give another --runtime-dir"
            ) from e

    def take(self, row: Row) -> Row:
        """Number a row of a knob that is managed anew; its earlier row, if any, is written over."""
        before = self.rows.get(row.knob)
        if before is None:
            self._ids += 1
        return row._replace(id=self._ids if before is None else before.id, boot_id=self.boot_id)

    def forget(self) -> None:
        """Drop the rows of tasks that are done with: there is no end of them. None that the disk missed."""
        late = self._late | self._index_late
        over = [
            row
            for row in self.rows.values()
            if row.is_task and row.status not in repair.ACTIVE and row.knob not in late
        ]
        if not over:
            return
        try:
            self._db.execute(f"DELETE FROM undo WHERE id IN ({', '.join(str(row.id) for row in over)})")
        except sqlite3.Error:
            return  # next time
        for row in over:
            del self.rows[row.knob]

    def intend(self, rows: Sequence[Row], writes: Sequence[tuple[str, str]]) -> tuple[Receipt, ...]:
        """Record `rows` with their pending texts; the receipts for `writes` (knob, text), in order.

        JournalError if it is not on record: then nothing may be written, and the rows are as before.
        """
        before = {row.knob: self.rows.get(row.knob) for row in rows}
        try:
            if missing := self.missing():
                raise JournalError(missing)
            self._save(rows)
        except (OSError, sqlite3.Error) as e:
            for row in rows:
                new = row._replace(status=RowStatus.RESTORED.value, pending="")
                self.rows[row.knob] = before[row.knob] or new
                self._late.add(row.knob)  # the database may have it where only the index failed
            raise JournalError(
                f"{self.path}: {e}: no knob is written until the journal can be; check space and permissions"
            ) from e
        return tuple(
            Receipt(row=self.rows[knob].id, knob=knob, target=self.rows[knob].path, text=text)
            for knob, text in writes
        )

    def settle(self, rows: Sequence[Row]) -> None:
        """Record what the kernel showed after a write. JournalError if that is not on record."""
        try:
            self._save(rows)
        except (OSError, sqlite3.Error) as e:
            raise JournalError(f"{self.path}: {e}: check space and permissions") from e

    def mark(self, rows: Iterable[Row]) -> None:
        """Record as `settle` does, if possible: for what must go on without a disk (a revert)."""
        try:
            self._save(list(rows))
        except (OSError, sqlite3.Error):
            pass  # kept in memory and in _late; a repair would compare again and find the same

    def missing(self) -> str:
        """Why what is recorded from now on would be found by nobody, or ""."""
        try:
            if self._inode() == self._file:
                return ""
        except OSError:
            pass
        return f"{self.path} was removed or replaced under the daemon: start it again"

    def close(self) -> None:
        self._db.close()

    def _save(self, rows: Sequence[Row]) -> None:
        """Memory first, then the database, then (if a state changed) the index: see repair.py."""
        for row in rows:
            old = self.rows.get(row.knob)
            if old is None or (old.status, old.original) != (row.status, row.original):
                self._index_late.add(row.knob)
                row = row._replace(seq=self._seq + 1)
            else:
                row = row._replace(seq=old.seq)
            self.rows[row.knob] = row
            self._late.add(row.knob)
        if self._index_late:
            self._seq += 1
        repair.save(self._db, [self.rows[knob] for knob in self._late])
        self._late.clear()
        if self._index_late:
            directory = os.fspath(self.directory)
            size = repair.append_index(directory, [self.rows[knob] for knob in self._index_late])
            self._index_late.clear()
            if size > INDEX_LIMIT:
                repair.save_index(directory, self.rows.values())

    def _inode(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_dev, stat.st_ino
