"""The owner's hook, which tells a person that a change waits for them: one JSON document on its stdin.

Owns how a program is run that nobody here trusts to end, to be quiet or to read: as the actor's unprivileged
user, without a shell, in a session of its own, with next to no environment, 10 s long; then it is killed with
all that it has started. What it is told is on stdin only: foreign text never reaches argv or the environment.
One at a time, and so many an hour: what comes while none may run is folded into one. Must not know why a
question is asked.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from tuned_spec.model import Move, Notice, Value

LONGEST_S = 10.0
AN_HOUR = 30
HOUR_S = 3600.0
SAID = 4096  # bytes of its stderr that are looked at
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Pace:
    """What is told next, and when. Times are seconds of a steady clock."""

    def __init__(self, an_hour: int = AN_HOUR) -> None:
        self._an_hour = an_hour
        self._waiting: deque[Notice] = deque()
        self._told: deque[float] = deque()
        self._fold = False

    def put(self, notice: Notice) -> None:
        self._waiting.append(notice)

    def next(self, t: float) -> tuple[Notice, int] | float | None:
        """A notice and how many it stands for besides; or when there is one; or None, nothing waits."""
        if not self._waiting:
            return None
        while self._told and self._told[0] <= t - HOUR_S:
            self._told.popleft()
        if len(self._told) >= self._an_hour:
            self._fold = True
            return self._told[0] + HOUR_S
        self._told.append(t)
        if not self._fold:
            return self._waiting.popleft(), 0
        # A question that may still be open says more than an answer.
        asked = [notice for notice in self._waiting if notice.event == "pending"]
        chosen, more = (asked or list(self._waiting))[-1], len(self._waiting) - 1
        self._waiting.clear()
        self._fold = False
        return chosen, more


class Notifier:
    """Call it with a Notice; it never waits. Its thread begins with the first one: after the privileges went,
    which are a thread's own."""

    def __init__(self, command: tuple[str, ...], complain: Callable[[str], None]) -> None:
        self._command, self._complain = command, complain
        self._pace, self._changed = Pace(), threading.Condition()
        self._thread: threading.Thread | None = None
        self._failed = False

    def __call__(self, notice: Notice) -> None:
        if not self._command:
            return
        with self._changed:
            self._pace.put(notice)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, name="notify", daemon=True)
            self._thread.start()

    def _tell(self) -> None:
        while True:
            with self._changed:
                while not isinstance(due := self._pace.next(time.monotonic()), tuple):
                    self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))
            trouble = run(self._command, document(*due))
            if trouble and not self._failed:
                self._complain(f"notify: {self._command[0]}: {trouble}; said once until it works again")
            self._failed = bool(trouble)


def document(notice: Notice, more: int = 0) -> bytes:
    """What the hook reads: the Notice, the host's name, all in one sentence, and how many more there are."""
    told = msgspec.to_builtins(notice)
    del told["type"]
    host = socket.gethostname()
    facts = {"v": 1, "host": host, "text": text(notice, host, more), "more": more}
    return msgspec.json.encode(facts | told) + b"\n"


def text(notice: Notice, host: str, more: int) -> str:
    moves = ", ".join(map(_move, notice.moves))
    words = f"tuned-spec on {host}: {notice.event}: {moves}: {notice.what}"
    if notice.approve:
        words += f"; to answer: {notice.approve} or {notice.reject}"
    return words + (f"; and {more} more, see `tuned-spec status`" if more else "")


def _move(move: Move) -> str:
    return f"{move.knob} {_word(move.old)} -> {_word(move.new)}"


def _word(value: Value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def run(command: tuple[str, ...], stdin: bytes, longest_s: float = LONGEST_S) -> str:
    """Run it to its end, or to ours; returns why that was no success, or ""."""
    end = time.monotonic() + longest_s
    # Not a pipe: a hook that reads nothing must not hold us up.
    told = os.memfd_create("notice", os.MFD_CLOEXEC)
    try:
        os.write(told, stdin)
        os.lseek(told, 0, os.SEEK_SET)
        process = subprocess.Popen(
            command,
            stdin=told,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
        )
    except (OSError, ValueError) as error:
        return f"cannot be started: {error}"
    finally:
        os.close(told)
    with process:
        said = _listen(process, end)
        late = process.poll() is None
        _kill_group(process.pid)
        process.wait()
    if late:
        return f"killed after {longest_s:g} s"
    if process.returncode:
        words = "".join(c if c.isprintable() else " " for c in said.decode("utf-8", "replace")[:300]).strip()
        return f"ended with status {process.returncode}" + (f": {words}" if words else "")
    return ""


def _listen(process: subprocess.Popen[bytes], end: float) -> bytes:
    """The beginning of what it complains of, until it has ended or its time is up."""
    assert process.stderr is not None
    said, open = b"", True
    while process.poll() is None and (left := end - time.monotonic()) > 0:
        if not open:
            time.sleep(min(0.02, left))
        elif select.select([process.stderr], [], [], min(0.1, left))[0]:
            part = os.read(process.stderr.fileno(), SAID)
            open = bool(part)
            said = (said + part)[:SAID]
    if open and select.select([process.stderr], [], [], 0)[0]:
        said = (said + os.read(process.stderr.fileno(), SAID))[:SAID]
    return said


def _kill_group(pid: int) -> None:
    """Its session's group, led by `pid` that is not reaped yet: no other can have the number."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
