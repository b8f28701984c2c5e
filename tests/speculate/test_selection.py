"""Which guesses are launched: odds from the record, the sum that decides, and what it earns in simulation."""

from __future__ import annotations

import random
import statistics

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.speculate.workloads import FIRST, OTHER, THIRD
from tuned_spec.model import (
    Action,
    Coupling,
    CouplingKind,
    Expect,
    Knob,
    KnobType,
    Op,
    Risk,
    Rule,
    Way,
)
from tuned_spec.speculate.selection import (
    HALF_LIFE_S,
    HERE,
    RULES,
    Candidate,
    Choice,
    Record,
    ahead,
    candidate,
    choose,
    hit_rate,
    judged,
    odds,
)
from tuned_spec.speculate.signature import Signature

DAY_S = 86_400.0


def guess(rule: str, *touches: str, **fields: object) -> Candidate:
    plain: dict[str, object] = {
        "metric": f"app.{rule}",
        "confidence": 0.5,
        "min_effect": 0.05,
        "risk": Risk.LOW,
        "trial_s": 40.0,
        "toggles": 32,
    }
    return Candidate(rule=rule, touches=frozenset(touches or (rule,)), **(plain | fields))  # type: ignore[arg-type]


def told(
    rule: str,
    *verdicts: bool,
    under: Signature | None = FIRST,
    record: Record | None = None,
    wall: float = 0.0,
) -> Record:
    record = record or Record()
    for yes in verdicts:
        record = judged(record, rule, yes, 0.3 if yes else -0.1, under, wall)
    return record


def picked(*guesses: Candidate, record: Record | None = None, wall: float = 0.0, room: int = 9) -> Choice:
    return choose(guesses, record or Record(), FIRST, wall, room, horizon_s=600.0)


# ------------------------------------------------------------------------------------- odds


def test_without_a_record_the_declared_confidence_counts() -> None:
    assert odds(guess("r", confidence=0.7), Record(), FIRST, 0.0).p == pytest.approx(0.7)
    assert odds(guess("r", min_effect=0.2), Record(), FIRST, 0.0).gain == pytest.approx(0.2)


def test_the_record_moves_the_odds_most_where_it_was_made() -> None:
    record = told("r", False, False, False, False, under=FIRST)
    here, there = (odds(guess("r"), record, under, 0.0).p for under in (FIRST, OTHER))
    assert here < there < 0.5
    record = told("r", True, True, True, True, under=OTHER, record=record)
    assert odds(guess("r"), record, OTHER, 0.0).p > 0.6
    assert odds(guess("r"), record, FIRST, 0.0).p < 0.4


def test_evidence_fades() -> None:
    record = told("r", False, False, False)
    p = [odds(guess("r"), record, FIRST, wall).p for wall in (0.0, HALF_LIFE_S, 4 * HALF_LIFE_S, -DAY_S)]
    assert p[0] < p[1] < p[2] < 0.5
    assert p[3] == p[0]  # a clock that went back


def test_gain_comes_from_what_was_measured() -> None:
    assert odds(guess("r"), told("r", True, True, True), FIRST, 0.0).gain > 0.2


def test_the_record_is_bounded() -> None:
    record = Record()
    for number in range(RULES + 10):
        record = told(f"r{number}", *[True] * 2, record=record)
    assert len(record.rules) == RULES
    assert "r0" not in record.rules and f"r{RULES + 9}" in record.rules
    tally = told("r", *[True] * (HERE + 5)).rules["r"]
    assert len(tally.outcomes) == HERE and tally.proposed == HERE + 5


def test_hit_rate() -> None:
    record = told("b", False, record=told("a", True, True, False))
    assert hit_rate(record).share == pytest.approx(0.5)
    assert (hit_rate(record, "a").confirmed, hit_rate(record, "a").proposed) == (2, 3)
    assert hit_rate(record, "never").share is None


# ------------------------------------------------------------------------------------ choice


def test_a_rule_without_a_record_is_tried_and_a_rejected_one_comes_back_later() -> None:
    assert picked(guess("r")).launch == ("r",)
    record = told("r", *[False] * 6)
    choice = picked(guess("r"), record=record)
    assert choice.launch == () and "not worth it" in choice.skip["r"]
    assert picked(guess("r"), record=record, wall=60 * DAY_S).launch == ("r",)


def test_best_first_and_no_more_than_there_is_room_for() -> None:
    guesses = [guess("small"), guess("large", min_effect=0.5), guess("middle", min_effect=0.2)]
    assert picked(*guesses).launch == ("large", "middle", "small")
    choice = picked(*guesses, room=2)
    assert choice.launch == ("large", "middle")
    assert choice.skip == {"small": "no room left"}


def test_knobs_of_two_launched_guesses_are_disjoint() -> None:
    choice = picked(guess("a", "x", "y", min_effect=0.5), guess("b", "y", "z"), guess("c", "z"))
    assert choice.launch == ("a", "c") and "y is in another trial" in choice.skip["b"]
    busy = choose([guess("a", "x")], Record(), FIRST, 0.0, 9, busy=frozenset({"x"}))
    assert busy.launch == ()


def test_a_second_guess_for_the_same_metric_adds_only_what_the_first_leaves() -> None:
    sure = told("a", *[True] * 12)
    pair = (guess("a", metric="m"), guess("b", metric="m"))
    assert picked(*pair, record=sure).launch == ("a",)
    assert picked(pair[0], guess("b", metric="other"), record=sure).launch == ("a", "b")


def test_high_risk_is_for_a_person_however_sure() -> None:
    assert picked(guess("r", risk=Risk.HIGH, confidence=1.0, min_effect=0.9)).launch == ()


def test_a_workload_that_is_soon_over_is_not_worth_a_trial() -> None:
    assert choose([guess("r")], Record(), FIRST, 0.0, 9, horizon_s=60).launch == ()


def test_ahead_counts_the_open_trial_as_confirmed() -> None:
    opened, same, other = guess("a", metric="m"), guess("a", metric="m"), guess("b", "b")
    assert ahead(opened, [same, other], Record(), FIRST, 0.0, 1).launch == ("a",)
    assert picked(same, other, room=1).worth["a"] < ahead(opened, [same], Record(), FIRST, 0.0, 1).worth["a"]


def test_a_candidate_knows_what_its_rule_touches_and_takes() -> None:
    def knob(name: str, risk: Risk, *coupled: str, **fields: object) -> Knob:
        couplings = tuple(Coupling(partner, CouplingKind.ZEROES) for partner in coupled)
        return Knob(name, "sysctl", name, KnobType.INT, "", "", "", risk=risk, coupled=couplings, **fields)  # type: ignore[arg-type]

    catalogue = {
        "a": knob("a", Risk.LOW, "c", settle_s=1.0, dwell_s=5.0),
        "b": knob("b", Risk.MEDIUM),
        "c": knob("c", Risk.LOW, "a"),
    }
    do = tuple(Action(name, Op.SET, 1) for name in ("a", "b"))
    rule = Rule("r", (), do, Expect("app.m", Way.DOWN, 0.2), "why", "source", confidence=0.6)
    made = candidate(rule, catalogue)
    assert made.touches == {"a", "b", "c"} and made.risk is Risk.MEDIUM
    assert (made.metric, made.min_effect, made.confidence) == ("app.m", 0.2, 0.6)
    assert made.toggles == 32 and made.trial_s == pytest.approx(16 * 2 * 6.05)
    fixed = catalogue | {"a": msgspec.structs.replace(catalogue["a"], alternable=False)}
    assert candidate(rule, fixed).toggles == 1


# ----------------------------------------------------------------------------- properties

names = st.sampled_from("abcdef")
guesses = st.lists(
    st.builds(
        guess,
        names,
        names,
        metric=st.sampled_from("mn"),
        confidence=st.floats(0, 1),
        min_effect=st.floats(0, 1),
        risk=st.sampled_from(Risk),
        trial_s=st.floats(0, 1000),
        toggles=st.integers(0, 64),
    ),
    max_size=8,
    unique_by=lambda g: g.rule,
)
records = st.lists(st.tuples(names, st.booleans()), max_size=20).map(
    lambda all_: msgspec.convert(
        {"rules": msgspec.to_builtins(_replayed(all_).rules)},
        Record,
    )
)


def _replayed(verdicts: list[tuple[str, bool]]) -> Record:
    record = Record()
    for rule, yes in verdicts:
        record = told(rule, yes, record=record)
    return record


@settings(deadline=None)
@given(guesses, records, st.integers(0, 4))
def test_every_guess_is_launched_or_skipped_with_a_reason(
    all_: list[Candidate], record: Record, room: int
) -> None:
    choice = choose(all_, record, FIRST, 0.0, room)
    assert sorted((*choice.launch, *choice.skip)) == sorted(g.rule for g in all_)
    assert all(choice.skip.values()) and len(choice.launch) <= room
    by = {g.rule: g for g in all_}
    touched = [name for rule in choice.launch for name in by[rule].touches]
    assert len(touched) == len(set(touched))
    assert choose(all_[::-1], record, FIRST, 0.0, room) == choice


# ------------------------------------------------------------------------------ simulation

SIGNATURES = (FIRST, OTHER, THIRD)


class World:
    """Twelve rules, each right under some workloads and harmful or useless under others; a noisy judge."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.guesses = [
            guess(f"r{n}", risk=self.dice.choice((Risk.LOW, Risk.MEDIUM)), trial_s=self.dice.uniform(20, 80))
            for n in range(12)
        ]
        # rule, workload -> relative effect: a fifth of them help, most do nothing, some harm
        effects = [0.3, 0.15, 0.0, 0.0, 0.0, 0.0, -0.05, -0.2, -0.4, 0.0]
        self.effect = {(g.rule, w): self.dice.choice(effects) for g in self.guesses for w in range(3)}

    def net(self, rule: Candidate, workload: int, lasts_s: float, kept: bool) -> float:
        """Seconds of work that one trial brings or costs."""
        effect = self.effect[rule.rule, workload]
        during = effect * rule.trial_s / 2 - 5.0 - 0.05 * rule.toggles
        return during + (effect * max(0.0, lasts_s - rule.trial_s) if kept else 0.0)

    def oracle(self, rule: Candidate, workload: int, lasts_s: float) -> float:
        return max(0.0, self.net(rule, workload, lasts_s, True))

    def live(self, strategy: str, visits: int) -> list[float]:
        """What each visit of a workload misses, against launching exactly what pays, before a sure judge."""
        record, wall, regrets = Record(), 0.0, []
        for _ in range(visits):
            workload, lasts_s = self.dice.randrange(3), self.dice.uniform(100, 1100)
            pays = {g.rule: self.oracle(g, workload, lasts_s) for g in self.guesses}
            regret = sum(pays.values())
            launched = set[str]()
            match strategy:
                case "choose":
                    launched = set(choose(self.guesses, record, SIGNATURES[workload], wall, 99, 600.0).launch)
                case "all":
                    launched = set(pays)
                case "clairvoyant":
                    launched = {name for name in pays if pays[name] > 0}
            for guess_ in self.guesses:
                name, effect = guess_.rule, self.effect[guess_.rule, workload]
                luck = self.dice.random()
                if name in launched:
                    kept = luck < (0.9 if effect > 0.05 else 0.03)
                    regret -= self.net(guess_, workload, lasts_s, kept)
                    record = judged(record, name, kept, effect, SIGNATURES[workload], wall)
            regrets.append(regret)
            wall += lasts_s + 1200
        return regrets


def test_it_learns_what_is_worth_a_trial() -> None:
    """Regret a visit, over 6 worlds of 150 visits each: no strategy can be better than the clairvoyant's."""
    strategies = ("choose", "all", "none", "clairvoyant")
    lives = {name: [World(seed).live(name, 150) for seed in range(6)] for name in strategies}
    early, late = (
        {name: statistics.mean(x for life in all_ for x in life[part]) for name, all_ in lives.items()}
        for part in (slice(0, 30), slice(75, 150))
    )
    print(early, late)
    over = {name: late[name] - late["clairvoyant"] for name in strategies}
    assert over["choose"] < 0.25 * min(over["all"], over["none"])
    assert over["choose"] < early["choose"] - early["clairvoyant"]
    assert early["choose"] < min(early["all"], early["none"])


def test_a_bad_rule_is_tried_ever_more_rarely_and_a_good_one_stays() -> None:
    record = Record()
    launched: dict[str, list[int]] = {"bad": [], "good": []}
    pair = [guess("bad"), guess("good", confidence=0.3)]
    for visit in range(200):
        wall = visit * 3600.0
        for name in choose(pair, record, FIRST, wall, 9).launch:
            launched[name].append(visit)
            record = judged(record, name, name == "good", 0.2 if name == "good" else 0.0, FIRST, wall)
    assert launched["good"] == list(range(200))
    assert 1 <= len(launched["bad"]) <= 12
