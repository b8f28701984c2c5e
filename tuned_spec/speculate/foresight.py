"""Foresight: which probes an actor will ask for next, learnt from the cases it has judged.

Owns the counts and the sum that decides what is worth running ahead. Must not know clocks, the engine or how
a probe is answered: times come in as durations, cases as their proposal.

A *session* is what one case asked, in order, up to its verdict. What belongs to the case (its knob, its
metric, its cgroup) is learnt as a slot, so that a question about one case's knob is expected of the next
about its own. Next symbols are blended over contexts from the general to the special (any case, cases of such
knobs and metric, this rule; with none, one, two and three questions back), as PPM does: each context counts
against the more general ones by how much and how many different things it has seen (Witten and Bell 1991,
method C). Launched by Theorem 3 of "Speculative Actions" (arXiv 2510.04371): surest first, while the seconds
it is expected to save are at least what the probing costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec

from tuned_spec.model import Frozen, Proposal, entry_of
from tuned_spec.probes.names import PROBES, wrong_with

VERDICT, MEASURE = "!verdict", "!measure"  # how a session ends; a window that was asked for
ORDERS = 3  # questions back that count at most
FADE = 0.98  # of a context's counts, each time it is seen again
FAINT = 0.05  # a count below is forgotten
CONTEXTS = 2000  # kept; the least used go
SYMBOLS = 24  # kept of one context
SESSION = 64  # symbols of one session
SMOOTH = 0.2  # weight of the newest duration in a mean
INSTANT_S = 0.05  # what takes less is not worth running ahead

replace = msgspec.structs.replace


class Mean(Frozen, frozen=True):
    """Of durations in seconds, the newest weighing most."""

    seconds: float = 0.0
    n: int = 0

    def with_(self, seconds: float) -> Mean:
        weight = max(SMOOTH, 1.0 / (self.n + 1))
        return Mean(self.seconds + weight * (seconds - self.seconds), self.n + 1)


class Foresight(Frozen, frozen=True):
    """`contexts`: level and history -> next symbol -> how often, faded. `again` of `asked` questions had been
    asked before in the same case."""

    contexts: dict[str, dict[str, float]] = {}  # noqa: RUF012 (msgspec copies it)
    seconds: dict[str, Mean] = {}  # noqa: RUF012 (probe -> how long it runs)
    thinking: Mean = Mean()  # from what the actor was told last to its next question
    asked: float = 0.0
    again: float = 0.0


class Query(Frozen, frozen=True):
    name: str
    args: tuple[tuple[str, str], ...] = ()


class Setting(Frozen, frozen=True):
    """A case as its probes see it: levels from the general to the special, and its own words by slot."""

    levels: tuple[str, ...]
    slots: dict[str, str]


class Branch(Frozen, frozen=True):
    """`p`: how likely it is asked next, once its parent has been; `then`: what may follow it."""

    query: Query
    p: float
    then: tuple[Branch, ...] = ()


def setting(guess: Proposal) -> Setting:
    """The slots of a case: its knobs, its metrics, and the cgroup and unit that these are of."""
    knobs = [write.knob for write in guess.writes]
    metrics = [guess.expect.metric, *(guard.metric for guard in guess.guard), *sorted(guess.seen)]
    slots = {f"$knob{n}": knob for n, knob in enumerate(knobs)}
    slots |= {f"$metric{n}": metric for n, metric in enumerate(dict.fromkeys(metrics))}
    instances = dict.fromkeys(name.partition("@")[2] for name in (*knobs, *metrics) if "@" in name)
    for n, instance in enumerate(instances):
        slots[f"$instance{n}"] = instance
        slots[f"$unit{n}"] = instance.rpartition("/")[2]
    entries = ",".join(entry_of(knob) for knob in knobs)
    return Setting(("", f"{entries} {entry_of(guess.expect.metric)}", f"rule {guess.rule}"), slots)


def symbol(place: Setting, query: Query) -> str:
    """The question with the case's own words replaced by slots."""
    words = {value: slot for slot, value in reversed(place.slots.items())}
    return " ".join([query.name, *(f"{arg}={words.get(value, value)}" for arg, value in query.args)])


def query(place: Setting, symbol: str) -> Query | None:
    """What the symbol means in this case; None: the case has no such slot, or it is no question."""
    name, *pairs = symbol.split(" ")
    if name not in PROBES:
        return None
    args = []
    for pair in pairs:
        arg, _, value = pair.partition("=")
        if (word := place.slots.get(value, "") if value.startswith("$") else value) == "":
            return None
        args.append((arg, word))
    return None if wrong_with(name, dict(args)) else Query(name, tuple(args))


# ----------------------------------------------------------------------------------- learning


def learn(memory: Foresight, place: Setting, session: Sequence[str], ended: bool) -> Foresight:
    """Counts one session. `ended`: by a verdict, so that there is nothing more to come."""
    symbols = (*session[:SESSION], VERDICT) if ended else tuple(session[:SESSION])
    contexts = dict(memory.contexts)
    fresh: set[str] = set()
    for n, next_ in enumerate(symbols):
        for key in _keys(place, symbols[:n]):
            counts = contexts.get(key, {})
            if key not in fresh:  # once a session, not once a symbol
                counts = {s: c * FADE for s, c in counts.items() if c * FADE >= FAINT}
                fresh.add(key)
            contexts[key] = _largest({**counts, next_: counts.get(next_, 0.0) + 1.0}, SYMBOLS)
    if len(contexts) > CONTEXTS:
        most = sorted(contexts, key=lambda key: -sum(contexts[key].values()))
        contexts = {key: contexts[key] for key in most[: CONTEXTS * 3 // 4]}
    asked = [s for s in symbols if not s.startswith("!")]
    return replace(
        memory,
        contexts=contexts,
        asked=memory.asked * FADE + len(asked),
        again=memory.again * FADE + len(asked) - len(set(asked)),
    )


def ran(memory: Foresight, name: str, seconds: float) -> Foresight:
    return replace(memory, seconds={**memory.seconds, name: memory.seconds.get(name, Mean()).with_(seconds)})


def takes_time(memory: Foresight, name: str) -> bool:
    """As far as is known: what never ran may take long."""
    return name not in memory.seconds or memory.seconds[name].seconds >= INSTANT_S


def thought(memory: Foresight, seconds: float) -> Foresight:
    return replace(memory, thinking=memory.thinking.with_(seconds))


def _keys(place: Setting, history: Sequence[str]) -> list[str]:
    """The contexts of the next symbol, from the general to the special."""
    orders = range(min(ORDERS, len(history) + 1) + 1)  # a history's beginning is a symbol, too
    told = ("^", *history)
    return [
        f"{level}|{' > '.join(told[len(told) - order :])}" for order, level in product(orders, place.levels)
    ]


def _largest(counts: dict[str, float], most: int) -> dict[str, float]:
    if len(counts) <= most:
        return counts
    newest = next(reversed(counts))  # or nothing new would ever get in
    kept = sorted(counts, key=lambda s: (s != newest, -counts[s]))[:most]
    return {s: counts[s] for s in counts if s in kept}


# --------------------------------------------------------------------------------- prediction


def likely(memory: Foresight, place: Setting, history: Sequence[str]) -> dict[str, float]:
    """How likely each symbol is to be next. What is missing to 1 is for what was never seen."""
    found: dict[str, float] = {}
    for key in _keys(place, history[-SESSION:]):
        if counts := memory.contexts.get(key):
            total, kinds = sum(counts.values()), len(counts)
            share = total / (total + kinds)
            found = {s: p * (1.0 - share) for s, p in found.items()}
            for s, count in counts.items():
                found[s] = found.get(s, 0.0) + share * count / total
    # Few ask the same again: what that would have been is for the others.
    repeated = min(1.0, (memory.again + 0.5) / (memory.asked + 1.0))
    had = set(history)
    before = sum(found.values())
    found = {s: p * repeated if s in had and s != MEASURE else p for s, p in found.items()}
    after = sum(found.values())
    return {s: p * before / after for s, p in found.items()} if after > 0.0 else {}


def ahead(
    memory: Foresight,
    place: Setting,
    asked: Sequence[str],
    k: int,
    depth: int,
    without: frozenset[str] = frozenset(),
) -> tuple[Branch, ...]:
    """The k most likely next questions that take time, and the instant ones among these, each with what may
    follow it, `depth` deep. `without`: what cannot be next.

    Behind a verdict there is nothing, and behind a window nothing that was asked before it is true.
    """
    if depth < 1 or k < 1:
        return ()
    found = likely(memory, place, asked)
    excluded = sum(p for s, p in found.items() if s in without)
    branches: list[Branch] = []
    for s in sorted(found, key=lambda s: (-found[s], s)):
        if sum(takes_time(memory, branch.query.name) for branch in branches) == k:
            break
        if s in without or (what := query(place, s)) is None:
            continue
        p = found[s] / max(1.0 - excluded, found[s])
        branches.append(Branch(what, p, ahead(memory, place, (*asked, s), k, depth - 1)))
    return tuple(branches)


def worth(memory: Foresight, branches: Sequence[Branch], price: float) -> tuple[Query, ...]:
    """What to run ahead, surest first: while `gain * added probability >= cost`, in seconds of waiting.

    A probe that is asked for n thoughts from now saves what it takes, but no more than these thoughts last.
    `price`: what a second of probing is worth, in seconds of waiting.
    """
    chances: dict[Query, dict[int, float]] = {}
    _collect(branches, 1.0, 1, chances)
    chosen = []
    for asked, steps in chances.items():
        takes = memory.seconds.get(asked.name, Mean()).seconds
        gain = sum(p * min(takes, n * memory.thinking.seconds) for n, p in steps.items())
        if takes >= INSTANT_S and gain >= price * takes:
            chosen.append((sum(steps.values()), asked))
    return tuple(asked for _, asked in sorted(chosen, key=lambda pair: -pair[0]))


def _collect(branches: Sequence[Branch], p: float, step: int, into: dict[Query, dict[int, float]]) -> None:
    for branch in branches:
        steps = into.setdefault(branch.query, {})
        steps[step] = steps.get(step, 0.0) + p * branch.p
        _collect(branch.then, p * branch.p, step + 1, into)
