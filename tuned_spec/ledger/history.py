"""The history: what was decided, done and found, kept over reboots.

Owns `history.db` in the state directory: one thread of the daemon writes it, everybody may read it.
It serves people and priors, never a revert: nothing here may delay or fail the loop, so records are
handed over through a bounded queue and a full disk costs records (counted), not decisions. It must
not know what the records mean.
"""

from __future__ import annotations

import itertools
import queue
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from tuned_spec.errors import JournalError
from tuned_spec.model import Frozen, Record
from tuned_spec.paths import HISTORY

APPLICATION_ID = 0x74756E65  # "tune": marks the file as ours
VERSION = 1
SCHEMA = """
CREATE TABLE entry (
    id INTEGER PRIMARY KEY, wall REAL NOT NULL, boot_id TEXT NOT NULL, t REAL NOT NULL,
    kind TEXT NOT NULL, trial TEXT NOT NULL, rule TEXT NOT NULL, knobs TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX entry_trial ON entry (trial);
CREATE INDEX entry_kind ON entry (kind);
CREATE TABLE about (knob TEXT NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (knob, entry)) WITHOUT ROWID;
CREATE INDEX about_entry ON about (entry);
"""

DAY_S = 86_400.0
PRUNE_EVERY_S = 3600.0
CHUNK = 500  # rows a transaction: a prune must not keep records waiting
BULK = {"consulted": ("prompt", "exchange")}  # kind -> details that go before whole rows do
BULK_SHARE = 0.25  # of keep_bytes may be these
GROWN_SHARE = 0.125  # of keep_bytes written, and it is time to prune again
SPARED = 1000  # the newest rows are never too old: a clock stepped to 2099 must not empty the history


_Row = tuple[Record, float, str]  # the record, the wall time, the boot


class Entry(Frozen, frozen=True):
    """A Record as kept: when by the wall clock (seconds since the epoch) and in which boot."""

    id: int
    wall: float
    boot_id: str
    t: float
    kind: str
    trial: str = ""
    rule: str = ""
    knobs: tuple[str, ...] = ()
    data: dict[str, object] = msgspec.field(default_factory=dict)


class _Unusable(Exception):
    """A database, but not a history that this version can use."""


class History:
    """The writing side: one a daemon. Opens, writes and prunes in a thread of its own.

    `dropped` counts records lost to a full queue or a failing disk; `fault` is the last thing that
    went wrong, with what to do, or "". A file that is corrupted or not ours is moved aside to
    `history.db.bad-<date>`, which is recorded as the new file's first entry.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        keep_days: float = 30.0,
        keep_bytes: int = 64 << 20,
        queue_size: int = 4096,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = state_dir / HISTORY
        self.dropped = 0
        self.fault = ""
        self._keep_s = keep_days * DAY_S
        self._keep_bytes = keep_bytes
        self._wall = wall
        self._queue: queue.Queue[_Row | Callable[[], str] | None] = queue.Queue(queue_size)
        self._grown = 0  # bytes of details written since the last prune
        self._full = 0  # counted by the caller; `dropped` is the sum, so that no counter has two writers
        self._lost = 0  # counted by the thread
        self._moved = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="history", daemon=True)
        self._thread.start()

    def record(self, record: Record, wall: float, boot_id: str) -> None:
        """Hand one record over; returns at once, whatever the disk does."""
        self._hand_over((record, wall, boot_id))

    def do(self, job: Callable[[], str]) -> None:
        """Other work that waits for the disk (`priors.save`), done by the same thread, in order.

        It must not raise; what it returns, if anything, is a fault.
        """
        self._hand_over(job)

    def _hand_over(self, item: _Row | Callable[[], str]) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._full += 1
            self.dropped = self._full + self._lost

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is queued, then stop; False if the disk did not let it end in `timeout` seconds."""
        self._stop.set()
        try:
            self._queue.put_nowait(None)  # only to wake it: a full queue has it awake already
        except queue.Full:
            pass
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ the thread

    def _write(self) -> None:
        # Signals belong to the loop: one delivered here would not interrupt its poll.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        db: sqlite3.Connection | None = None
        prune_at = wait = 0.0
        while True:
            batch = self._next_batch(wait)
            wait = PRUNE_EVERY_S
            try:
                db = db or self._open()
                if batch:
                    self._insert(db, batch)
                due = time.monotonic() >= prune_at or self._grown >= GROWN_SHARE * self._keep_bytes
                if due and self._prune(db):
                    prune_at, self._grown = time.monotonic() + PRUNE_EVERY_S, 0
            except (sqlite3.Error, OSError) as error:
                db = self._recover(db, error, batch)
            if self._stop.is_set() and self._queue.empty():
                break
        if db:
            db.close()

    def _next_batch(self, timeout: float | None) -> list[_Row]:
        """What is queued, as one transaction; waits for the first. Jobs are done on the way."""
        batch: list[_Row] = []
        try:
            item = self._queue.get(timeout=timeout)
            while True:
                if isinstance(item, tuple):
                    batch.append(item)
                elif item and (wrong := item()):
                    self.fault = wrong
                if len(batch) >= CHUNK:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        return batch

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            return _open_to_write(self.path)
        except (sqlite3.DatabaseError, UnicodeDecodeError, _Unusable) as error:
            if not _is_damage(error):
                raise
            self._move_aside(error)
            return _open_to_write(self.path)

    def _recover(
        self, db: sqlite3.Connection | None, error: Exception, batch: list[_Row]
    ) -> sqlite3.Connection | None:
        """After a failed write: a damaged file is replaced and the batch tried once more; else it is lost."""
        if db:
            try:
                db.close()
            except sqlite3.Error:
                pass
        if _is_damage(error):
            try:
                self._move_aside(error)
                fresh = _open_to_write(self.path)
                self._insert(fresh, batch)
                return fresh
            except (sqlite3.Error, OSError) as again:
                error = again
        self._lost += len(batch)
        self.dropped = self._full + self._lost
        self.fault = (
            f"{self.path}: cannot write the history: {error}; {self._lost} entries are lost so far, "
            f"tuning and reverting go on; free space or make {self.path.parent} writable"
        )
        return None

    def _move_aside(self, error: Exception) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._wall()))
        names = (f"{self.path}.bad-{stamp}{tail}" for tail in itertools.chain([""], itertools.count(2)))
        aside = next(Path(name) for name in names if not Path(name).exists())
        self.path.rename(aside)
        for tail in ("-wal", "-shm"):
            beside = Path(f"{self.path}{tail}")
            if beside.exists():
                beside.rename(f"{aside}{tail}")
        self._moved = f"{self.path}: {error}; moved aside to {aside}, a new history was begun"
        self.fault = self._moved

    def _insert(self, db: sqlite3.Connection, batch: list[_Row]) -> None:
        if self._moved and batch:
            record, wall, boot_id = batch[0]
            hint = "keep the moved file if you want to look into it, else delete it"
            said = Record(kind="fault", t=record.t, data={"what": self._moved, "hint": hint})
            batch = [(said, wall, boot_id), *batch]
        with db:
            for record, wall, boot_id in batch:
                row = (wall, boot_id, record.t, record.kind, record.trial, record.rule)
                # A detail that JSON cannot hold is written as its repr: an odd record beats a lost one.
                data = msgspec.json.encode(record.data, enc_hook=repr).decode()
                self._grown += len(data)
                entry = db.execute(
                    "INSERT INTO entry (wall, boot_id, t, kind, trial, rule, knobs, data) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, " ".join(record.knobs), data),
                ).lastrowid
                db.executemany(
                    "INSERT OR IGNORE INTO about VALUES (?, ?)", ((k, entry) for k in record.knobs)
                )
        self._moved = ""

    def _prune(self, db: sqlite3.Connection) -> bool:
        """Drop the oldest entries by age and size, a chunk a transaction; False: records came first.

        Bulk goes first, and is never more than its share, so that it pushes out nothing that was decided.
        """
        oldest = self._wall() - self._keep_s
        for kind, names in BULK.items():
            _drop_bulk(db, kind, names, BULK_SHARE * self._keep_bytes)
        while not self._stop.is_set() and self._queue.empty():
            (last,) = db.execute("SELECT ifnull(max(id), 0) FROM entry").fetchone()
            rows = db.execute("SELECT id, wall FROM entry ORDER BY id LIMIT ?", (CHUNK,)).fetchall()
            too_big = _used_bytes(db) > self._keep_bytes
            cut = 0
            for id_, wall in rows:
                if not too_big and (wall >= oldest or id_ > last - SPARED):
                    break
                cut = id_
            if not cut:
                return True
            with db:
                db.execute("DELETE FROM about WHERE entry <= ?", (cut,))
                db.execute("DELETE FROM entry WHERE id <= ?", (cut,))
            # One step a page: execute() would stop after the first.
            db.executescript("PRAGMA incremental_vacuum")
        return False


def _drop_bulk(db: sqlite3.Connection, kind: str, names: tuple[str, ...], most: float) -> None:
    """The oldest entries of that kind lose these details, until what is left of them is `most` bytes."""
    places = [f"$.{name}" for name in names]
    sizes = "id, sum(length(CAST(data AS BLOB))) OVER (ORDER BY id DESC) AS size, json_type(data, ?) AS bulk"
    rows = f"SELECT id FROM (SELECT {sizes} FROM entry WHERE kind = ?) WHERE size > ? AND bulk NOTNULL"
    gone = db.execute(f"{rows} ORDER BY id", (places[0], kind, most)).fetchall()
    for at in range(0, len(gone), CHUNK):
        with db:
            slots = ", ".join("?" * len(places))
            db.executemany(
                f"UPDATE entry SET data = json_remove(data, {slots}) WHERE id = ?",
                [(*places, id_) for (id_,) in gone[at : at + CHUNK]],
            )
        db.executescript("PRAGMA incremental_vacuum")


def _open_to_write(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0)
    try:
        if _is_blank(db):
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute("PRAGMA journal_mode=WAL")
            marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION};"
            db.executescript(f"BEGIN; {marks} {SCHEMA} COMMIT;")
        _demand_ours(db)
        (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if health != "ok":
            raise _Unusable(f"damaged ({health})")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA journal_size_limit=4194304")
    except BaseException:
        db.close()
        raise
    return db


def _is_blank(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _demand_ours(db: sqlite3.Connection) -> None:
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if mark != APPLICATION_ID:
        raise _Unusable("another program's database")
    if version != VERSION:
        raise _Unusable(
            f"written by another version of tuned-spec (schema {version}, this one knows {VERSION})"
        )


def _is_damage(error: Exception) -> bool:
    """Is the file itself unusable (as opposed to a full, read-only or busy place)?"""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, _Unusable) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


# ------------------------------------------------------------------------- reading


def read(
    state_dir: Path,
    *,
    knob: str | None = None,
    trial: str | Collection[str] | None = None,
    limit: int | None = None,
    kinds: Collection[str] | None = None,
    since: float | None = None,
    boot_id: str | None = None,
) -> list[Entry]:
    """The newest `limit` entries that match, oldest first; none if there is no history yet.

    `since` is a wall time (seconds since the epoch). Works beside a writing daemon, after it died and
    in a directory that cannot be written. Raises JournalError naming a file that cannot be read.
    """
    # By knob: `about` is kept in the order of its key, so the newest come first without sorting.
    source, order = (
        ("entry", "id") if knob is None else ("about JOIN entry ON id = about.entry", "about.entry")
    )
    where, values = ["1"], list[object]()
    for column, wanted in (("about.knob", knob), ("boot_id", boot_id)):
        if wanted is not None:
            where.append(f"{column} = ?")
            values.append(wanted)
    if since is not None:
        where.append("wall >= ?")
        values.append(since)
    trials = (trial,) if isinstance(trial, str) else trial
    for column, among in (("trial", trials), ("kind", kinds)):
        if among is not None:
            where.append(f"{column} IN ({', '.join('?' * len(among))})")
            values += among
    query = (
        f"SELECT id, wall, boot_id, t, kind, trial, rule, knobs, data FROM {source} "
        f"WHERE {' AND '.join(where)} ORDER BY {order} DESC LIMIT ?"
    )
    with _reading(state_dir) as db:
        rows = db.execute(query, (*values, -1 if limit is None else limit)).fetchall() if db else []
        return [_entry(row) for row in reversed(rows)]


def tally(state_dir: Path) -> dict[str, int]:
    """How many entries of each kind there are. Raises JournalError as `read`."""
    with _reading(state_dir) as db:
        return dict(db.execute("SELECT kind, count(*) FROM entry GROUP BY kind")) if db else {}


class Spent(Frozen, frozen=True):
    """What calls of models took; `cost` is in the currency of the configured prices."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    trials: tuple[str, ...] = ()  # that they were about


def spent(state_dir: Path, since: float) -> Spent:
    """By the entries "consulted" since that wall time. Raises JournalError as `read`."""
    names = ("calls", "tokens_in", "tokens_out", "cost")
    sums = ", ".join(f"ifnull(json_extract(data, '$.{name}'), 0)" for name in names)
    with _reading(state_dir) as db:
        if db is None:
            return Spent()
        query = f"SELECT trial, {sums} FROM entry WHERE kind = 'consulted' AND wall >= ?"
        rows = db.execute(query, (since,)).fetchall()
        calls, tokens_in, tokens_out, cost = (sum(row[at] for row in rows) for at in range(1, 5))
        return Spent(
            calls, tokens_in, tokens_out, cost, tuple(dict.fromkeys(row[0] for row in rows if row[0]))
        )


@contextmanager
def _reading(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """One snapshot of the history, None where there is none yet."""
    path = state_dir / HISTORY
    try:
        if not path.exists():
            yield None
            return
        with _open_to_read(path) as db:
            db.execute("BEGIN")
            if _is_blank(db):  # the daemon is just making it
                yield None
                return
            _demand_ours(db)
            yield db
    except (sqlite3.Error, OSError, _Unusable, UnicodeDecodeError, msgspec.DecodeError) as error:
        if _is_damage(error) or isinstance(error, msgspec.DecodeError):
            cure = f"the daemon moves it aside at its next start, or do it now: mv {path} {path}.bad"
        else:
            cure = f"check that {path} and its directory can be read by this user, or use sudo"
        raise JournalError(f"{path}: cannot read the history: {error}; {cure}") from error


def _entry(row: tuple[object, ...]) -> Entry:
    *plain, knobs, data = row
    names = ("id", "wall", "boot_id", "t", "kind", "trial", "rule")
    fields = dict(zip(names, plain, strict=True))
    fields |= {"knobs": str(knobs).split(), "data": msgspec.json.decode(str(data))}
    return msgspec.convert(fields, Entry)


@contextmanager
def _open_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection, also where SQLite cannot make the shared-memory file that WAL wants."""
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1.0)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as error:
        db.close()
        if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    else:
        with closing(db):
            yield db
        return
    # A read-only directory. The log may hold the last entries of a daemon that was killed, and
    # `immutable=1` would pass over it: read a copy. Rare, so only here are the imports paid for.
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tuned-spec-") as scratch:
        copy = Path(scratch) / path.name
        for tail in ("", "-wal"):
            if Path(f"{path}{tail}").exists():
                shutil.copyfile(f"{path}{tail}", f"{copy}{tail}")
        with closing(sqlite3.connect(copy)) as db:
            yield db
