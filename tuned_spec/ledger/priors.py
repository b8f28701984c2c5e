"""What is learned, kept over reboots: `priors.db` in the state directory.

Owns the file and its versions; must not know what the rows mean. A save makes a new file and puts it in the
old one's place, so that whatever dies, one of the two is whole. It waits for the disk: hand it to the
history's thread (`History.do`). Nothing here raises for what it finds: priors are worth having, not worth
failing for.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec

from tuned_spec.model import Frozen
from tuned_spec.paths import PRIORS
from tuned_spec.speculate.foresight import Foresight
from tuned_spec.speculate.prior import Judged, Priors, Remembered
from tuned_spec.speculate.selection import Record, Tally

APPLICATION_ID = 0x74756E70  # "tunp": marks the file as ours
VERSION = 1
SCHEMA = "CREATE TABLE row (kind TEXT, name TEXT, doc BLOB, PRIMARY KEY (kind, name))"


class Loaded(Frozen, frozen=True):
    """What was there. `said`: what could not be read and what was done about it, for history and log."""

    priors: Priors = Priors()
    record: Record = Record()
    foresight: Foresight = Foresight()
    said: tuple[str, ...] = ()


def load(state_dir: Path, wall: float) -> Loaded:
    """Reads all that can be read. A file that cannot be used is moved aside to `priors.db.bad-<date>`."""
    path = state_dir / PRIORS
    if not path.exists():
        return Loaded()
    try:
        rows = _rows(path)
    except (sqlite3.Error, OSError, UnicodeDecodeError, _Unusable) as error:  # SQLite quotes damage as it is
        return Loaded(said=(f"{path}: {error}; {_move_aside(path, wall)}; nothing is remembered",))
    workloads: list[Remembered] = []
    recent: list[Judged] = []
    rules: dict[str, Tally] = {}
    foresight = Foresight()
    said = []
    for kind, name, doc in rows:
        try:
            if kind == "workload":
                workloads.append(msgspec.json.decode(doc, type=Remembered))
            elif kind == "judged":
                recent.append(msgspec.json.decode(doc, type=Judged))
            elif kind == "foresight":
                foresight = msgspec.json.decode(doc, type=Foresight)
            else:
                rules[str(name)] = msgspec.json.decode(doc, type=Tally)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            said.append(f"{path}: {kind} {name}: {error}; this one is forgotten")
    return Loaded(Priors(tuple(workloads), tuple(recent)), Record(rules), foresight, tuple(said))


def save(state_dir: Path, priors: Priors, record: Record, foresight: Foresight) -> str:
    """Writes all three as they are now; blocks. Returns what went wrong and what to do, or ""."""
    path = state_dir / PRIORS
    fresh = path.with_name(f"{path.name}.new")
    rows: list[tuple[str, str, bytes]] = [
        *(("workload", w.id, msgspec.json.encode(w)) for w in priors.workloads),
        *(("judged", one.trial, msgspec.json.encode(one)) for one in priors.recent),
        *(("rule", name, msgspec.json.encode(tally)) for name, tally in record.rules.items()),
        ("foresight", "", msgspec.json.encode(foresight)),
    ]
    try:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)  # left by a save that was killed
        with closing(sqlite3.connect(fresh)) as db:
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={VERSION}")
            with db:
                db.execute(SCHEMA)
                db.executemany("INSERT INTO row VALUES (?, ?, ?)", rows)
        fresh.replace(path)
    except (sqlite3.Error, OSError) as error:
        return f"{path}: cannot keep priors: {error}; free space or make {state_dir} writable"
    return ""


class _Unusable(Exception):
    """A database, but not one that this version can use."""


def _rows(path: Path) -> list[tuple[object, str, bytes]]:
    # Nobody writes into a file that is in place, so no lock and no log beside it.
    uri = f"file:{quote(str(path))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as db:
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # of a damaged name or table
        (mark,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if mark != APPLICATION_ID:
            raise _Unusable("another program's database")
        if version != VERSION:
            raise _Unusable(f"another version wrote it (schema {version}, this one knows {VERSION})")
        (health,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if health != "ok":
            raise _Unusable(f"damaged ({health})")
        return db.execute("SELECT kind, name, doc FROM row ORDER BY rowid").fetchall()


def _move_aside(path: Path, wall: float) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(wall))
    names = (f"{path}.bad-{stamp}{tail}" for tail in itertools.chain([""], itertools.count(2)))
    aside = next(Path(name) for name in names if not Path(name).exists())
    try:
        path.rename(aside)
    except OSError as error:
        return f"it cannot be moved aside either ({error.strerror})"
    return f"moved aside to {aside}"
