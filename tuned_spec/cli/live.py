"""What the daemon says of itself, or, where it cannot, what it left behind.

Owns the question over the control socket and the reading of lock, undo journal and history for commands
that only look. Writes nothing, restores nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tuned_spec import paths
from tuned_spec.errors import JournalError
from tuned_spec.ledger import repair
from tuned_spec.ledger.history import Entry, read
from tuned_spec.model import Frozen

ANSWER_S = 1.0


def look(args: argparse.Namespace) -> None:
    """Where the commands look. Only root's daemon can change a knob: who is not root, names no directory and
    runs no daemon means that one, if it was ever there. A history of one's own is still one's own."""
    if os.geteuid() == 0 or args.runtime_dir != paths.runtime_dir() or lock_holder(args.runtime_dir):
        return
    own = args.command in ("history", "actor") and (args.state_dir / paths.HISTORY).exists()
    roots = args.root / repair.ROOTS.lstrip("/")
    try:
        there = roots.exists()
    except PermissionError:
        there = True  # as far as this user may know
    if there and not own:
        args.runtime_dir = roots
        if args.state_dir == paths.state_dir():
            args.state_dir = args.root / "var/lib/tuned-spec"


class Daemon(Frozen, frozen=True):
    """`state`: running (`status` is what it answered), hung (it holds the lock, silent), stopped, or unseen
    (this user may not look)."""

    state: str
    pid: int = 0
    status: dict[str, object] = {}  # noqa: RUF012 (msgspec copies it)


def daemon(runtime_dir: Path) -> Daemon:
    pid = lock_holder(runtime_dir)
    reply = ask(runtime_dir, "status")
    status = reply.get("status") if reply else None
    if isinstance(status, dict):
        return Daemon("running", pid, status)
    if pid:
        return Daemon("hung", pid)
    try:
        (runtime_dir / paths.LOCK).stat()
    except PermissionError:
        return Daemon("unseen")
    except OSError:
        pass  # never run
    return Daemon("stopped")


def ask(
    runtime_dir: Path, do: str, knobs: Sequence[str] = (), *, patience_s: float = ANSWER_S, **more: object
) -> dict[str, object] | None:
    """The daemon's answer to a request; None if it gave none in time."""
    deadline = time.monotonic() + patience_s
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(patience_s)
            door.connect(str(runtime_dir / paths.CONTROL))
            door.sendall(msgspec.json.encode({"v": 1, "do": do, "knobs": knobs, **more}) + b"\n")
            while not answer.endswith(b"\n"):
                door.settimeout(max(0.01, deadline - time.monotonic()))
                part = door.recv(65536)
                if not part:
                    return None
                answer += part
        reply = json.loads(answer)
        return reply if isinstance(reply, dict) and reply.get("v") == 1 else None
    except (OSError, ValueError):
        return None


def lock_holder(runtime_dir: Path) -> int:
    """The pid of the daemon that holds the runtime directory, 0 if none does.

    Looked up in /proc/locks: trying the lock would make a daemon that starts right now give up.
    """
    lock = runtime_dir / paths.LOCK
    try:
        inode = lock.stat().st_ino
        words = lock.read_text().split() if os.access(lock, os.R_OK) else []
        pid = int(words[0]) if words else 0
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            # "1: FLOCK ADVISORY WRITE 4242 00:1a:9731 0 EOF"; "->" marks one that waits.
            if "->" not in fields and "FLOCK" in fields and fields[5].endswith(f":{inode}"):
                return pid or int(fields[4])
    except (OSError, ValueError, IndexError):
        pass
    return 0


class Journal(Frozen, frozen=True):
    """The undo journal's rows of this boot, compared with the kernel: what is not as it was."""

    changed: list[dict[str, str]]  # ours, and still in the kernel
    foreign: list[dict[str, str]]  # written by somebody else since
    damage: list[str]


def journal(runtime_dir: Path) -> Journal:
    rows, damage = undo_rows(runtime_dir)
    active = [row for row in rows if row.status in repair.ACTIVE]
    found = repair.survey(active, repair.boot_id())
    changed, foreign = [], []
    for row in active:
        outcome = found[row.knob]
        line = {
            "knob": row.knob,
            "original": row.original,
            "value": row.ours,
            "found": outcome.found,
            "status": row.status,
            "trial": row.trial,
            "rule": row.rule,
            "why": outcome.why,
        }
        if outcome.status in ("ours", "failed"):
            changed.append(line)
        elif outcome.status == "foreign":
            foreign.append(line)
    return Journal(changed, foreign, damage)


def undo_rows(runtime_dir: Path) -> tuple[list[repair.Row], list[str]]:
    """The journal's rows and what is wrong with it; none where there is no journal."""
    path = runtime_dir / paths.JOURNAL
    try:
        if not path.exists():
            return [], []
    except OSError as error:
        return [], [f"{path}: {error.strerror}; cannot be read without root; use sudo"]
    loaded = repair.load(str(runtime_dir))
    if loaded.db is not None:
        loaded.db.close()
    return loaded.rows, loaded.damage


class Last(Frozen, frozen=True):
    """The last daemon that the history knows of."""

    seen: float = 0.0  # wall time of its last entry
    ended: str = ""
    mode: str = ""
    policy: Sequence[str] = ()
    pid: int = 0
    alpha: float | None = None


def last(state_dir: Path, *, running: bool = False) -> Last:
    """When the last daemon was seen, and how it ended."""
    newest = read(state_dir, limit=1)
    starts = read(state_dir, kinds=("start",), limit=1)
    if not newest or not starts:
        return Last()
    start = starts[0]
    stops = [e for e in read(state_dir, kinds=("stop",), limit=1) if e.id > start.id]
    if running:
        ended = ""
    elif stops:
        ended = str(stops[0].data.get("why") or "a stop")
    elif start.boot_id != repair.boot_id():
        ended = "a reboot or a crash of the host, no stop is on record"
    else:
        ended = "a kill or a crash, no stop is on record"
    policy = start.data.get("policy", ())
    pid = start.data.get("pid", 0)
    alpha = start.data.get("alpha")
    return Last(
        seen=newest[0].wall,
        ended=ended,
        mode=str(start.data.get("mode", "")),
        policy=[str(p) for p in policy] if isinstance(policy, list) else [],
        pid=pid if isinstance(pid, int) else 0,
        alpha=alpha if isinstance(alpha, float) else None,
    )


def history(state_dir: Path, **filters: object) -> tuple[list[Entry], str]:
    """The entries, or none and why: a bad history must not hide what the daemon and the kernel say."""
    try:
        return read(state_dir, **filters), ""  # type: ignore[arg-type]
    except JournalError as error:
        return [], str(error)


def command(verb: str, runtime_dir: Path) -> str:
    """What to type for it."""
    default = runtime_dir == Path(repair.ROOTS)
    return f"sudo tuned-spec {verb}" + ("" if default else f" --runtime-dir {runtime_dir}")
