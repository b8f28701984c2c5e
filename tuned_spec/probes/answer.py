"""An answer's form: compact JSON within ANSWER_LIMIT, cut by whole rows, the least of them first.

Pure. Must not know what the rows are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tuned_spec.probes.names import ANSWER_LIMIT

WINDOW_S = 1.0  # what a sampled answer looks at
ERROR_LIMIT = 400  # characters


class Unanswered(Exception):
    """Why there is no answer, in words for the actor."""


def answer(
    facts: Mapping[str, object], rows: Mapping[str, Sequence[object]] | None = None, limit: int = ANSWER_LIMIT
) -> str:
    """`facts`, and each list of `rows`, most important first, as far as they fit: the lists are filled in
    turns, and `left_out` says how many rows of which are not shown."""
    rows = rows or {}
    encoded = {name: [_json(row) for row in some] for name, some in rows.items()}
    shown = dict.fromkeys(rows, 0)
    empty = {
        **facts,
        **{name: [] for name in rows},
        "left_out": {name: len(some) for name, some in rows.items()},
    }
    room = limit - len(_json(empty))
    growing = [name for name, some in encoded.items() if some]
    while growing:
        for name in tuple(growing):
            room -= len(encoded[name][shown[name]]) + 1  # and a comma
            if room < 0:
                growing.clear()
                break
            shown[name] += 1
            if shown[name] == len(encoded[name]):
                growing.remove(name)
    left = {name: len(some) - shown[name] for name, some in rows.items() if len(some) > shown[name]}
    document = {**facts, **{name: some[: shown[name]] for name, some in rows.items()}}
    text = _json(document | ({"left_out": left} if left else {}))
    if len(text) > limit:
        raise Unanswered(f"its answer would be of {len(text)} bytes; {limit} are allowed")
    return text.decode()


def figure(value: float) -> float | int:
    """As many digits as mean something."""
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
