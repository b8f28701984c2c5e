"""Priors: what the actor confirmed under which workload, and the jump back to it when that workload returns.

Owns what is remembered, when a workload counts as known, and the guess that comes of it. Must not know files
or clocks. A prior is a guess like any other: it is a `Rule` made for the occasion, which the envelope may
refuse and the actor judges; only `step` does not bind it, because the values were tried before. Confirmed
values are not replayed after a reboot: they are remembered here, and their workload has to come back first.

Signatures given to `learn` are those from *before* the change: that is what the host shows when it is untuned
again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from tuned_spec.model import (
    Action,
    CouplingKind,
    Expect,
    Frozen,
    Guard,
    Knob,
    Limit,
    Op,
    Past,
    Proposal,
    Refusal,
    Risk,
    Rule,
    Value,
    Write,
    Writes,
)
from tuned_spec.speculate import rules
from tuned_spec.speculate.signature import KNOWN, Signature, distance, mean

RULE = "prior."  # how the ids of these guesses begin
WORKLOADS = 64  # at most so many are remembered
SETTINGS = 16  # of one workload
RECENT = 64  # judged changes, of whatever workload and fate
TOLD = 5  # of them, of the same knobs, in one case
VISITS = 32  # a centroid moves as if it had seen no more observations than this
LATEST = 3  # observations that are averaged to say what the workload is now
CLEARLY = 1.5  # the next workload but one must be so many times as far as the nearest, or it is a toss-up
HALF_LIFE_S = 30 * 86_400.0  # evidence counts half after a month
LEAST_TRUST = 0.55  # a setting less likely than this to be confirmed again is not brought back
DROPPED = 0.2  # one less likely than this is forgotten
COOLDOWN_S = 60.0


class Fate(StrEnum):
    """What became of a guess."""

    CONFIRMED = "confirmed"
    REJECTED = "rejected"  # by the actor
    REVERTED = "reverted"  # kept, and then taken back: by an owner, a guard, or as quarantined


class Setting(Frozen, frozen=True):
    """One value that helped under one workload. `gain` is relative (0.5: half as slow, or 50% more)."""

    write: Write
    rule: str
    expect: Expect
    guard: tuple[Guard, ...] = ()
    gain: float = 0.0
    confirmed: float = 0.0  # times, fading with age as of `wall`
    rejected: float = 0.0
    wall: float = 0.0  # seconds since the epoch: when it was last judged
    trial: str = ""  # which trial that was, so that one verdict counts once
    by: str = ""  # who judged it then: "trial", "model", "person"

    def trust(self, wall: float) -> float:
        """How likely it is to be confirmed again (a uniform prior, evidence that fades)."""
        now = _faded(self, wall)
        return (now.confirmed + 1) / (now.confirmed + now.rejected + 2)


class Remembered(Frozen, frozen=True):
    """One workload: its centroid (n observations, capped) and what was confirmed under it."""

    id: str
    centroid: Signature
    settings: tuple[Setting, ...] = ()
    wall: float = 0.0  # when it was last learned from
    origin: str = ""  # the host and kernel it was learned on, in words


class Judged(Frozen, frozen=True):
    """One change that was judged, kept or not: what an actor is told of the past."""

    trial: str
    rule: str
    writes: Writes
    fate: Fate
    wall: float
    by: str = ""
    gain: float | None = None
    signature: Signature | None = None


class Priors(Frozen, frozen=True):
    """`recent`: the latest that were judged, oldest first."""

    workloads: tuple[Remembered, ...] = ()
    recent: tuple[Judged, ...] = ()


class Lesson(Frozen, frozen=True):
    """What one trial taught: which values, judged how, under which signature. `trial` must be unique.

    An overwrite teaches that the actor's values are confirmed. A trial without a verdict (lease, foreign,
    stop) teaches nothing.
    """

    trial: str
    fate: Fate
    signature: Signature
    writes: Writes
    rule: str
    expect: Expect
    guard: tuple[Guard, ...] = ()
    gain: float = 0.0
    by: str = ""


class Recall(Frozen, frozen=True):
    """A known workload and what to set for it, best first."""

    workload: str
    settings: tuple[Setting, ...]
    distance: float
    trust: float  # of the least trusted among them
    wall: float
    origin: str

    @property
    def rule_id(self) -> str:
        return f"{RULE}{self.workload}"


class Unknown(Frozen, frozen=True):
    """Why nothing is recalled; the nearest workload and its distance, if there is one."""

    why: str
    nearest: str = ""
    distance: float = math.inf


# ---------------------------------------------------------------------------------- learning


def learn(priors: Priors, lesson: Lesson, wall: float, origin: str = "") -> Priors:
    """Takes one lesson in. The same lesson again changes nothing.

    A rejection is remembered only against a value that is remembered: what never helped needs no memory here
    (`selection` counts it).
    """
    found = nearest(priors, lesson.signature)
    known = found is not None and found[1] <= KNOWN
    if known and found is not None:
        workload = found[0]
    elif lesson.fate is Fate.CONFIRMED:
        workload = Remembered(_name(lesson.signature), lesson.signature, origin=origin)
    else:
        return priors
    if any(setting.trial == lesson.trial for setting in workload.settings):
        return priors
    settings = {setting.write.knob: setting for setting in workload.settings}
    for write in lesson.writes:
        if setting := _judged(settings.get(write.knob), write, lesson, wall):
            settings[write.knob] = setting
        else:
            settings.pop(write.knob, None)
    kept = sorted(settings.values(), key=lambda s: _worth(s, wall), reverse=True)[:SETTINGS]
    centroid = workload.centroid
    if known:
        settled = msgspec.structs.replace(centroid, n=min(centroid.n, VISITS))
        centroid = mean([settled, lesson.signature])
    now = Remembered(workload.id, centroid, tuple(kept), wall, origin or workload.origin)
    others = [w for w in priors.workloads if w.id != now.id]
    return msgspec.structs.replace(priors, workloads=_bounded([*others, now], wall))


def _judged(before: Setting | None, write: Write, lesson: Lesson, wall: float) -> Setting | None:
    """The setting of one knob after the lesson; None if there is none to keep."""
    same = before is not None and before.write == write
    if lesson.fate is Fate.CONFIRMED:
        if before is None or not same:
            setting = Setting(write, lesson.rule, lesson.expect, lesson.guard, lesson.gain)
        else:
            setting = _faded(before, wall)
        times = setting.confirmed
        # A jump of several knobs shows one gain for all of them: it says nothing new of each.
        jump = lesson.rule.startswith(RULE) and same
        gain = setting.gain if jump else (setting.gain * times + lesson.gain) / (times + 1)
        return msgspec.structs.replace(
            setting, gain=gain, confirmed=times + 1, wall=wall, trial=lesson.trial, by=lesson.by
        )
    if before is None or not same:
        return before
    now = _faded(before, wall)
    now = msgspec.structs.replace(now, rejected=now.rejected + 1, trial=lesson.trial, by=lesson.by)
    return now if now.trust(wall) >= DROPPED else None


def _faded(setting: Setting, wall: float) -> Setting:
    """Its evidence as of `wall`; a clock that went back does not make it younger."""
    share = 0.5 ** (max(0.0, wall - setting.wall) / HALF_LIFE_S)
    return msgspec.structs.replace(
        setting,
        confirmed=setting.confirmed * share,
        rejected=setting.rejected * share,
        wall=max(wall, setting.wall),
    )


def _worth(setting: Setting, wall: float) -> float:
    return setting.trust(wall) * max(setting.gain, 0.0)


def _bounded(workloads: Sequence[Remembered], wall: float) -> tuple[Remembered, ...]:
    """Without those that have nothing left to give, and the least worth keeping; the newest is kept."""

    def keep(workload: Remembered) -> tuple[float, float]:
        return max(_worth(s, wall) for s in workload.settings), workload.wall

    *old, new = workloads
    old = [w for w in old if w.settings]
    best = sorted(old, key=keep, reverse=True)[: WORKLOADS - 1]
    out = [w for w in old if w in best]
    return (*out, new) if new.settings else tuple(out)


def _name(signature: Signature) -> str:
    return hashlib.sha256(msgspec.json.encode(signature, order="sorted")).hexdigest()[:8]


def judged(priors: Priors, one: Judged) -> Priors:
    """Keeps what became of one change."""
    others = [old for old in priors.recent if old.trial != one.trial]
    return msgspec.structs.replace(priors, recent=tuple([*others, one][-RECENT:]))


# --------------------------------------------------------------------------------- recalling


def past(
    priors: Priors, knobs: Collection[str], signature: Signature | None, wall: float, writes: Writes = ()
) -> tuple[Past, ...]:
    """What became of changes of these knobs, the nearest workload first; of this very change above all."""
    found: list[tuple[bool, bool, float, Past]] = []
    for one in reversed(priors.recent):
        if any(write.knob in knobs for write in one.writes):
            off = distance(signature, one.signature) if signature and one.signature else math.inf
            told = Past(
                trial=one.trial,
                rule=one.rule,
                writes=one.writes,
                fate=one.fate.value,
                age_s=max(0.0, wall - one.wall),
                gain=one.gain,
                distance=off if math.isfinite(off) else None,
                by=one.by,
            )
            found.append((off > KNOWN, one.writes != writes, off, told))
    chosen = sorted(found, key=lambda entry: entry[:3])[:TOLD]
    return tuple(told for *_, told in sorted(chosen, key=lambda entry: entry[2]))


def nearest(priors: Priors, signature: Signature) -> tuple[Remembered, float] | None:
    """The nearest workload and its distance."""
    ranked = _ranked(priors, signature)
    return ranked[0] if ranked else None


def _ranked(priors: Priors, signature: Signature) -> list[tuple[Remembered, float]]:
    found = [(workload, distance(signature, workload.centroid)) for workload in priors.workloads]
    return sorted(found, key=lambda pair: pair[1])


def recall(
    priors: Priors,
    recent: Sequence[Signature],
    wall: float,
    quarantined: Collection[tuple[str, Value]] = (),
) -> Recall | Unknown:
    """The known workload that this is, with the settings that are still trusted, or why not.

    `recent`: the workload's latest observations, oldest first (`Watched.recent`). The mean of the LATEST must
    be near, and the last by itself, too: while a workload changes, some mean passes by anything.
    `quarantined`: (knob, value) pairs that must never come back.
    """
    if not recent:
        return Unknown("nothing to recognise: the host idles, or too little is known of it")
    if not priors.workloads:
        return Unknown("nothing is remembered yet")
    ranked = _ranked(priors, mean(recent[-LATEST:]))
    workload, off = ranked[0]
    off = max(off, distance(recent[-1], workload.centroid))
    if off > KNOWN:
        return Unknown(f"nearest is {workload.id} at {off:.2f}, known is up to {KNOWN:g}", workload.id, off)
    if len(ranked) > 1 and ranked[1][1] < CLEARLY * off and not _alike(workload, ranked[1][0]):
        second, further = ranked[1]
        why = f"between {workload.id} at {off:.2f} and {second.id} at {further:.2f}"
        return Unknown(why, workload.id, off)
    trusted = [
        setting
        for setting in workload.settings
        if setting.trust(wall) >= LEAST_TRUST and (setting.write.knob, setting.write.value) not in quarantined
    ]
    if not trusted:
        return Unknown(f"nothing about {workload.id} is trusted any more", workload.id, off)
    best = sorted(trusted, key=lambda s: _worth(s, wall), reverse=True)
    trust = min(setting.trust(wall) for setting in best)
    return Recall(workload.id, tuple(best), off, trust, workload.wall, workload.origin)


def _alike(a: Remembered, b: Remembered) -> bool:
    """Would both set the same? Then it does not matter which it is."""
    return {s.write for s in a.settings} == {s.write for s in b.settings}


# ------------------------------------------------------------------------------ the guess


def as_rule(recall: Recall, catalogue: Mapping[str, Knob], without: Collection[str] = ()) -> Rule | Refusal:
    """The jump as a rule without conditions: judged by its best setting's metric, guarded by the others'.

    Left out are knobs in `without` (foreign, absent here), those that this catalogue has no more, that are
    for a person to change, or that a better setting would set back.
    """
    taken: list[Setting] = []
    for setting in recall.settings:
        knob = catalogue.get(setting.write.knob)
        if knob is None or knob.id in without or knob.risk is Risk.HIGH:
            continue
        if not any(_undo_each_other(knob, catalogue[other.write.knob]) for other in taken):
            taken.append(setting)
    if not taken:
        return Refusal("no_change", "", f"nothing remembered of {recall.workload} can be set here and now")
    best = taken[0]
    guards = {guard.metric: guard for setting in taken for guard in setting.guard}
    for setting in taken:
        guards.setdefault(setting.expect.metric, Guard(setting.expect.metric, setting.expect.way))
    guards.pop(best.expect.metric, None)
    day = datetime.fromtimestamp(best.wall, UTC).date()
    elsewhere = f", learned on {recall.origin}" if recall.origin else ""
    return Rule(
        id=recall.rule_id,
        when=(),
        do=tuple(
            Action(s.write.knob, Op.SET, s.write.value) for s in sorted(taken, key=_resets_first(catalogue))
        ),
        expect=best.expect,
        guard=tuple(guards.values()),
        reason=(
            f"workload {recall.workload} is back (distance {recall.distance:.2f}, known up to {KNOWN:g}): "
            f"{best.rule} brought {best.gain:+.0%} in {best.expect.metric}, "
            f"weight {best.confirmed:.1f}, last {day}{elsewhere}"
        ),
        source="what the actor confirmed on this host",
        cooldown_s=COOLDOWN_S,
        confidence=recall.trust,
    )


def propose(
    rule: Rule,
    recall: Recall,
    catalogue: Mapping[str, Knob],
    limits: Mapping[str, Limit],
    live: Callable[[str], Value],
    original: Callable[[str], Value],
    seen: Mapping[str, float],
) -> Proposal | Refusal:
    """`rules.propose` without the policy's `step`, and with the distance among what was seen."""
    free = {
        name: msgspec.structs.replace(limit, step_ratio=None, step_abs=None) for name, limit in limits.items()
    }
    guess = rules.propose(rule, catalogue, free, live, original, seen)
    if isinstance(guess, Refusal):
        return guess
    facts = {"prior.distance": round(recall.distance, 3), "prior.trust": round(recall.trust, 3)}
    return msgspec.structs.replace(guess, seen={**guess.seen, **facts})


def _undo_each_other(a: Knob, b: Knob) -> bool:
    return any(
        coupling.kind is CouplingKind.ZEROES and coupling.partner == other.id
        for knob, other in ((a, b), (b, a))
        for coupling in knob.coupled
    )


def _resets_first(catalogue: Mapping[str, Knob]) -> Callable[[Setting], bool]:
    """Sort key: a knob whose write resets others goes before them."""
    return lambda setting: (
        not any(coupling.kind is CouplingKind.RESETS for coupling in catalogue[setting.write.knob].coupled)
    )
