"""What the daemon and the helper say to each other: one of these a packet, as JSON.

Owns the messages and their packing; imported by both sides, so msgspec alone.
"""

from __future__ import annotations

import msgspec

from tuned_spec.model import Frozen

PACKET = 64 << 10  # bytes of one packet at most


class Question(Frozen, frozen=True):
    """From the daemon. `token` is said again in the answer; `wrong_with` had no objection."""

    token: int
    name: str
    args: dict[str, str] = {}  # noqa: RUF012 (msgspec copies it)


class Answered(Frozen, frozen=True):
    """From the helper: JSON of at most ANSWER_LIMIT bytes, or `error` in words."""

    token: int
    answer: str = ""
    error: str = ""
    seconds: float = 0.0


_question = msgspec.json.Decoder(Question)
_answered = msgspec.json.Decoder(Answered)


def pack(message: Question | Answered) -> bytes:
    return msgspec.json.encode(message)


def question(packet: bytes) -> Question:
    """msgspec.DecodeError or ValidationError for a packet that is not ours."""
    return _question.decode(packet)


def answered(packet: bytes) -> Answered:
    """As `question`."""
    return _answered.decode(packet)
