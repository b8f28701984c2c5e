"""The latest lines of the kernel's log, from /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

A line may hold what anybody wrote (a process's name, with some settings any text): plain and starred.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuned_spec.probes.answer import Unanswered, answer
from tuned_spec.probes.redact import plain, starred

LINES = 40
LINE_SHOWN = 240
MOST = 200_000  # records read: more than any buffer holds
_RECORD = 8192  # the kernel's own limit
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def latest(args: Mapping[str, str], root: Path = Path("/")) -> str:
    """The newest first, so that the oldest are left out should they not fit."""
    path = root / "dev/kmsg"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unanswered(f"kernel_log: {path}: {error.strerror}") from error
    try:
        records = deque(_records(fd), maxlen=LINES)
    finally:
        os.close(fd)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)  # the log's own clock stands still in suspend, too
    rows = [line(record, now) for record in reversed(records)]
    return answer({}, {"newest_first": [row for row in rows if row]})


def _records(fd: int) -> Iterable[bytes]:
    for _ in range(MOST):
        try:
            record = os.read(fd, _RECORD)
        except BlockingIOError:
            return
        except BrokenPipeError:  # overwritten before we came to it: the next read goes on behind it
            continue
        except OSError as error:
            raise Unanswered(f"kernel_log: {error.strerror}") from error
        if not record:
            return
        yield record


def line(record: bytes, now: float) -> dict[str, object]:
    r"""`PRIORITY,NUMBER,MICROSECONDS,FLAGS[,...];TEXT\n KEY=VALUE\n`: age, level, text; {} if it is none."""
    head, _, rest = record.decode(errors="replace").partition(";")
    try:
        priority, _, microseconds = head.split(",")[:3]
        facility, level = divmod(int(priority), 8)
        age = max(0.0, now - int(microseconds) / 1e6)
    except ValueError:
        return {}
    text = starred(plain(unescaped(rest.partition("\n")[0])))[:LINE_SHOWN]
    shown: dict[str, object] = {"age_s": round(age, 1), "level": LEVELS[level], "text": text}
    return shown | ({"from": "a program"} if facility else {})


def unescaped(text: str) -> str:
    r"""The kernel writes a byte that it does not print as `\xHH`; what is no text is left out later."""
    data = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text.encode())
    return data.decode(errors="replace")
