"""The door between daemon and actor: frames of typed messages over a stream socket.

Owns the framing (four bytes of big-endian length, then one JSON document) and its limits. Imported by
the root daemon as well, so the standard library and msgspec only; knows nothing of trials or knobs.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from tuned_spec.errors import ProtocolError
from tuned_spec.model import FromActor, ToActor

TO_ACTOR_LIMIT = 1 << 20  # bytes of one message to the actor
FROM_ACTOR_LIMIT = 64 << 10  # and of one from it: the actor is the less trusted side
HEADER = 4

Message = TypeVar("Message")


class Decoder(Generic[Message]):
    """Turns a byte stream, however it is cut, back into messages of the given union of structs.

    After a ProtocolError the stream has no next frame to trust: drop the peer, do not feed again.
    """

    def __init__(self, types: Any, limit: int) -> None:
        self._json = msgspec.json.Decoder(types)
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """All messages that `data` completes, in order; ProtocolError says what was wrong."""
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= HEADER:
            size = int.from_bytes(self._buffer[:HEADER], "big")
            if not 0 < size <= self._limit:
                raise ProtocolError(f"frame of {size} bytes announced; 1 to {self._limit} are allowed")
            if len(self._buffer) < HEADER + size:
                break
            frame = bytes(self._buffer[HEADER : HEADER + size])
            del self._buffer[: HEADER + size]
            messages.append(self._decode(frame))
        return messages

    def finish(self) -> None:
        """The stream has ended: ProtocolError if it did so within a frame."""
        if self._buffer:
            raise ProtocolError(f"stream ended {len(self._buffer)} bytes into a frame")

    def _decode(self, frame: bytes) -> Message:
        try:
            return self._json.decode(frame)  # type: ignore[no-any-return]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            start = frame[:60].decode("utf-8", "replace")
            raise ProtocolError(f"message cannot be read: {error}; it starts with {start!r}") from error


def from_actor() -> Decoder[FromActor]:
    """What the daemon reads."""
    return Decoder(FromActor, FROM_ACTOR_LIMIT)


def to_actor() -> Decoder[ToActor]:
    """What the actor reads."""
    return Decoder(ToActor, TO_ACTOR_LIMIT)


def encode(message: FromActor | ToActor) -> bytes:
    """One frame; ProtocolError if it is larger than the receiver would take."""
    body = msgspec.json.encode(message)
    limit = TO_ACTOR_LIMIT if isinstance(message, ToActor) else FROM_ACTOR_LIMIT
    if len(body) > limit:
        raise ProtocolError(f"{type(message).__name__} of {len(body)} bytes; the receiver takes {limit}")
    return len(body).to_bytes(HEADER, "big") + body
