"""The history on a real disk: written beside readers, after a kill, on bad files and full queues."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuned_spec.errors import JournalError
from tuned_spec.ledger.history import (
    APPLICATION_ID,
    BULK_SHARE,
    DAY_S,
    SPARED,
    History,
    Spent,
    read,
    spent,
    tally,
)
from tuned_spec.model import Record
from tuned_spec.paths import HISTORY

WALL = 1_700_000_000.0


def record(n: int, kind: str = "proposed", **fields: object) -> Record:
    base = {"kind": kind, "t": float(n), "trial": f"t{n}", "rule": "r", "knobs": ("vm.swappiness",)}
    return Record(**(base | {"data": {"n": n}} | fields))  # type: ignore[arg-type]


def write(state: Path, *records: Record, wall: float = WALL, **options: object) -> History:
    history = History(state, **options)  # type: ignore[arg-type]
    for one in records:
        history.record(one, wall, "boot-1")
    assert history.close(30)
    return history


def test_round_trip_and_filters(tmp_path: Path) -> None:
    write(
        tmp_path,
        record(1),
        record(2, "verdict"),
        record(3, knobs=("a", "b"), trial="t2"),
        record(4, knobs=()),
    )
    everything = read(tmp_path)
    assert [e.data["n"] for e in everything] == [1, 2, 3, 4]
    first = everything[0]
    assert (first.wall, first.boot_id, first.t, first.rule) == (WALL, "boot-1", 1.0, "r")
    assert [e.data["n"] for e in read(tmp_path, knob="b")] == [3]
    assert [e.data["n"] for e in read(tmp_path, trial="t2")] == [2, 3]
    assert [e.data["n"] for e in read(tmp_path, limit=2)] == [3, 4]
    assert [e.data["n"] for e in read(tmp_path, kinds=("verdict",))] == [2]
    assert [e.data["n"] for e in read(tmp_path, kinds=("verdict", "proposed"), limit=1)] == [4]
    assert [e.data["n"] for e in read(tmp_path, trial=("t1", "t4"))] == [1, 4]
    assert [e.data["n"] for e in read(tmp_path, knob="vm.swappiness", limit=1)] == [2]
    assert tally(tmp_path) == {"proposed": 3, "verdict": 1}
    assert read(tmp_path, since=WALL + 1) == []
    assert read(tmp_path, boot_id="boot-2") == []


def test_no_history_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "never") == []
    assert tally(tmp_path / "never") == {}


def test_history_goes_on_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, record(1))
    write(tmp_path, record(2))
    assert [e.id for e in read(tmp_path)] == [1, 2]


def test_what_json_cannot_hold_is_kept_as_text(tmp_path: Path) -> None:
    write(tmp_path, record(1, data={"odd": {1, 2}, "path": tmp_path}))
    assert str(tmp_path) in str(read(tmp_path)[0].data["path"])


def test_full_queue_drops_and_counts(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    write(state, record(0))
    blocker = sqlite3.connect(state / HISTORY, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")  # as slow as a disk can be
    history = History(state, queue_size=5)
    time.sleep(0.2)  # let the thread meet the lock
    for n in range(1, 21):
        history.record(record(n), WALL, "boot-1")
    assert history.dropped >= 10
    blocker.execute("COMMIT")
    blocker.close()
    assert history.close(30)
    assert len(read(state)) == 1 + 20 - history.dropped


def test_reads_while_the_daemon_writes(tmp_path: Path) -> None:
    history = History(tmp_path)
    seen: list[int] = []
    for n in range(200):
        history.record(record(n), WALL, "boot-1")
        seen.append(len(read(tmp_path)))
    assert history.close(30)
    assert seen == sorted(seen)
    assert len(read(tmp_path)) == 200


KILLED = """
import os, sys, time
from pathlib import Path
from tuned_spec.ledger.history import History, read
from tuned_spec.model import Record
state = Path(sys.argv[1])
history = History(state)
for n in range(50):
    history.record(Record(kind="proposed", t=float(n), knobs=("k",)), 1.7e9, "boot-1")
while len(read(state)) < 50:
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The state directory of a daemon that was killed with entries in the log only."""
    state = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", KILLED, str(state)], timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert (state / f"{HISTORY}-wal").stat().st_size > 0
    return state


def test_reads_after_the_daemon_was_killed(killed: Path) -> None:
    assert len(read(killed)) == 50


@pytest.mark.parametrize("with_shm", [True, False])
def test_reads_a_read_only_directory(killed: Path, with_shm: bool) -> None:
    """As somebody who may not write there: nothing is made, nothing is missed."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    if not with_shm:
        (killed / f"{HISTORY}-shm").unlink()
    for directory in (killed, *list(killed.parents)[:3]):
        directory.chmod(0o755)
    before = sorted(p.name for p in killed.iterdir())
    script = (
        "import os, shutil, sys, tempfile; from pathlib import Path\n"
        "from tuned_spec.ledger.history import read\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(len(read(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(killed)], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.strip(), done.stderr) == ("50", "")
    assert sorted(p.name for p in killed.iterdir()) == before


def damage_text(path: Path) -> None:
    path.write_text("this was never a database\n" * 100)


def damage_middle(path: Path) -> None:
    write(path.parent, *(record(n) for n in range(500)))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    db.close()


def later_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE entry (id)")
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute("PRAGMA user_version=99")
    db.close()


BAD = [damage_text, damage_middle, foreign_database, later_version]


@pytest.mark.parametrize("spoil", BAD)
def test_a_bad_file_is_named_with_the_cure(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    spoil(tmp_path / HISTORY)
    with pytest.raises(JournalError) as caught:
        read(tmp_path)
    assert str(tmp_path / HISTORY) in str(caught.value)
    assert "mv " in str(caught.value)


@pytest.mark.parametrize("spoil", BAD)
def test_the_daemon_moves_a_bad_file_aside(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / HISTORY
    spoil(path)
    before = path.read_bytes()
    history = write(tmp_path, record(1), record(2))
    (aside,) = tmp_path.glob("history.db.bad-*")
    assert aside.read_bytes() == before
    assert history.dropped == 0
    said, *kept = read(tmp_path)
    assert said.kind == "fault" and str(aside) in str(said.data["what"])
    assert [e.data["n"] for e in kept] == [1, 2]


def test_a_place_that_cannot_be_written_costs_entries_not_the_daemon(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("a file where the directory should be")
    history = write(state, record(1))
    assert history.dropped == 1
    assert str(state) in history.fault and "make" in history.fault
    with pytest.raises(JournalError, match="history"):
        state.unlink()
        (state / HISTORY).mkdir(parents=True)
        read(state)


def test_old_entries_go_but_the_newest_stay_whatever_the_clock_says(tmp_path: Path) -> None:
    write(tmp_path, *(record(n) for n in range(SPARED + 1200)))
    far = WALL + 1000 * DAY_S
    prune(tmp_path, SPARED, wall=lambda: far)
    assert [e.data["n"] for e in read(tmp_path, limit=1)] == [SPARED + 1199]


def test_the_file_is_kept_small(tmp_path: Path) -> None:
    for n in range(0, 3000, 1000):
        write(tmp_path, *(record(n, data={"n": m, "pad": "x" * 1000}) for m in range(n, n + 1000)))
    before = (tmp_path / HISTORY).stat().st_size
    prune(tmp_path, 500, keep_bytes=1 << 20, wall=lambda: WALL)
    left = read(tmp_path)
    assert left and left[-1].data["n"] == 2999
    assert (tmp_path / HISTORY).stat().st_size < min(before, 1.2 * (1 << 20))
    assert read(tmp_path, knob="vm.swappiness") == left


def consulted(n: int, size: int = 20_000) -> Record:
    data = {"n": n, "model": "m", "prompt": "p" * (size // 2), "exchange": ["x" * (size // 2)]}
    figures = {"tokens_in": 3000, "tokens_out": 100, "cost": 0.5, "calls": 2, "outcome": "confirm"}
    return record(n, "consulted", data=data | figures)


def test_what_models_said_goes_before_what_was_decided(tmp_path: Path) -> None:
    keep = 2 << 20
    mixed = [one for n in range(200) for one in (record(n), consulted(n))]  # 4 MB of talk
    write(tmp_path, *mixed, keep_bytes=keep)
    write(tmp_path, keep_bytes=keep)  # prunes when it is opened, too
    talk, decided = read(tmp_path, kinds=("consulted",)), read(tmp_path, kinds=("proposed",))
    assert len(talk) == len(decided) == 200, "no row went for it"
    whole = [e.data["n"] for e in talk if "prompt" in e.data]
    assert whole == list(range(200 - len(whole), 200)), "the oldest went first"
    assert 0 < len(whole) * 20_000 <= BULK_SHARE * keep
    assert all("exchange" not in e.data for e in talk if "prompt" not in e.data)
    assert {(e.data["tokens_in"], e.data["outcome"]) for e in talk} == {(3000, "confirm")}, "figures stay"
    assert (tmp_path / HISTORY).stat().st_size < keep


def test_a_flood_of_talk_is_pruned_while_it_comes(tmp_path: Path) -> None:
    """Not once an hour only: the file never grows much past its bound."""
    keep = 2 << 20
    history = History(tmp_path, keep_bytes=keep, wall=lambda: WALL)
    sizes = []
    for n in range(400):
        history.record(consulted(n), WALL, "boot-1")
        if n % 20 == 19:
            while len(read(tmp_path, kinds=("consulted",), limit=1, trial=f"t{n}")) < 1:
                time.sleep(0.005)
            sizes.append((tmp_path / HISTORY).stat().st_size)
    assert history.close(30) and not history.fault
    assert max(sizes) < 1.5 * keep < 400 * 20_000


def test_what_models_took_is_summed(tmp_path: Path) -> None:
    assert spent(tmp_path / "never", 0.0) == Spent()
    write(tmp_path, consulted(1, 100))
    write(tmp_path, consulted(2, 100), consulted(2, 100), record(3), wall=WALL + 7200)
    assert spent(tmp_path, WALL) == Spent(6, 9000, 300, 1.5, ("t1", "t2"))
    assert spent(tmp_path, WALL + 3600) == Spent(4, 6000, 200, 1.0, ("t2",))


def prune(state: Path, at_most: int, **options: object) -> None:
    """Let a new daemon's thread do its housekeeping."""
    history = History(state, **options)  # type: ignore[arg-type]
    for _ in range(1000):
        if len(read(state)) <= at_most:
            break
        time.sleep(0.01)
    assert history.close(30)
    assert len(read(state)) <= at_most


FILL = """
import sys, time
from pathlib import Path
from tuned_spec.ledger.history import History, read
from tuned_spec.model import Record
state = Path(sys.argv[1])
history = History(state)
def note(n):
    history.record(Record("fault", 0.0, data={"n": n, "pad": "x" * 2000}), 1.7e9, "boot-1")
n = 0
while not history.dropped:  # the disk is full by and by
    note(n)
    n += 1
    time.sleep(0.001)
said = history.fault
(state / "ballast").unlink()
kept = len(read(state))
lost = history.dropped
while len(read(state)) == kept:  # and goes on when there is room again
    note(n)
    n += 1
    time.sleep(0.01)
assert history.close(30)
assert len(read(state)) == n - history.dropped, (len(read(state)), n, history.dropped)
print(said)
"""


def test_a_full_disk_costs_entries_and_is_survived(tmp_path: Path) -> None:
    """On a real file system of 1 MiB, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounts a small tmpfs: needs root")
    ballast = 'head -c 500000 /dev/zero > "$1/ballast"'
    mount = f'mount -t tmpfs -o size=1m none "$1" && {ballast} && exec "$2" -c "$3" "$1"'
    argv = ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "entries are lost" in done.stdout and "free space" in done.stdout
