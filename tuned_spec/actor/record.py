"""What is kept of an exchange with a model: for people, and for a replay with another model.

Owns the record's size and what may not be in it. A record tells the whole conversation so far, so that
each can be read by itself; its tokens, cost and seconds are those of its last exchange.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from tuned_spec.actor.flow import Reply, Said
from tuned_spec.actor.quoting import clean, lines
from tuned_spec.model import Consulted

MOST_RECORD = 40 << 10  # bytes of one, encoded
MOST_TURN = 16_384  # characters

replace = msgspec.structs.replace


def exchanged(
    case: str, system: str, said: Sequence[Said], answer: Reply, outcome: str, probes: int = 0
) -> Consulted:
    """`said` begins with what the model was told of the case; `probes`: that it asked for last."""
    prompt, *exchange = (legible(one.text) for one in said)
    return bounded(
        Consulted(
            case=case,
            model=clean(answer.model, 120),
            system=digest(system),
            prompt=prompt,
            exchange=tuple(exchange),
            outcome=clean(outcome, 400),
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            cost=answer.cost,
            seconds=answer.seconds,
            probes=probes,
        )
    )


def legible(text: str) -> str:
    """As it was said, but for secrets and what cannot be seen."""
    return "\n".join(lines(text, MOST_TURN))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def bounded(record: Consulted) -> Consulted:
    """Cut until it fits: the oldest turns first, and the prompt last of all."""
    for most in (16_384, 4096, 1024, 200):
        if len(msgspec.json.encode(record)) <= MOST_RECORD:
            return record
        record = replace(record, exchange=tuple(_cut(turn, most) for turn in record.exchange[-16:]))
    return replace(record, prompt=_cut(record.prompt, 5000))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({len(text) - most} characters more)"
