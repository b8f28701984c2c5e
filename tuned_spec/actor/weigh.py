"""Evidence against opinion: what a trial and a model's word come to together. Pure.

Owns whose word counts for what. `both`: kept only if the trial confirms and the model does, too; either
may take it back. `evidence`: the trial decides, the model's word is on record. `model`: the model
decides, but not against a harm that was shown. A value that only the model thought of is a hypothesis:
it is measured against what it would replace before it may be kept. Must not know how anybody was asked.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from tuned_spec.actor.trial import Examined
from tuned_spec.model import Frozen, Verdict, VerdictKind, Writes

replace = msgspec.structs.replace


class Keep(StrEnum):
    BOTH = "both"
    EVIDENCE = "evidence"
    MODEL = "model"


class Shown(StrEnum):
    """What a comparison of the model's value with the one that it would replace showed."""

    GOOD = "good"  # no worse, guards held
    WORSE = "worse"
    UNCLEAR = "unclear"


class Tried(Frozen, frozen=True):
    """The model's value, measured."""

    writes: Writes
    shown: Shown
    figures: str


def wants_word(keep: Keep, found: Examined) -> bool:
    """Could the model's word change anything, or is it to be on record beside a change that is kept?"""
    if keep is Keep.MODEL:
        return not found.harm
    return found.verdict.kind is not VerdictKind.REJECT


def alone(keep: Keep, found: Examined) -> Verdict:
    """The trial's verdict where nobody else was asked."""
    if keep is Keep.MODEL and found.harm:
        return replace(found.verdict, kind=VerdictKind.REJECT, writes=(), reason=_harm(found))
    return found.verdict


def unheard(keep: Keep, found: Examined, why: str) -> Verdict | None:
    """What stands when the model was asked and said nothing that can be used; None: nothing does."""
    if keep is not Keep.EVIDENCE:
        return None
    return replace(found.verdict, opinions={"trial": _said(found.verdict), "model": f"silent: {why}"[:500]})


def wants_measure(keep: Keep, found: Examined, word: Verdict) -> bool:
    """Is this a value that has to be measured before anything can be said?"""
    if word.kind is not VerdictKind.OVERWRITE or keep is Keep.EVIDENCE:
        return False
    if keep is Keep.BOTH:
        return found.verdict.kind is not VerdictKind.REJECT
    return found.bench is not None


def weigh(keep: Keep, found: Examined, word: Verdict, tried: tuple[Tried, ...] = ()) -> Verdict:
    """The one verdict. `tried`: what was measured of the model's own values, the latest last."""
    trial = found.verdict
    mine = next((one for one in reversed(tried) if one.writes == word.writes), None)
    opinions = {"trial": _said(trial), "model": _said(word)}
    if tried:
        opinions["measured"] = "; ".join(f"{_values(one.writes)}: {one.figures}" for one in tried)[:600]
    verdict = replace(trial, opinions=opinions, strategy=word.strategy)

    def decided(kind: VerdictKind, by: str, reason: str, writes: Writes = ()) -> Verdict:
        confidence = word.confidence if by == "model" else trial.confidence
        return replace(verdict, kind=kind, by=by, reason=reason, writes=writes, confidence=confidence)

    if keep is Keep.EVIDENCE:
        # Nor is its advice taken: this is how an owner watches a model before trusting it.
        return replace(decided(trial.kind, "trial", trial.reason, trial.writes), strategy=())
    if found.harm:
        return decided(VerdictKind.REJECT, "trial", _harm(found))
    if keep is Keep.BOTH and trial.kind is VerdictKind.REJECT:
        against = "" if word.kind is VerdictKind.REJECT else "; the model's word does not outrank that"
        return decided(VerdictKind.REJECT, "trial", trial.reason + against)
    match word.kind:
        case VerdictKind.REJECT:
            return decided(
                VerdictKind.REJECT, "model", f"the model takes it back: {word.reason}{_beside(trial)}"
            )
        case VerdictKind.CONFIRM if trial.kind is VerdictKind.REJECT:
            claim = "before and after only" if trial.claim == "before_after" else "not shown by the trial"
            reason = f"on the model's word, {claim}: {word.reason} ({trial.reason})"
            return decided(VerdictKind.CONFIRM, "model", reason)
        case VerdictKind.CONFIRM:
            reason = f"{trial.reason}; the model agrees: {word.reason}"
            return decided(trial.kind, "trial and model", reason, trial.writes)
        case VerdictKind.OVERWRITE:
            pass
    value = _values(word.writes)
    if mine is not None and mine.shown is Shown.GOOD:
        reason = f"the model's {value} is as good or better: {mine.figures}; {word.reason}"
        # As good as what the trial did not show to help: that is still the model's word.
        by = "model" if trial.kind is VerdictKind.REJECT else "trial and model"
        return decided(VerdictKind.OVERWRITE, by, reason, word.writes)
    if keep is Keep.MODEL and (mine is None or mine.shown is Shown.UNCLEAR):
        what = f"({mine.figures})" if mine else "(it could not be measured)"
        reason = f"on the model's word, {value} {what}: {word.reason}"
        return decided(VerdictKind.OVERWRITE, "model", reason, word.writes)
    what = mine.figures if mine else "it could not be measured"
    reason = f"the model wants {value} instead, which was not shown to be as good: {what}"
    return decided(VerdictKind.REJECT, "trial and model", reason)


def _harm(found: Examined) -> str:
    return f"shown to be worse, against which no opinion counts: {found.harm}"


def _beside(trial: Verdict) -> str:
    return "" if trial.kind is VerdictKind.REJECT else f" (the trial would keep it: {trial.reason})"


def _said(verdict: Verdict) -> str:
    values = f" {_values(verdict.writes)}" if verdict.writes else ""
    return f"{verdict.kind.value}{values} ({verdict.confidence:.2f}): {verdict.reason}"[:600]


def _values(writes: Writes) -> str:
    return ", ".join(f"{write.knob}={write.value}" for write in writes)
