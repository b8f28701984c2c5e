"""One line a decision, on standard error: for the journal when systemd listens, for eyes on a terminal.

Owns wording and fields. structlog does the rendering; it is imported late, when the first line is said.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from tuned_spec.model import Record


class Log:
    def __init__(self) -> None:
        import structlog

        renderer: Any = (
            structlog.dev.ConsoleRenderer(sort_keys=False)
            if sys.stderr.isatty()
            else structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)
        )
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
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
        for key in ("why", "what", "code", "reason", "mode", "writer"):
            if record.data.get(key):
                fields[key] = record.data[key]
        for key in ("writes", "after"):
            writes = record.data.get(key)
            if writes and key not in fields:
                # A verdict's are plain mappings already, as it came from the actor.
                plain = msgspec.to_builtins(writes)
                fields[key] = " ".join(f"{w['knob']}={_text(w['value'])}" for w in plain)
        self.say(record.kind, **fields)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
