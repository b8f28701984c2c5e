"""One line a decision, on standard error: for the journal when systemd listens, for eyes on a terminal.

Owns wording and fields. structlog does the rendering; it is imported late, when the first line is said.
Whoever reads may be gone, slow or full: a line is lost then (and counted), never the loop.
"""

from __future__ import annotations

import os
import select
from typing import Any

import msgspec

from tuned_spec.model import Record

STDERR = 2


# of a record's details, those that fit on a line
TOLD = ("why", "what", "code", "kind", "reason", "mode", "writer", "model", "outcome", "name", "error")


class Log:
    def __init__(self, fd: int = STDERR) -> None:
        import structlog

        renderer: Any = (
            structlog.dev.ConsoleRenderer(sort_keys=False)
            if os.isatty(fd)
            else structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)
        )
        self._log = structlog.wrap_logger(
            Lines(fd),
            processors=[structlog.processors.TimeStamper(fmt="iso"), renderer],
        )

    def say(self, event: str, **fields: object) -> None:
        self._log.info(event, **fields)

    def record(self, record: Record) -> None:
        """The same decision that goes into the history, as far as it fits on a line."""
        fields: dict[str, object] = {}
        if record.trial:
            fields["trial"] = record.trial
        if record.rule:
            fields["rule"] = record.rule
        if record.knobs:
            fields["knob"] = ",".join(record.knobs)
        for key in TOLD:
            if record.data.get(key):
                fields[key] = record.data[key]
        for key in ("writes", "after"):
            writes = record.data.get(key)
            if writes and key not in fields:
                # A verdict's are plain mappings already, as it came from the actor.
                plain = msgspec.to_builtins(writes)
                fields[key] = " ".join(f"{w['knob']}={_text(w['value'])}" for w in plain)
        self.say(record.kind, **fields)


class Lines:
    """Whole lines to a descriptor, without ever waiting for it or failing because of it."""

    def __init__(self, fd: int) -> None:
        self._fd, self.lost = fd, 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def info(self, line: str) -> None:
        lost = f"{self.lost} lines were lost here; `tuned-spec history` has them\n" if self.lost else ""
        # A pipe that polls as writable takes PIPE_BUF bytes without blocking.
        data = (lost + line).encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n"
        try:
            if self._poll.poll(0):
                os.write(self._fd, data)
                self.lost = 0
                return
        except OSError:
            pass  # EPIPE, ENOSPC, EIO of a terminal that hung up
        self.lost += 1


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
