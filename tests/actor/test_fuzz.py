"""A hundred thousand replies, random and mutated, on their whole way: reply -> weigh -> engine.

Whatever a model says, nothing is written that is not allowed, and nothing is raised. The oracle is a table
beside the code under test: what each knob may hold. The seeds are fixed and in the test's name.
"""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actor.cases import CASE
from tests.actor.reviews import Session, terms_of
from tests.actor.test_review import HELPS
from tests.engine.world import World, knob, rule
from tuned_spec import engine
from tuned_spec.actor import record, reply, review
from tuned_spec.actor.flow import Reply
from tuned_spec.actor.reply import Ask, Terms, Unusable, read, schema
from tuned_spec.actor.review import Settings
from tuned_spec.actor.trial import Bench, Examined
from tuned_spec.actor.weigh import Keep, Shown, Tried, wants_measure, weigh
from tuned_spec.engine import events as ev
from tuned_spec.model import (
    UNLIMITED,
    Action,
    Case,
    KnobType,
    Limit,
    Mode,
    Op,
    Policy,
    Value,
    Verdict,
    VerdictKind,
)
from tuned_spec.probes.names import wrong_with
from workloads.endpoint import fill

MANY = 25_000  # of each of four seeds

CATALOGUE = {
    one.id: one
    for one in (
        knob("t.plain"),
        knob("t.pages", low=4096, high=1 << 20, quantum=4096),
        knob("t.power", low=1, high=1024, power_of_two=True),
        knob("t.triple", type=KnobType.INTS, low=10, high=10_000, fields=("min", "default", "max")),
        knob("t.word", type=KnobType.CHOICE, choices=("never", "madvise", "always"), low=None, high=None),
        knob("t.flag", type=KnobType.BOOL, low=None, high=None),
        knob("t.cpus", type=KnobType.CPUS, low=None, high=None),
        knob("t.roof", low=0, high=UNLIMITED, max_word="max"),
    )
}
FOUND: dict[str, Value] = {
    "t.plain": 100,
    "t.pages": 8192,
    "t.power": 64,
    "t.triple": (10, 100, 1000),
    "t.word": "always",
    "t.flag": 0,
    "t.cpus": "0-1",
    "t.roof": 5000,
}
NEW: dict[str, Value] = {
    "t.plain": 200,
    "t.pages": 16384,
    "t.power": 128,
    "t.triple": (10, 200, 2000),
    "t.word": "madvise",
    "t.flag": 1,
    "t.cpus": "0-3",
    "t.roof": 10_000,
}
LIMITS = (
    Limit("t.plain", low=50, high=800, bound_ratio=4.0),
    Limit("t.triple", high=5000, bound_ratio=5.0),  # which the actor is not told: the engine refuses
    Limit("t.word", choices=("madvise", "always")),
)


def is_int(value: Value, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


MAY_HOLD: dict[str, Callable[[Value], bool]] = {
    "t.plain": lambda v: is_int(v, 50, 400),
    "t.pages": lambda v: is_int(v, 4096, 1 << 20),
    "t.power": lambda v: is_int(v, 1, 1024),
    "t.triple": lambda v: (
        isinstance(v, tuple)
        and len(v) == 3
        and 10 <= v[0] <= v[1] <= v[2] <= 5000
        and (v[0] <= 50, 20 <= v[1] <= 500, v[2] >= 200) == (True, True, True)
    ),
    "t.word": lambda v: v in ("madvise", "always"),
    "t.flag": lambda v: is_int(v, 0, 1),
    "t.cpus": lambda v: v in ("0-1", "0-3"),
    "t.roof": lambda v: is_int(v, 0, UNLIMITED),
}


class Judged(World):
    """A world with a trial open on all of those knobs, put back into that state before each reply."""

    def __init__(self, *knobs: str) -> None:
        doing = tuple(Action(name, Op.SET, NEW[name]) for name in knobs)
        policy = Policy(names=("test",), rules=(rule("mix", *doing, guard=()),), limits=LIMITS)
        super().__init__(Mode.LOSSY, policy)
        self.kernel = dict(FOUND)
        self.state = msgspec.structs.replace(self.state, setup=engine.Setup.of(policy, CATALOGUE))
        self.feed(ev.ActorChanged(self.t, True, "started"))
        self.feed(ev.Observed(self.t, {"app.p95": 50.0}, host=False))
        self.case = next(m for m in self.told if isinstance(m, Case))
        self.begun = self.state, dict(self.kernel), dict(self.rows), dict(self.ours)

    def hear(self, verdict: Verdict) -> None:
        state, kernel, rows, ours = self.begun
        self.state, self.kernel, self.rows, self.ours = state, dict(kernel), dict(rows), dict(ours)
        self.written, self.notes = [], []
        self.feed(ev.ActorSaid(self.t, verdict))

    def check(self) -> None:
        for name, value in [*self.written, *self.kernel.items()]:
            assert MAY_HOLD[name](value), (name, value)


# ------------------------------------------------------------------------------ the mutator

EDGES = (0, 1, -1, 49, 50, 51, 399, 400, 401, 800, 801, 4095, 4096, 4097, 5000, 5001, 2**31, 2**63 - 1, 2**63)
WORDS = ("always", "never", "madvise", "max", "0-3", "0-63", "", "rm -rf /", "../x", "true", "\x00", "\u202e")
TOKENS = (
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "\\",
        "null",
        "true",
        "NaN",
        "Infinity",
        "1e999",
        "-0",
        "0x10",
        "1_0",
    ),
    *("\\ud800", "\\u0000", "```json\n", "\n```", "// no\n", '"verdict":"confirm"', '"value":', '"probes":'),
    *("[[[[[[[[", "9" * 40, '{"knobs":', "\ud800", "\u200b", "\x1b[31m"),
)


def reasonable(rng: random.Random, terms: Terms, shape: dict[str, object]) -> object:
    """What a model under the grammar would say, often with the null keys left out and sensible words."""
    said = fill(shape, rng)
    while said["knobs"] is None and rng.random() < 0.8:
        said = fill(shape, rng)
    said["reason"] = said["reason"] or "because"
    if said["confidence"] is None:
        said["confidence"] = rng.random()
    if said["knobs"] is not None and rng.random() < 0.9:
        said["probes"] = None
    if rng.random() < 0.7:
        said["strategy"] = None
    for name, one in (said["knobs"] or {}).items():
        if rng.random() < 0.5 / len(said["knobs"]):
            said["knobs"][name] = {"verdict": "overwrite", "value": odd(rng)}
        elif isinstance(one.get("value"), list):
            one["value"].sort()
        elif name == "t.pages" and "value" in one:
            one["value"] -= one["value"] % 4096
    return {key: value for key, value in said.items() if value is not None or rng.random() < 0.5}


def odd(rng: random.Random) -> object:
    """A value that no schema would have let through, or just about."""
    one: Callable[[], object] = rng.choice(
        (
            lambda: rng.choice(EDGES),
            lambda: rng.choice(WORDS),
            lambda: [rng.choice(EDGES) for _ in range(rng.randrange(5))],
            lambda: sorted(rng.sample(range(10, 5001), 3)),
            lambda: rng.choice((True, None, 1.5, 1e300, {}, [[1]])),
            lambda: 4096 * rng.randrange(300),
            lambda: 1 << rng.randrange(12),
        )
    )
    return one()


def mutated(rng: random.Random, text: str, other: str) -> str:
    for _ in range(rng.choice((0, 0, 0, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice((0, 1, 2, 8, 40)))
        match rng.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:at] + rng.choice(TOKENS) + text[to:]
            case 2:
                text = text[:at] + text[at:to] * 2 + text[to:]
            case 3:
                text = text[:at] + rng.choice(string.printable) + text[to:]
            case 4:
                cut = rng.randrange(len(other) + 1)
                text = text[:at] + other[cut:]
            case _:
                text = text[:at] + str(rng.choice(EDGES)) + text[to:]
    return text


def any_trial(rng: random.Random, case: Case) -> Examined:
    kind = rng.choice(list(VerdictKind))
    writes = case.after if kind is VerdictKind.OVERWRITE else ()
    harm = "worse" if kind is VerdictKind.REJECT and rng.random() < 0.5 else ""
    bench = Bench(case, rng, 1.0, 1.0) if rng.random() < 0.9 else None
    return Examined(Verdict(case.id, kind, "figures", writes), bench, harm)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_reply_leads_to_a_write_outside_the_envelope_or_a_crash(seed: int) -> None:
    rng = random.Random(seed)
    worlds = [Judged(*FOUND), Judged("t.plain"), Judged("t.triple", "t.word")]
    counts: Counter[str] = Counter({kind.value: 0 for kind in VerdictKind})
    other = "{}"
    for world in worlds:
        terms = terms_of(world.case)
        shape = schema(terms)
        for _ in range(MANY // len(worlds) + 1):
            text = json.dumps(reasonable(rng, terms, shape)) if rng.random() < 0.97 else noise(rng)
            text, other = mutated(rng, text, other), text
            said = read(text, terms)
            counts[type(said).__name__] += 1
            match said:
                case Unusable(why):
                    assert why
                case Ask(questions):
                    assert not any(wrong_with(one.name, one.args) for one in questions)
                case Verdict():
                    final = decide(rng, world.case, said)
                    msgspec.json.encode(final)
                    counts[final.kind.value] += 1
                    world.hear(final)
                    world.check()
                    counts["writes"] += len(world.written)
                    counts["ignored"] += "ignored" in world.kinds()
    print(f"seed {seed}: {dict(counts)}")
    assert sum(counts[name] for name in ("Verdict", "Ask", "Unusable")) >= MANY
    assert min(counts[kind.value] for kind in VerdictKind) > 100, "too few of one kind to have shown anything"
    assert counts["Unusable"] > MANY / 10 and counts["writes"] > MANY / 10
    assert counts["ignored"] > 100, "what only the engine can know was never tried"


def noise(rng: random.Random) -> str:
    return "".join(chr(rng.randrange(1, 0x3000)) for _ in range(rng.randrange(200)))


def decide(rng: random.Random, case: Case, word: Verdict) -> Verdict:
    keep, found = rng.choice(list(Keep)), any_trial(rng, case)
    shown = (Tried(word.writes, rng.choice(list(Shown)), "8 pairs"),)
    return weigh(keep, found, word, shown if wants_measure(keep, found, word) else ())


# ---------------------------------------------------------------------- shapes, the whole flow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*FOUND, "vm.swappiness", "", "t.plain@x"])
KNOBS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {"verdict": st.sampled_from([*VerdictKind, "maybe"])},
        optional={"value": st.sampled_from(EDGES) | st.sampled_from(WORDS) | JSON},
    )
    | JSON,
    max_size=9,
)
SPOKEN = st.fixed_dictionaries(
    {},
    optional={
        "knobs": KNOBS | JSON,
        "probes": st.lists(st.sampled_from(["memory", "knob t.plain", "knob ../x", "sh -c id"]) | JSON)
        | JSON,
        "reason": st.text() | JSON,
        "confidence": st.floats() | JSON,
        "strategy": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["narrow", "rest_rule", "prefer", "exec"])},
                optional={"knob": NAMES | JSON, "rule": st.just("mix"), "low": st.integers(), "for_s": JSON},
            )
            | JSON,
            max_size=6,
        )
        | JSON,
    },
).map(json.dumps)


@settings(max_examples=500, deadline=None)
@given(SPOKEN | JSON.map(json.dumps) | st.text())
def test_any_shape_is_a_verdict_probes_or_words(text: str) -> None:
    said = read(text, TERMS)
    if isinstance(said, Verdict):
        assert all(MAY_HOLD[w.knob](w.value) or w.knob == "t.triple" for w in said.writes)
        assert 0 <= said.confidence <= 1 and len(said.strategy) <= reply.MOST_STRATEGY
        assert all(0 < advice.for_s <= reply.LONGEST_ADVICE_S for advice in said.strategy)
    else:
        assert isinstance(said, Ask) or said.why


TERMS = terms_of(Judged(*FOUND).case)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPOKEN | st.text(), min_size=1, max_size=4), st.text(), st.sampled_from(list(Keep)))
def test_the_whole_flow_ends_in_a_verdict_or_silence(texts: list[str], probed: str, keep: Keep) -> None:
    """Whatever the model says and whatever the probes answer; and each exchange is on record, bounded."""
    left = iter(texts)
    flow = review.judge(CASE, random.Random(1), Settings(keep=keep))
    session = Session(flow, HELPS, lambda _: Reply(text=next(left, "no")), probed)
    assert session.verdict is not None or session.silence
    assert len(session.records) == len(session.consults) <= review.MOST_CALLS
    for one in session.records:
        assert len(msgspec.json.encode(one)) <= record.MOST_RECORD
