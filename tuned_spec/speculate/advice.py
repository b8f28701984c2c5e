"""Advice: what a verdict asks of the next guesses, as far as it is taken, and for how long.

Owns the bounds: advice only makes a guess later, rarer or nearer, never one that would not have been allowed;
it ends by itself; there is only so much of it. Pure; must not know the engine's state, nor who gave it.

A rule that was left to rest is not left to rest again before as much time has passed as it rested: whoever
gives advice may quieten every rule for MOST_S, and for half of the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from tuned_spec.model import Frozen, Narrow, Prefer, RestRule, Span, Strategy
from tuned_spec.speculate.signature import KNOWN, Signature, distance

A_VERDICT = 4
IN_FORCE = 32
LEAST_S, MOST_S = 60.0, 86_400.0
WORDS = 200  # of a reason, in characters


class Given(Frozen, frozen=True):
    """One item of advice that was taken. `signature`: of the workload it was given under, None if unknown."""

    item: Strategy
    since: float
    until: float
    by: str
    trial: str
    signature: Signature | None = None

    @property
    def free(self) -> float:
        """From when the same may be asked for anew."""
        return self.until + (self.until - self.since) if isinstance(self.item, RestRule) else self.until

    def holds(self, usual: Signature | None, t: float) -> bool:
        """Now, and under this workload? A range is a range whatever is done."""
        if t >= self.until:
            return False
        if isinstance(self.item, Narrow) or self.signature is None or usual is None:
            return True
        return distance(self.signature, usual) <= KNOWN


class Known(Frozen, frozen=True):
    """What advice may be about: rules and searches by name, the searches' room, the knobs that rules move."""

    rules: frozenset[str]
    spans: tuple[Span, ...]
    moved: frozenset[str]


def subject(item: Strategy) -> str:
    return item.rule if isinstance(item, RestRule) else item.knob


def take(
    given: tuple[Given, ...], new: Given, known: Known, limits: tuple[int | None, int | None] = (None, None)
) -> tuple[Given, ...] | str:
    """With the new item in its time's bounds, which are counted from `new.since`; or why it is not taken.

    `limits`: what the policy allows for the knob of a Narrow. The same advice once more replaces the old, but
    goes on from when that began.
    """
    t, item = new.since, new.item
    if wrong := _wrong(item, known, limits):
        return wrong
    kept = tuple(one for one in given if t < one.free)
    same = [one for one in kept if type(one.item) is type(item) and subject(one.item) == subject(item)]
    if any(t >= one.until for one in same):
        return "it rested for advice already, and may be tried for as long as it did"
    others = tuple(one for one in kept if one not in same)
    if len(others) >= IN_FORCE:
        return f"{IN_FORCE} items are in force, which is the most"
    since = min([t, *(one.since for one in same)])
    until = min(t + min(MOST_S, max(LEAST_S, item.for_s)), since + MOST_S)
    short = msgspec.structs.replace(item, reason=item.reason[:WORDS])
    return *others, msgspec.structs.replace(new, item=short, since=since, until=until)


def _wrong(item: Strategy, known: Known, limits: tuple[int | None, int | None]) -> str:
    match item:
        case RestRule():
            return "" if item.rule in known.rules else "the policy has no such rule or search"
        case Prefer():
            return "" if item.knob in known.moved else "no rule of the policy moves it"
        case Narrow():
            spans = [span for span in known.spans if span.knob == item.knob]
            low, high = limits
            if not spans:
                return "no search of the policy moves it"
            if (low is not None and item.low < low) or (high is not None and item.high > high):
                return f"{item.low}..{item.high} is outside {low}..{high}, which the policy allows"
            if all(_inside(span, item) is None for span in spans):
                room = ", ".join(f"{span.low}..{span.high}" for span in spans)
                return f"{item.low}..{item.high} leaves a search nothing of its {room}"
            return ""
        case _:
            assert_never(item)


def narrowed(span: Span, items: Iterable[Strategy]) -> Span:
    """The span inside what advice leaves of it; itself if that would leave nothing."""
    for item in items:
        if isinstance(item, Narrow) and item.knob == span.knob:
            span = _inside(span, item) or span
    return span


def _inside(span: Span, item: Narrow) -> Span | None:
    low, high = max(span.low, item.low), min(span.high, item.high)
    room = high // span.quantum - -(-low // span.quantum)  # the search's two ends differ, or it cannot move
    return msgspec.structs.replace(span, low=low, high=high) if room > 0 else None


def words(item: Strategy) -> str:
    """What was asked for, without the reason."""
    match item:
        case Narrow():
            return f"search {item.knob} between {item.low} and {item.high} only"
        case RestRule():
            return f"let {item.rule} rest"
        case Prefer():
            return f"prefer guesses that move {item.knob}"
        case _:
            assert_never(item)
