"""What a model's review costs: the tokens of one reviewed change, and the calls of a host's day.

    python -m workloads.review_cost [--prices 3,15] [--hours 24] [--restart 2] [--only NAME] [--json]

change  for every rule of every shipped policy, on this host's knobs: the prompt that a model is sent, by two
        vocabularies, with the fullest memory beside it and without
day     three recorded traces, each again and again for so many hours of virtual time, through the engine, the
        trial and the review (`workloads.virtual_day`): cases, calls, tokens, cost, and who answered

The model agrees with whatever it is asked about, in 25 words. What a change does is assumed, and said with
each row: this counts, and shows nothing of how well a model judges. A million tokens cost --prices (read,
written), in any currency. Writes no knob.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from math import inf
from pathlib import Path
from statistics import median

import mistral_common
import msgspec
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.actor.pieces import Pieces
from tuned_spec import paths
from tuned_spec.actor import review
from tuned_spec.actor.config import Prices
from tuned_spec.actor.flow import Consult, Reply
from tuned_spec.actor.weigh import Keep
from tuned_spec.cli.catalogue import Host
from tuned_spec.cli.policy import facts_of
from tuned_spec.cli.record import knobs_now
from tuned_spec.engine.state import Learned
from tuned_spec.knobs import catalogue
from tuned_spec.knobs.facts import host_facts
from tuned_spec.model import Observation, Policy, Rule, Value
from tuned_spec.policy.load import load
from tuned_spec.policy.replay import Paper
from tuned_spec.sense import metrics
from tuned_spec.sense.trace import Trace
from tuned_spec.speculate.climb import as_rule
from tuned_spec.speculate.prior import TOLD, Fate, Priors
from tuned_spec.speculate.prior import Judged as Remembered
from tuned_spec.speculate.templates import instantiate
from workloads.running import HERE
from workloads.virtual_day import WALL, Day, Judged, effects_of, end_to_end

VOCABULARIES = Path(mistral_common.__file__).parent / "data"
TRACES = HERE / "tests/policy/traces"
# trace -> a policy whose rules hold on it
DAYS = {"web-storm": "web", "fsync-beside-reader": "database", "crowd": "virtualisation-host"}
WORDS = (
    "The trial shows the gain in most pairs, guards held, nothing else on this host depends on the old "
    "value, and it can go back at once."
)
GAIN = 0.4  # assumed
LONGEST_S = 3000  # until a rule's case has come to a question


@cache
def tekken() -> Tekkenizer:
    return Tekkenizer.from_file(VOCABULARIES / "tekken_240911.json")


@cache
def pieces() -> Pieces:
    return Pieces(VOCABULARIES / "mistral_instruct_tokenizer_240323.model.v3")


def tokens(text: str) -> tuple[int, int]:
    """By a vocabulary of 130,000 words, as large models of today have one, and of 32,000, as small ones."""
    return len(tekken().encode(text, bos=False, eos=False)), pieces().count(text)


def agreeing(consult: Consult) -> Reply:
    """A yes to each knob of the change, by the schema of its reply."""
    whole = consult.schema["properties"]
    assert isinstance(whole, dict)
    knobs = whole["knobs"]["anyOf"][0]["properties"]
    said = {
        "knobs": {name: {"verdict": "confirm"} for name in knobs},
        "reason": WORDS,
        "confidence": 0.85,
    }
    return Reply(json.dumps(said), model="agrees", seconds=5.0)


def sent(consult: Consult) -> str:
    """All that a model has to read."""
    return "\n".join([consult.system, *(turn.text for turn in consult.said)])


# ---------------------------------------------------------------------------------- change


def policy_of(name: str, paper: Paper, facts: dict[str, float]) -> Policy:
    return load(
        [name],
        shipped=paths.shipped_policies(),
        dropins=None,
        catalogue=paper,
        metrics=metrics.known,
        uid_of=lambda user: 0,
        facts=facts,
        sensed={name: metric.per for name, metric in metrics.METRICS.items()},
    ).policy


class Change(msgspec.Struct):
    policy: str
    rule: str
    knobs: int
    prompt: tuple[int, int]  # instructions and case, by both vocabularies
    fullest: tuple[int, int]  # with as many judged cases beside it as are ever told
    reply: tuple[int, int]
    schema: tuple[int, int]  # of the reply, where the endpoint is sent one


def changes() -> tuple[list[Change], dict[str, str]]:
    """And the rules that made no case here: `policy/rule` -> why."""
    found: list[Change] = []
    without: dict[str, str] = {}
    facts = host_facts()
    values = dict(knobs_now(Host(Path("/"))))
    paper = Paper(catalogue.load(), facts, values)
    usual = list(Trace(TRACES / "crowd.jsonl.gz"))[30].values
    for name in sorted(path.stem for path in paths.shipped_policies().glob("*.yaml")):
        policy = policy_of(name, paper, facts)
        alone = [
            *(msgspec.structs.replace(policy, rules=(rule,), climbs=()) for rule in policy.rules),
            *(msgspec.structs.replace(policy, rules=(), climbs=(climb,)) for climb in policy.climbs),
        ]
        for one in alone:
            [template] = (*one.rules, *map(as_rule, one.climbs))
            rules = instantiate((template,), paper.instances)[:1]
            if not rules:
                without[f"{name}/{template.id}"] = "nothing here that it is for"
                continue
            here = {action.knob: paper[action.knob].low or 0 for action in rules[0].do} | values
            judged = case_of(one, rules[0], paper, here, usual)
            if isinstance(judged, str):
                without[f"{name}/{template.id}"] = judged
                continue
            past = tuple(as_remembered(judged, number) for number in range(1, TOLD + 1))
            fullest = case_of(one, rules[0], paper, here, usual, past)
            assert not isinstance(fullest, str), fullest
            found.append(counted(name, judged, fullest))
    return found, without


def case_of(
    policy: Policy,
    rule: Rule,
    paper: Paper,
    values: dict[str, Value],
    usual: dict[str, float],
    past: tuple[Remembered, ...] = (),
) -> Judged | str:
    """The rule's own case, from the engine, with a trial that shows the gain; or why there is none."""
    # It is asked about a change whose arms cannot be alternated, too, and memory answers nothing.
    day = Day(
        policy,
        () if policy.climbs else (rule,),
        paper,
        values,
        effects_of((rule,), GAIN),
        agreeing,
        settings=review.Settings(keep=Keep.MODEL, often=0),
        cpus=os.cpu_count() or 1,
        learned=Learned(priors=Priors(recent=past)),
    )
    names = [rule.expect.metric, *(guard.metric for guard in rule.guard)]
    shown = {**dict.fromkeys(names, 50.0), **usual}
    for one in rule.when:
        shown[one.metric] = one.level * 1.5 + 1e-6 if one.op == ">" else one.level * 0.5
    for second in range(LONGEST_S):
        day.observe(Observation(float(second), shown))
        if asked := [one for one in day.judged if one.consults]:
            return asked[0]
    said = [str(note.data.get("what") or note.data.get("reason")) for note in day.notes]
    return said[-1] if said else "it never held"


def as_remembered(judged: Judged, number: int) -> Remembered:
    """One more change like this, judged `number` days before."""
    case = judged.case
    wall = WALL - number * 86_400.0
    by = "trial and model"
    return Remembered(f"d0.{number}", case.rule, case.after, Fate.CONFIRMED, wall, by, GAIN)


def counted(policy: str, judged: Judged, fullest: Judged) -> Change:
    consult, reply = judged.consults[0]
    return Change(
        policy,
        judged.case.rule,
        len(judged.case.knobs),
        tokens(sent(consult)),
        tokens(sent(fullest.consults[0][0])),
        tokens(reply.text),
        tokens(json.dumps(consult.schema)),
    )


def show_changes(found: list[Change], without: dict[str, str], prices: Prices) -> None:
    print(
        f"one reviewed change, {len(found)} rules of shipped policies; tokens by a vocabulary of 130k, 32k:"
    )
    parts: dict[str, Callable[[Change], tuple[int, int]]] = {
        "prompt": lambda one: one.prompt,
        "prompt, fullest memory": lambda one: one.fullest,
        "reply": lambda one: one.reply,
        "schema of the reply": lambda one: one.schema,
    }
    print(f"  {'':28}{'median':>16}{'least':>16}{'most':>16}")
    for what, of in parts.items():
        many, few = ([of(one)[part] for one in found] for part in (0, 1))
        row = (f"{pick(many):.0f}, {pick(few):.0f}" for pick in (median, min, max))
        print(f"  {what:28}" + "".join(f"{cell:>16}" for cell in row))
    costs = [prices.of(one.prompt[0], one.reply[0]) for one in found]
    dearest = [prices.of(max(one.fullest), max(one.reply)) for one in found]
    print(f"  cost, if the first word is the verdict: median {median(costs):.4f}, at most {max(dearest):.4f}")
    worst = max(found, key=lambda one: max(one.fullest))
    print(f"  the longest: {worst.policy}/{worst.rule}, {worst.knobs} knobs")
    for why, rules in sorted(grouped(without).items()):
        print(f"  no case of {len(rules)}: {why}: {', '.join(rules)}")


def grouped(without: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule, why in without.items():
        found.setdefault(why, []).append(rule)
    return found


# ------------------------------------------------------------------------------------- day


class Spent(msgspec.Struct):
    """One day. `who` answered how many cases: model, memory, trial, nobody."""

    trace: str
    policy: str
    assumed: str
    hours: float
    restarts: int
    proposed: int
    who: dict[str, int]
    fates: dict[str, int]
    calls: int
    read: int
    written: int
    cost: float
    took_s: float


def a_day(trace: str, policy: str, gain: float, hours: float, every_s: float, prices: Prices) -> Spent:
    """`every_s`: the daemon is started anew so often; what it learned stays, its changes do not."""
    began = time.monotonic()
    file = Trace(TRACES / f"{trace}.jsonl.gz")
    facts = facts_of(file.header)
    paper = Paper(catalogue.load(), facts, file.header.knobs)
    loaded = policy_of(policy, paper, dict(facts))
    rules = instantiate(loaded.rules, paper.instances)
    effects = effects_of(rules, gain) if gain else ()
    day = Day(
        loaded,
        rules,
        paper,
        file.header.knobs,
        effects,
        agreeing,
        settings=review.Settings(),
        cpus=file.header.cpus,
    )
    next_start = every_s
    for observation in end_to_end(list(file), hours * 3600):
        if observation.t >= next_start:
            next_start += every_s
            day.start()
        day.observe(observation)
    exchanges = list(chain.from_iterable(one.consults for one in day.judged))
    read = sum(tokens(sent(consult))[0] for consult, _ in exchanges)
    written = sum(tokens(reply.text)[0] for _, reply in exchanges)
    kinds = Counter(note.kind for note in day.notes)
    return Spent(
        trace,
        policy,
        f"the first step of a rule makes its metric {gain:.0%} better" if gain else "no change does anything",
        hours,
        day.starts - 1,
        kinds["proposed"],
        dict(Counter(one.how for one in day.judged)),
        {kind: kinds[kind] for kind in ("confirmed", "overwritten", "reverted")},
        len(exchanges),
        read,
        written,
        prices.of(read, written),
        time.monotonic() - began,
    )


def show_day(day: Spent) -> None:
    total = sum(day.who.values()) or 1
    who = ", ".join(f"{name} {n} ({n / total:.0%})" for name, n in sorted(day.who.items()))
    fates = ", ".join(f"{n} {name}" for name, n in day.fates.items() if n)
    print(f"{day.trace}, {day.policy}: {day.hours:g} h, {day.restarts} restarts; assumed: {day.assumed}")
    print(f"  {day.proposed} changes proposed; {fates or 'none kept or reverted'}; answered by: {who}")
    print(f"  {day.calls} calls, {day.read} tokens read, {day.written} written, cost {day.cost:.4f}", end="")
    print(f" ({day.took_s:.0f} s)", flush=True)


# ------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="review_cost", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prices", default="3,15", help="of a million tokens read, written")
    parser.add_argument("--hours", type=float, default=24.0, help="of each day")
    parser.add_argument(
        "--restart", type=float, default=2.0, help="hours between starts, where there are any"
    )
    parser.add_argument("--only", choices=("change", "day"))
    parser.add_argument("--json", action="store_true", help="one document with every rule and day")
    args = parser.parse_args(argv)
    read, written = map(float, args.prices.split(","))
    prices = Prices(read, written)
    document: dict[str, object] = {"v": 1, "prices": prices, "load": os.getloadavg()}
    if args.only != "day":
        found, without = changes()
        document |= {"changes": found, "without": without}
        if not args.json:
            show_changes(found, without, prices)
    if args.only != "change":
        days = []
        for trace, policy in DAYS.items():
            for gain, every_s in ((GAIN, inf), (GAIN, args.restart * 3600), (0.0, inf)):
                days.append(a_day(trace, policy, gain, args.hours, every_s, prices))
                if not args.json:
                    show_day(days[-1])
        document["days"] = days
    if args.json:
        print(msgspec.json.encode(document).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
