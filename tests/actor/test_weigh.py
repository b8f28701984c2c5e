"""Who is right when trial and model differ: the table of `keep`, cell by cell."""

from __future__ import annotations

import random

import pytest

from tests.actor.cases import CASE, KNOB
from tuned_spec.actor.trial import Bench, Examined
from tuned_spec.actor.weigh import Keep, Shown, Tried, alone, unheard, wants_measure, wants_word, weigh
from tuned_spec.model import Prefer, Verdict, VerdictKind, Write, Writes

C, X, R = VerdictKind.CONFIRM, VerdictKind.OVERWRITE, VerdictKind.REJECT
BEST = (Write(KNOB.id, 1000),)  # what the trial found further on
WISH = (Write(KNOB.id, 500),)  # what the model would rather have


def trial(kind: VerdictKind, harm: str = "") -> Examined:
    verdict = Verdict(
        CASE.id,
        kind,
        "12 pairs",
        BEST if kind is X else (),
        effect=0.3,
        e_value=40.0,
        pairs=12,
        claim="alternated",
    )
    return Examined(verdict, Bench(CASE, random.Random(1), 1.0, 10.0), harm)


def word(kind: VerdictKind) -> Verdict:
    advice = (Prefer(KNOB.id, 60.0),)
    return Verdict(
        CASE.id, kind, "I think so", WISH if kind is X else (), confidence=0.9, by="model", strategy=advice
    )


def tried(shown: Shown) -> tuple[Tried, ...]:
    return (Tried(WISH, shown, "8 pairs"),)


@pytest.mark.parametrize(
    ("keep", "found", "said", "shown", "kind", "writes", "by"),
    [
        (Keep.BOTH, C, C, None, C, (), "trial and model"),
        (Keep.BOTH, C, R, None, R, (), "model"),
        (Keep.BOTH, C, X, Shown.GOOD, X, WISH, "trial and model"),
        (Keep.BOTH, C, X, Shown.UNCLEAR, R, (), "trial and model"),
        (Keep.BOTH, C, X, Shown.WORSE, R, (), "trial and model"),
        (Keep.BOTH, C, X, None, R, (), "trial and model"),
        (Keep.BOTH, C, C, Shown.WORSE, C, (), "trial and model"),
        (Keep.BOTH, X, C, None, X, BEST, "trial and model"),
        (Keep.BOTH, X, R, None, R, (), "model"),
        (Keep.BOTH, X, X, Shown.GOOD, X, WISH, "trial and model"),
        (Keep.BOTH, R, C, None, R, (), "trial"),
        (Keep.BOTH, R, R, None, R, (), "trial"),
        (Keep.BOTH, R, X, Shown.GOOD, R, (), "trial"),
        (Keep.EVIDENCE, C, R, None, C, (), "trial"),
        (Keep.EVIDENCE, X, R, None, X, BEST, "trial"),
        (Keep.EVIDENCE, C, X, Shown.GOOD, C, (), "trial"),
        (Keep.EVIDENCE, R, C, None, R, (), "trial"),
        (Keep.MODEL, C, C, None, C, (), "trial and model"),
        (Keep.MODEL, C, R, None, R, (), "model"),
        (Keep.MODEL, R, C, None, C, (), "model"),
        (Keep.MODEL, R, R, None, R, (), "model"),
        (Keep.MODEL, C, X, Shown.GOOD, X, WISH, "trial and model"),
        (Keep.MODEL, R, X, None, X, WISH, "model"),
        (Keep.MODEL, R, X, Shown.GOOD, X, WISH, "model"),  # as good as what was not shown to help
        (Keep.MODEL, R, X, Shown.UNCLEAR, X, WISH, "model"),
        (Keep.MODEL, C, X, Shown.WORSE, R, (), "trial and model"),
    ],
)
def test_the_table(
    keep: Keep,
    found: VerdictKind,
    said: VerdictKind,
    shown: Shown | None,
    kind: VerdictKind,
    writes: Writes,
    by: str,
) -> None:
    verdict = weigh(keep, trial(found), word(said), tried(shown) if shown else ())
    assert (verdict.kind, verdict.writes, verdict.by) == (kind, writes, by)
    assert set(verdict.opinions) == {"trial", "model"} | ({"measured"} if shown else set())
    assert verdict.opinions["model"].startswith(said.value) and verdict.opinions["trial"].startswith(
        found.value
    )
    assert (verdict.effect, verdict.e_value, verdict.pairs, verdict.claim) == (0.3, 40.0, 12, "alternated")
    assert verdict.strategy == (() if keep is Keep.EVIDENCE else word(said).strategy)
    if by == "model":
        assert "I think so" in verdict.reason


@pytest.mark.parametrize("said", [C, X, R])
@pytest.mark.parametrize("keep", [Keep.BOTH, Keep.MODEL])
def test_nothing_outranks_a_harm_that_was_shown(keep: Keep, said: VerdictKind) -> None:
    found = trial(R, "p99 twice as slow in 4 pairs")
    verdict = weigh(keep, found, word(said), tried(Shown.GOOD))
    assert (verdict.kind, verdict.writes, verdict.by) == (R, (), "trial")
    assert "p99 twice as slow" in verdict.reason
    assert not wants_word(keep, found)
    assert alone(keep, found).kind is R


@pytest.mark.parametrize(
    ("keep", "asked"),
    [
        (Keep.BOTH, {C: True, X: True, R: False}),
        (Keep.EVIDENCE, {C: True, X: True, R: False}),
        (Keep.MODEL, {C: True, X: True, R: True}),
    ],
)
def test_who_is_asked(keep: Keep, asked: dict[VerdictKind, bool]) -> None:
    assert {kind: wants_word(keep, trial(kind)) for kind in asked} == asked


def test_silence_counts_for_nothing_but_under_evidence() -> None:
    assert unheard(Keep.BOTH, trial(C), "429") is None
    assert unheard(Keep.MODEL, trial(C), "429") is None
    stands = unheard(Keep.EVIDENCE, trial(X), "429")
    assert stands is not None and (stands.kind, stands.writes) == (X, BEST)
    assert stands.opinions["model"] == "silent: 429"


def test_only_a_value_that_might_be_kept_is_measured() -> None:
    wants = {(keep, kind): wants_measure(keep, trial(kind), word(X)) for keep in Keep for kind in (C, R)}
    assert wants == {
        (Keep.BOTH, C): True,
        (Keep.BOTH, R): False,
        (Keep.EVIDENCE, C): False,
        (Keep.EVIDENCE, R): False,
        (Keep.MODEL, C): True,
        (Keep.MODEL, R): True,
    }
    assert not any(wants_measure(keep, trial(C), word(C)) for keep in Keep)
