"""How many tokens a text takes with a SentencePiece vocabulary of the BPE kind, as many models have one.

The library for them is not needed to count: the file is a protobuf of (piece, score, kind).
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from pathlib import Path

NORMAL, USER_DEFINED = 1, 4  # sentencepiece_model.proto, SentencePiece.Type
BLANK = "\u2581"


class Pieces:
    def __init__(self, path: Path) -> None:
        self.scores: dict[str, float] = {}
        for number, value in _fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                if piece.get(3, NORMAL) in (NORMAL, USER_DEFINED):
                    text, score = piece[1], piece.get(2, b"\0\0\0\0")
                    assert isinstance(text, bytes) and isinstance(score, bytes)
                    self.scores[text.decode()] = struct.unpack("<f", score)[0]

    def count(self, text: str) -> int:
        """The best-scored pair of neighbours is merged until none is a piece; the rest counts in bytes."""
        parts: list[str | None] = list(BLANK + text.replace(" ", BLANK))
        after = [*range(1, len(parts)), -1]
        before = [-1, *range(len(parts) - 1)]
        heap: list[tuple[float, int, str]] = []

        def offer(at: int) -> None:
            if at >= 0 and after[at] >= 0:
                pair = f"{parts[at]}{parts[after[at]]}"
                if pair in self.scores:
                    heapq.heappush(heap, (-self.scores[pair], at, pair))

        for at in range(len(parts)):
            offer(at)
        while heap:
            _, at, pair = heapq.heappop(heap)
            gone = after[at]
            if parts[at] is None or gone < 0 or f"{parts[at]}{parts[gone]}" != pair:
                continue
            parts[at], parts[gone] = pair, None
            after[at] = after[gone]
            if after[at] >= 0:
                before[after[at]] = at
            offer(before[at])
            offer(at)
        return sum(1 if part in self.scores else len(part.encode()) for part in parts if part is not None)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field, value) of one protobuf message, see protobuf.dev/programming-guides/encoding."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1 | 5 as width:
                size = 8 if width == 1 else 4
                yield key >> 3, data[at : at + size]
                at += size
            case 2:
                size = varint()
                yield key >> 3, data[at : at + size]
                at += size
            case other:
                raise ValueError(f"wire type {other}")
