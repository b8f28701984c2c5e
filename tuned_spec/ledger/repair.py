#!/usr/bin/env python3
"""Put every knob back: compare, then restore. Standard library only, Python 3.9.

    python3 repair.py [--runtime-dir D] [--stop] [--json] [KNOB...]

Runs alone (the daemon leaves a copy in its runtime directory, which outlives the package) and is what
the ledger calls in the daemon, so that compare-and-restore exists once. It owns the format of the undo
journal, the lock of the runtime directory and the rules below; it must not know of adapters, policies
or trials, and imports nothing of ours but `reach` (copied with it), which reads and writes what a row names.

What a knob may show when it is compared with its row:

    the original                      unchanged: nothing to do
    `ours`, the last text read back   ours: put back
    a text in `pending`               ours: a write was in flight and may have landed (killed between the
                                      write and its read back, or in the midst of several writes); a
                                      partner that the kernel zeroes or resets has its own pending
    anything else                     foreign: left, and so is every knob coupled with it, because
                                      writing a partner would change the foreign value

Texts are compared as the kernel shows them with blanks folded, brackets opened and Y/N read as 1/0.
Originals are written in rank order (a scheduler before the nr_requests that it resets), zeros last (0 in
vm.dirty_bytes is EINVAL: writing vm.dirty_ratio zeroes it), refused ones again after the others, and each
is read back. Comparing and writing are two steps: a foreign write in the few microseconds between is lost.

Tasks (`task:TID/nice`) are restored one by one: their group is the selector that they were found by, which
is for the reader, not for the kernel. What they have forked since inherits, so the threads and descendants
that show our value, have no row and started after our write get the original of the task they are from
(`heirs`), however often it takes, at most ROUNDS times.

Two records must agree. undo.db has the rows, each with a checksum; undo.index has checksummed lines, the
last of a knob with the sequence number of its last change of state, written after the database and before
the kernel. A row that is damaged, missing, or older than its line (a write-ahead log that was cut off falls
back to an older state without an error) is named and never written.

Exit status: 0 all is back (foreign values are left and said), 1 something could not be put back,
4 the journal is damaged (what could be read was put back).
"""

# Paths are strings here: the way back imports little and must page in little. zip(strict=) is Python 3.10.
# ruff: noqa: PTH100, PTH104, PTH110, PTH115, PTH116, PTH118, PTH120, PTH208, B905

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import signal
import socket
import sqlite3
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

if __package__:
    from tuned_spec.knobs import reach
else:  # the copy in the runtime directory; isolated Python does not look beside the script, nor do we again
    _here = os.path.dirname(os.path.abspath(__file__))
    if os.stat(_here).st_uid not in (0, os.geteuid()) or os.stat(_here).st_mode & 0o002:
        sys.exit(f"repair: {_here} can be written by others, so what is beside this file cannot be trusted")
    sys.path.insert(0, _here)
    import reach  # type: ignore[import-not-found,no-redef]

    sys.path.remove(_here)

JOURNAL, INDEX, LOCK, CONTROL = "undo.db", "undo.index", "lock", "control.sock"
ROOTS = "/run/tuned-spec"  # root's runtime directory
VERSION = 1  # of the --json answer and of the control protocol
SILENCE_S = 2.0  # a daemon that has not answered by then hangs
PATIENCE_S = 30.0  # how long to wait for another repair, or for a killed daemon to be gone
ROUNDS = 5  # of looking for tasks that were forked while we looked
BUSY_S = 0.1  # how long one restore tries a knob that is EBUSY
ANY = "*"  # pending: the kernel chooses the value
ABSENT = ""  # the text of a knob that comes and goes with the one that resets it
OPEN, HELD, FOREIGN, RESTORED, VOID = "open", "held", "foreign", "restored", "void"  # model.RowStatus
ACTIVE = (OPEN, HELD, FOREIGN, "in_doubt")
EXIT_LEFT, EXIT_USAGE, EXIT_DAMAGED = 1, 2, 4


class Row(NamedTuple):
    """One knob in the undo journal. Texts are as `shown` gives them, and so can be written as they are."""

    id: int
    seq: int  # the journal's count of changes of state when this row last had one
    knob: str
    adapter: str  # kind, for the reader's sake
    type: str  # int, ints, choice, bool: how to read what the kernel shows
    path: str  # an address that `reach` reads and writes
    identity: str  # "" for the host, else as `reach.gone` takes it
    original: str
    ours: str
    pending: str  # "", ANY, or the texts that writes in flight may leave, one a line
    group: str  # knobs of one group are restored all or none; of a task: the selector it was found by
    rank: int  # lower is restored first
    trial: str
    rule: str
    status: str
    on_stop: str  # of a held row: "back" or "keep"
    boot_id: str
    since: float = 0.0  # seconds after boot when the original was read

    @property
    def is_task(self) -> bool:
        return self.path.startswith("task:")

    @property
    def bond(self) -> str:
        """What is restored all or none with it."""
        return self.knob if self.is_task else self.group


class Outcome(NamedTuple):
    """What one restore of one knob came to; `status` as in model.Outcome."""

    knob: str
    found: str
    original: str
    status: str  # restored, unchanged, foreign, void, failed
    why: str = ""


class Locked(Exception):
    """Another process holds the runtime directory."""

    def __init__(self, pid: int, role: str) -> None:
        super().__init__(f"held by process {pid} ({role})")
        self.pid, self.role = pid, role


class Unusable(Exception):
    """The runtime directory cannot be used; the message says what to do."""


Note = Callable[[Sequence[Row]], None]
Checkpoint = Callable[[str], None]


def nothing(_: Any) -> None:
    """The note that is not taken, the checkpoint that is passed."""


# ------------------------------------------------------------------------- the kernel's side


def shown(kind: str, text: str) -> str:
    """`text` as the kernel shows it, in the one form that is compared and written."""
    text = " ".join(text.split())
    for opening, closing in ("[]", "()") if kind == "choice" else ():
        if opening in text:
            return text.partition(opening)[2].partition(closing)[0]
    if kind == "bool":
        return {"Y": "1", "y": "1", "true": "1", "N": "0", "n": "0", "false": "0"}.get(text, text)
    if kind == "cpumask":  # shown as wide as the host's CPUs
        digits = text.replace(",", "").lstrip("0") or "0"
        head = len(digits) % 8
        return ",".join(digits[:head].split() + [digits[i : i + 8] for i in range(head, len(digits), 8)])
    return text


def read(row: Row, look: Callable[[str], str] = reach.read) -> str:
    """The text now. An I/O scheduler's own settings are there while it is chosen: ABSENT, not gone."""
    try:
        return shown(row.type, look(row.path))
    except FileNotFoundError:
        if row.rank:
            return ABSENT
        raise


def write(row: Row, text: str) -> None:
    reach.write(row.path, text)


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def away(row: Row, boot: str) -> tuple[str, str]:
    """("", "") if the row speaks of this boot and namespace, else a status and why."""
    if row.boot_id != boot:
        return VOID, "from an earlier boot, which took the change with it"
    if row.identity.startswith("netns:"):
        inode = row.identity[len("netns:") :].partition("@")[0]  # "[4026531840]", as in /proc/*/ns/net
        if os.readlink("/proc/self/ns/net") != "net:" + inode:
            hidden = False
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/ns/net") == "net:" + inode:
                        return "failed", f"is in the network namespace of process {pid}: " + (
                            f"run this again under nsenter --net=/proc/{pid}/ns/net"
                        )
                except PermissionError:
                    hidden = os.geteuid() != 0
                except OSError:
                    continue
            if hidden:
                return "failed", f"is in another network namespace, {inode}: look with sudo"
            return VOID, f"its network namespace {inode} has no process any more"
    if why := reach.gone(row.identity):
        return VOID, why
    return "", ""


# ------------------------------------------------------------------------ compare and restore


def compare(row: Row, found: str) -> str:
    """unchanged, ours or foreign."""
    if row.status == FOREIGN:
        return "foreign"
    if found == row.original:
        return "unchanged"
    if found == row.ours or row.pending == ANY or (row.pending and found in row.pending.split("\n")):
        return "ours"
    return "foreign"


def judge(row: Row, boot: str) -> Outcome:
    """What is to be done about one row; status "ours" means to be put back."""
    status, why = away(row, boot)
    if status:
        return Outcome(row.knob, "", row.original, status, why)
    try:
        found = read(row)
    except (FileNotFoundError, NotADirectoryError):
        return Outcome(row.knob, "", row.original, VOID, f"{row.path} is gone")
    except OSError as e:
        return Outcome(row.knob, "", row.original, "failed", f"cannot read {row.path}: {e.strerror}")
    status = compare(row, found)
    if status == "foreign":
        if row.status == FOREIGN:
            why = "written by somebody else earlier; left"
        else:
            why = f"somebody else wrote it (ours was {row.ours}); left"
    return Outcome(row.knob, found, row.original, status, why)


def survey(rows: Iterable[Row], boot: str) -> dict[str, Outcome]:
    """Judge every row; one foreign knob makes those coupled with it foreign too."""
    rows = list(rows)
    found = {row.knob: judge(row, boot) for row in rows}
    theirs = {row.bond: row.knob for row in rows if found[row.knob].status == "foreign"}
    for row in rows:
        if row.bond in theirs and found[row.knob].status == "ours":
            why = f"coupled with {theirs[row.bond]}, which somebody else wrote; left"
            found[row.knob] = found[row.knob]._replace(status="foreign", why=why)
    return found


def put_back(rows: Sequence[Row], checkpoint: Checkpoint = nothing) -> dict[str, str]:
    """Write the originals, in the order given, until all show or nothing moves: knob -> why not.

    EBUSY passes: a block device's scheduler refuses while somebody sets its queue up. It is tried again
    for BUSY_S in all.
    """
    errors: dict[str, str] = {}
    before: list[Row] | None = None
    busy_until = 0.0
    while True:
        wrong = [row for row in rows if _differs(row, errors)]
        if wrong and wrong == before and any("[EBUSY]" in errors.get(row.knob, "") for row in wrong):
            busy_until = busy_until or time.monotonic() + BUSY_S
            if time.monotonic() < busy_until:
                time.sleep(0.005)
                before = None
        if not wrong or wrong == before:
            return {row.knob: errors.get(row.knob, "the kernel shows another value") for row in wrong}
        before = wrong
        for row in wrong:
            if _differs(row, errors):  # the write of a partner may have done it
                try:
                    checkpoint(f"restore:before:{row.knob}")
                    write(row, row.original)
                    checkpoint(f"restore:after:{row.knob}")
                except OSError as e:
                    code = errno.errorcode.get(e.errno or 0, "?")
                    errors[row.knob] = f"writing {row.original} to {row.path}: {e.strerror} [{code}]"


def _differs(row: Row, errors: dict[str, str]) -> bool:
    try:
        return read(row) not in (row.original, ABSENT)
    except OSError as e:
        if row.is_task and reach.gone(row.identity):
            return False
        errors[row.knob] = f"cannot read {row.path}: {e.strerror}"
        return True


def restore(
    rows: Iterable[Row], boot: str, note: Note = nothing, checkpoint: Checkpoint = nothing
) -> list[Outcome]:
    """Compare every active row, put back what is ours, check. `note` records; it may do nothing.

    One outcome a knob; the tasks of a selector have one together.

    Journaled like any write: what the kernel may choose on the way (a scheduler resets nr_requests) is
    noted as pending before, the outcome after; so a repair that is killed is repaired by the next.
    """
    active = [row for row in rows if row.status in ACTIVE]
    found = survey(active, boot)
    moving = {row.bond for row in active if found[row.knob].status == "ours"}
    todo = [r for r in active if r.bond in moving and found[r.knob].status in ("ours", "unchanged")]
    todo.sort(key=lambda row: (row.rank, row.original == "0"))
    first = {row.bond: row.rank for row in reversed(todo)}
    chosen = [row._replace(pending=ANY) for row in todo if row.rank > first[row.bond]]
    if chosen:
        note(chosen)
    checkpoint("restore:noted")
    failed = put_back(todo, checkpoint)
    swept = sweep([row for row in active if row.is_task and found[row.knob].status != VOID], checkpoint)
    judged, ended = [], []
    for row in active:
        outcome = found[row.knob]
        if outcome.status == "ours":
            outcome = outcome._replace(status="restored")
        if row.knob in failed:
            outcome = outcome._replace(status="failed", why=failed[row.knob])
        judged.append((row, outcome))
        status = {"restored": RESTORED, "unchanged": RESTORED, "foreign": FOREIGN, VOID: VOID}.get(
            outcome.status, row.status
        )
        if status != row.status:
            pending = row.pending if status == FOREIGN else ""
            ours = row.original if status == RESTORED else row.ours
            ended.append(row._replace(status=status, pending=pending, ours=ours))
    checkpoint("restore:written")
    if ended:
        note(ended)
    checkpoint("restore:done")
    return told([*judged, *swept])


# --------------------------------------------------------------------------------------- tasks


def heirs(
    rows: Iterable[Row],
    worn: Mapping[str, str] = MappingProxyType({}),
    among: Iterable[int] | None = None,
) -> list[Row]:
    """Rows as their elders have them, for tasks that show what one of these tasks was given and have none.

    Threads, descendants and orphans: see reach.task.heirs. `worn`: row's knob -> a text that was ours until
    just now; `among`: only tasks of these processes.
    """
    found: list[Row] = []
    by_attribute: dict[str, dict[int, Row]] = {}
    task = importlib.import_module(reach.__name__ + ".task")
    for row in rows:
        tid, _, attribute = row.path.partition(":")[2].partition("/")
        by_attribute.setdefault(attribute, {})[int(tid)] = row
    for attribute, elders in by_attribute.items():
        selectors = {row.group.partition("@")[2] for row in elders.values()}
        for one, elder in task.heirs({tid: row.since for tid, row in elders.items()}, selectors, among):
            row = elders[elder]
            path, knob = f"task:{one.tid}/{attribute}", f"{row.knob.partition('@')[0]}@{one.tid}.{one.start}"
            heir = row._replace(id=0, seq=0, knob=knob, path=path, identity=f"start:{one.start}@{one.tid}")
            if attribute in task.OF_PROCESS and one.tid != one.tgid:
                continue
            try:
                text = read(heir)
            except OSError:
                continue  # it has ended, or the attribute is none of its
            if text != row.original and text in (row.ours, worn.get(row.knob), *row.pending.split("\n")):
                found.append(heir._replace(ours=text, pending=""))
    return found


def sweep(rows: Sequence[Row], checkpoint: Checkpoint = nothing) -> list[tuple[Row, Outcome]]:
    """Put heirs back until there are none: those forked from a task before it was put back come to light."""
    done: dict[str, tuple[Row, Outcome]] = {}
    for _ in range(ROUNDS if rows else 0):
        late = heirs(rows)
        if not late:
            break
        failed = put_back(late, checkpoint)
        for row in late:
            status = "failed" if row.knob in failed else "restored"
            done[row.knob] = row, Outcome(row.knob, row.ours, row.original, status, failed.get(row.knob, ""))
        checkpoint("restore:swept")
    return list(done.values())


def told(judged: Iterable[tuple[Row, Outcome]]) -> list[Outcome]:
    """One outcome a knob; for the tasks of a selector what most showed, and how many came to what."""
    outcomes = []
    tasks: dict[str, list[Outcome]] = {}
    for row, outcome in judged:
        if row.is_task:
            tasks.setdefault(row.group, []).append(outcome)
        else:
            outcomes.append(outcome)
    for selector, all_of_them in tasks.items():
        count = Counter(outcome.status for outcome in all_of_them)
        status = min(count, key=_LOUDEST.index)
        one = next(outcome for outcome in all_of_them if outcome.status == status)
        why = ", ".join(f"{count[word]} {word}" for word in _LOUDEST if word in count)
        if len(count) == 1:
            why = f"{len(all_of_them)} task" + ("s" if len(all_of_them) > 1 else "")
        found = Counter(outcome.found for outcome in all_of_them if outcome.status == status)
        original = Counter(outcome.original for outcome in all_of_them)
        outcomes.append(
            Outcome(
                selector,
                found.most_common(1)[0][0],
                original.most_common(1)[0][0],
                status,
                f"{why}; {one.why}" if one.why else why,
            )
        )
    return outcomes


_LOUDEST = ("failed", "restored", "unchanged", "foreign", VOID)  # what is said of many in one word


# ------------------------------------------------------------------------- the journal's files

_COLUMNS = ", ".join(f'"{name}"' for name in Row._fields)
SCHEMA = f"CREATE TABLE IF NOT EXISTS undo ({_COLUMNS}, checksum, PRIMARY KEY (id)) WITHOUT ROWID"
_SAVE = f"INSERT OR REPLACE INTO undo VALUES ({', '.join('?' * (len(Row._fields) + 1))})"


def checksum(fields: Iterable[Any]) -> int:
    return zlib.crc32(repr(tuple(fields)).encode("utf-8", "replace"))


def connect(path: str) -> sqlite3.Connection:
    """Autocommit; nothing is synced, because the journal must outlive the process, not the power."""
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # a damaged text fails its checksum
    try:
        db.execute("PRAGMA synchronous = OFF")  # the first to look into the file
    except sqlite3.Error:
        db.close()
        raise
    return db


def save(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """All rows in one transaction."""
    values = [(*row, checksum(row)) for row in rows]
    if len(values) == 1:
        db.execute(_SAVE, values[0])
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany(_SAVE, values)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def index_lines(rows: Iterable[Row]) -> bytes:
    lines = []
    for row in rows:
        fields = (str(row.seq), row.status, row.knob, row.original)
        lines.append("\t".join((str(checksum(fields)), *fields)) + "\n")
    return "".join(lines).encode()


def save_index(directory: str, rows: Iterable[Row]) -> None:
    """The whole index anew."""
    path = os.path.join(directory, INDEX)
    with open(path + ".new", "wb") as f:
        f.write(index_lines(rows))
    os.rename(path + ".new", path)


def append_index(directory: str, rows: Iterable[Row]) -> int:
    """Lines that overrule the earlier ones of their knobs; the size after. (Replacing a file by rename
    makes ext4 write it out at once: 5 ms.)"""
    fd = os.open(os.path.join(directory, INDEX), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size, lines = os.fstat(fd).st_size, index_lines(rows)
        if os.write(fd, lines) != len(lines):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return size + len(lines)
    finally:
        os.close(fd)


class Loaded(NamedTuple):
    rows: list[Row]  # those that can be trusted
    damage: list[str]  # what cannot, each named
    db: sqlite3.Connection | None  # to note outcomes in; None: nothing can be noted


def load(directory: str) -> Loaded:
    """Read both records and trust only what they agree on."""
    rows: dict[str, Row] = {}
    damage: list[str] = []
    path = os.path.join(directory, JOURNAL)
    db = None
    try:
        lines = _load_index(directory, damage)
    except PermissionError:
        return Loaded([], [_unreadable(os.path.join(directory, INDEX))], None)
    try:
        if not os.path.exists(path):
            raise FileNotFoundError("is missing")
        db, records = _fetch(path)
        for *fields, crc in records:
            row = Row(*fields)
            if crc != checksum(fields):
                damage.append(f"{path}: a row (knob reads {row.knob!r}) does not match its checksum")
            elif row.knob in rows:
                damage.append(f"{path}: {row.knob} has two rows; the newer is used")
                rows[row.knob] = max(row, rows[row.knob], key=lambda r: r.seq)
            else:
                rows[row.knob] = row
    except PermissionError:
        return Loaded([], [_unreadable(path)], None)
    except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError, MemoryError) as e:
        if db is not None:
            db.close()
            db = None
        if lines or damage or not str(e).startswith(("no such table", "is missing")):
            damage.append(f"{path}: {e}")
    for knob, (seq, status, original) in lines.items():
        kept = rows.get(knob)
        if kept is None or kept.seq < seq:
            rows.pop(knob, None)
            if status in ACTIVE:
                what = "is missing from" if kept is None else "is older than it should be in"
                damage.append(
                    f"{knob}: {what} {path}, left as it is; its original is noted as {original!r}: "
                    "compare, and write it by hand"
                )
    return Loaded(sorted(rows.values()), damage, db)


def _unreadable(path: str) -> str:
    """Not damage, but nothing may be said of what is in it."""
    return f"{path}: cannot be read" + (" without root; use sudo" if os.geteuid() else " even by root")


def _fetch(path: str) -> tuple[sqlite3.Connection | None, Iterable[tuple[Any, ...]]]:
    """The records one by one, so that those before a damaged page count; and where to note outcomes.

    On a full or read-only file system, and without root, SQLite cannot make the files it shares with other
    readers, so a copy is read elsewhere, and nothing can be noted.
    """
    db = None
    try:
        db = connect(path)
        return db, _records(db)
    except sqlite3.DatabaseError as e:
        if db is not None:
            db.close()
        if not isinstance(e, sqlite3.OperationalError) or str(e).startswith("no such table"):
            raise
    import shutil  # rarely needed, slow to import
    import tempfile

    with tempfile.TemporaryDirectory() as elsewhere:
        copy = os.path.join(elsewhere, JOURNAL)
        for suffix in ("", "-wal"):
            if os.path.exists(path + suffix):
                shutil.copyfile(path + suffix, copy + suffix)
        db = connect(copy)
        try:
            return None, _records(db).fetchall()
        finally:
            db.close()


def _records(db: sqlite3.Connection) -> sqlite3.Cursor:
    """As far as the columns go: an older version's journal lacks the last ones."""
    here = {row[1] for row in db.execute("PRAGMA table_info(undo)")}
    names = [name for name in Row._fields if name in here] or Row._fields
    return db.execute("SELECT {}, checksum FROM undo".format(", ".join(f'"{name}"' for name in names)))


def renew(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """The table anew, with these rows, if it has an older version's columns."""
    if len(db.execute("PRAGMA table_info(undo)").fetchall()) in (0, len(Row._fields) + 1):
        return
    db.execute("BEGIN IMMEDIATE")
    db.execute("DROP TABLE undo")
    db.execute(SCHEMA)
    db.executemany(_SAVE, [(*row, checksum(row)) for row in rows])
    db.execute("COMMIT")


def _load_index(directory: str, damage: list[str]) -> dict[str, tuple[int, str, str]]:
    path = os.path.join(directory, INDEX)
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            text = f.read()
    except FileNotFoundError:
        return {}  # killed before the first knob was touched
    except PermissionError:
        raise
    except OSError as e:
        damage.append(f"{path}: {e.strerror}")
        return {}
    lines = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):  # a last line cut short was never acted on
        try:
            crc, seq, status, knob, original = line.split("\t")
            if int(crc) != checksum((seq, status, knob, original)):
                raise ValueError
            lines[knob] = (int(seq), status, original)
        except ValueError:
            damage.append(f"{path}:{number}: damaged line {line!r}")
    return lines


def noter(directory: str, loaded: Loaded) -> Note:
    """Records changed rows in both files; a journal that cannot be written does not stop a repair."""
    rows = {row.knob: row for row in loaded.rows}

    def note(changed: Sequence[Row]) -> None:
        seq = 1 + max(row.seq for row in rows.values())
        rows.update((row.knob, row._replace(seq=seq)) for row in changed)
        if loaded.db is None:
            return
        try:
            save(loaded.db, [rows[row.knob] for row in changed])
            if not loaded.damage:  # else the index is the only witness of what is lost
                save_index(directory, rows.values())
        except (sqlite3.Error, OSError):
            pass  # the next repair compares again and finds the originals in place

    return note


# ---------------------------------------------------------------------------------- the lock


def demand_ours(directory: str) -> None:
    """Unusable where others could plant a journal (rows are written as root) or a link in its place."""
    owner = os.stat(directory)
    others = 0o002 if owner.st_gid in (0, os.getegid()) else 0o022
    if owner.st_uid not in (0, os.geteuid()) or owner.st_mode & others:
        raise Unusable(
            f"{directory} can be written by others, so its journal cannot be trusted: look at it by hand"
        )


def take_lock(directory: str, role: str = "daemon") -> int:
    """The descriptor that holds the runtime directory until closed; Locked with the holder's pid."""
    path = os.path.join(directory, LOCK)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        if e.errno not in (errno.EROFS, errno.ENOSPC):
            raise
        fd = os.open(path if os.path.exists(path) else directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 64, 0).decode("ascii", "replace").split()
        os.close(fd)
        pid = int(words[0]) if words and words[0].isdigit() else 0
        raise Locked(pid, words[1] if len(words) > 1 else "unknown") from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {role}\n".encode(), 0)
    except OSError:
        if role == "daemon":
            os.close(fd)
            raise
    return fd


def holds_lock(pid: int, directory: str) -> bool:
    """Whether that process has the lock file open with the flock on it: a pid in a file proves nothing."""
    lock = os.stat(os.path.join(directory, LOCK))
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                there = os.stat(f"/proc/{pid}/fd/{fd}")
                if (there.st_dev, there.st_ino) == (lock.st_dev, lock.st_ino):
                    with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                        if "FLOCK" in f.read():
                            return True
            except OSError:
                continue
    except OSError:
        pass
    return False


def kill_holder(pid: int, directory: str) -> bool:
    """SIGKILL through a pidfd taken before the check, so that a reused pid is never hit."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not holds_lock(pid, directory):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def ask_daemon(directory: str, knobs: Sequence[str]) -> dict[str, Any] | None:
    """The daemon's answer, or None after SILENCE_S without one (it may be starting, or stopping)."""
    request = json.dumps({"v": VERSION, "do": "restore", "knobs": list(knobs)}).encode() + b"\n"
    deadline = time.monotonic() + SILENCE_S
    while (left := deadline - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(left)
            try:
                s.connect(os.path.join(directory, CONTROL))
                s.sendall(request)
                with s.makefile("rb") as answers:
                    answer = json.loads(answers.readline())
                if isinstance(answer, dict):
                    return answer
            except (OSError, ValueError):
                pass
        time.sleep(0.02)
    return None


# --------------------------------------------------------------------------------- the command


class Report(NamedTuple):
    how: str  # "repair", "daemon", "killed daemon PID, then repair", "nothing"
    outcomes: list[Outcome]
    damage: list[str]
    said: str = ""  # instead of a table
    told: str = ""  # who did it, and what that leaves

    @property
    def code(self) -> int:
        if self.damage:
            return EXIT_DAMAGED
        return EXIT_LEFT if any(o.status == "failed" for o in self.outcomes) else 0


def repair(
    directory: str,
    knobs: Sequence[str] = (),
    stop: bool = False,
    checkpoint: Checkpoint = nothing,
    patience_s: float = PATIENCE_S,
) -> Report:
    """Restore through the daemon if it answers, else take its place. Unusable if neither can be."""
    try:
        files = os.listdir(directory)
        if JOURNAL not in files and INDEX not in files:
            return Report(
                "nothing", [], [], f"no journal in {directory}: nothing was ever managed from there"
            )
        demand_ours(directory)
    except FileNotFoundError:
        return Report("nothing", [], [], f"{directory} does not exist: nothing was ever managed from there")
    how = "repair"
    told = "no daemon runs: the journal that the last one left was repaired"
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lock = take_lock(directory, "repair")
            break
        except Locked as e:
            if time.monotonic() > deadline:
                raise Unusable(
                    f"the lock of {directory} is still {e}: end that process, then run this again"
                ) from e
            if e.role == "daemon" and how == "repair" and holds_lock(e.pid, directory):
                answer = ask_daemon(directory, knobs)
                if answer is not None:
                    return _from_daemon(answer, e.pid, directory)
                if kill_holder(e.pid, directory):
                    how = f"killed daemon {e.pid} (silent for {SILENCE_S:g} s), then repair"
                    told = (
                        f"the daemon (process {e.pid}) hung, silent for {SILENCE_S:g} s: "
                        "it was killed and its journal repaired; start it again to go on"
                    )
            time.sleep(0.02)
    try:
        checkpoint("repair:locked")
        loaded = load(directory)
        try:
            outcomes = restore(
                _chosen(loaded.rows, knobs, stop), boot_id(), noter(directory, loaded), checkpoint
            )
        finally:
            if loaded.db is not None:
                loaded.db.close()
        return Report(how, outcomes, loaded.damage, told=told if outcomes or how != "repair" else "")
    finally:
        os.close(lock)


def _from_daemon(answer: dict[str, Any], pid: int, directory: str) -> Report:
    if answer.get("v") != VERSION or not answer.get("ok"):
        raise Unusable(f"the daemon refused: {answer.get('error', answer)}")
    told = f"the daemon (process {pid}) was asked"
    if answer.get("paused"):
        where = "" if directory == ROOTS else f" --runtime-dir {directory}"
        told += f" and is now paused; `tuned-spec resume{where}` lets it go on"
    return Report("daemon", [Outcome(**outcome) for outcome in answer["outcomes"]], [], told=told)


def _chosen(rows: Sequence[Row], knobs: Sequence[str], stop: bool) -> list[Row]:
    """The rows of those knobs and of the knobs coupled with them; with `stop`, none that is to be kept."""
    groups = {row.group for row in rows if row.knob in knobs} | set(knobs)
    chosen = [row for row in rows if not knobs or row.group in groups]
    return [r for r in chosen if not (stop and r.status == HELD and r.on_stop == "keep")]


def table(report: Report) -> str:
    if not report.outcomes:
        return report.said or ("" if report.damage else "nothing to restore: no knob is out of its place")
    heads = ("KNOB", "FOUND", "ORIGINAL", "RESULT")
    lines = [heads] + [
        (o.knob, o.found or "-", o.original, o.status + (f": {o.why}" if o.why else ""))
        for o in report.outcomes
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(line, widths)), line[3]]) for line in lines)


def main(argv: Sequence[str], checkpoint: Checkpoint = nothing) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="repair.py", description="Put every knob that tuned-spec changed back."
    )
    parser.add_argument("--runtime-dir", default=_default_dir(), help="default: %(default)s")
    parser.add_argument("--stop", action="store_true", help="leave confirmed values whose on_stop is keep")
    parser.add_argument("--json", action="store_true", help=f"machine-readable, schema version {VERSION}")
    parser.add_argument("knob", nargs="*", help="only these, and those coupled with them")
    args = parser.parse_args(argv)
    try:
        report = repair(args.runtime_dir, args.knob, args.stop, checkpoint)
        code, error = report.code, ""
    except Unusable as e:
        report, code, error = Report("nothing", [], []), EXIT_LEFT, str(e)
    except PermissionError as e:
        report, code = Report("nothing", [], []), EXIT_LEFT
        error = f"{e.filename or args.runtime_dir}: {e.strerror}: run this with sudo"
    if args.json:
        answer = {
            "v": VERSION,
            "runtime_dir": args.runtime_dir,
            "how": report.how,
            "outcomes": [o._asdict() for o in report.outcomes],
            "damage": report.damage,
            "error": error,
            "exit": code,
        }
        print(json.dumps(answer))
        return code
    for text in (table(report), report.told):
        if text and not error:
            print(text)
    known = {o.knob for o in report.outcomes}
    strangers = [f"{knob}: not managed, nothing to restore" for knob in args.knob if knob not in known]
    for line in [*report.damage, error] if error else [*report.damage, *strangers]:
        print(f"repair: {line}", file=sys.stderr)
    return code


def _default_dir() -> str:
    """As paths.runtime_dir; beside the journal when this is the copy that the daemon left there.

    Root's wherever it is there: nobody else's daemon can change a knob.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    if os.path.exists(os.path.join(here, JOURNAL)):
        return here
    if os.geteuid() == 0 or os.path.exists(ROOTS):
        return ROOTS
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/runtime-{os.geteuid()}", "tuned-spec")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
