"""`actor replay`: reviews on record are judged again by another model or prompt, and compared.

Each is told again as it was told then, by the same flow; a probe is answered as it was then, or "not
recorded". Reads the history only; writes no knob and no record. What it costs is bounded by its own flags.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import assert_never

import msgspec

from tuned_spec.actor import brief, reply
from tuned_spec.actor.config import Config, ModelConfig, load, named, read_key
from tuned_spec.actor.flow import Consult, Reply, Silence
from tuned_spec.actor.quoting import Names, clean
from tuned_spec.actor.record import digest
from tuned_spec.actor.review import Settings, Talk
from tuned_spec.actor.trial import Examined
from tuned_spec.cli import show
from tuned_spec.cli.actor import actor_file
from tuned_spec.errors import UsageError
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.ledger.history import Entry, read
from tuned_spec.model import (
    Allowed,
    Case,
    Consulted,
    Expect,
    Frozen,
    Knob,
    Measure,
    Mode,
    Probe,
    ProbeAnswer,
    Verdict,
    VerdictKind,
    Way,
    Writes,
    entry_of,
)
from tuned_spec.policy.units import Misfit

LAST = MOST_CALLS = 20
UNUSABLE, UNFINISHED = "unusable", "unfinished"
NOT_RECORDED = "not recorded"

Ask = Callable[[Consult], Reply]


class Word(Frozen, frozen=True):
    """What a model said. `kind`: a verdict's, "unusable" or "unfinished"; `reason`: its own, or why not."""

    kind: str
    writes: Writes = ()
    reason: str = ""
    confidence: float | None = None


class Recorded(Frozen, frozen=True):
    """One review of the history. `evidence`: what the trial alone came to, "" if that is not on record."""

    case: Case
    model: str
    system: str  # digest of its instructions
    prompt: str
    exchange: tuple[str, ...]
    evidence: str


class Replayed(Frozen, frozen=True):
    trial: str
    writes: Writes
    evidence: str
    recorded: Word
    now: Word
    agrees: bool
    same_instructions: bool
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float
    seconds: float
    not_recorded: int  # probes that it asked for and the record has no answer to


class Summary(Frozen, frozen=True):
    """`record`, `evidence`: what was said then, or shown, -> what the model says now -> how often."""

    model: str
    replayed: int
    agree: int
    unusable: int
    record: dict[str, dict[str, int]]
    evidence: dict[str, dict[str, int]]
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float
    left_out: dict[str, str]  # trial -> why it was not replayed


def main(args: argparse.Namespace) -> int:
    last, most = (LAST if args.last is None else args.last), args.most_calls
    most = MOST_CALLS if most is None else most
    if last < 1 or most < 1:
        raise UsageError("--last and --most-calls are numbers from 1 on")
    config, settings = chosen(args)
    system = instructions(args)
    found, left_out = recorded(args, last)
    if not found:
        about = f" about trial {args.trial}" if args.trial else ""
        gone = f"no model was asked{about} as far as it goes back"
        why = next(iter(left_out.values()), gone)
        raise UsageError(f"nothing to replay is on record in {args.state_dir}: {why}")

    from tuned_spec.actor.models import Model  # and the vendor's client with it

    try:
        model = Model(config, read_key(config))
    except (Misfit, OSError) as error:
        raise UsageError(f"{config.name} at {config.endpoint}: {error}") from error
    rows: list[Replayed] = []
    for one in found:
        left = most - sum(row.calls for row in rows)
        if left > 0:
            rows.append(replayed(one, model.ask, system, settings, left))
        if left <= 0 or rows[-1].now.kind == UNFINISHED:
            left_out[one.case.id] = f"--most-calls {most} were used up"
    whole = summary(config.name, rows, left_out)
    if args.json:
        show.json_out({"v": 1, "command": "actor", "ok": True, "replayed": rows, "summary": whole})
    else:
        print(page(whole, rows))
    return 0


# ------------------------------------------------------------------------- what is asked for


def chosen(args: argparse.Namespace) -> tuple[ModelConfig, Settings]:
    """The model, and how it is talked to. A key is only for the endpoint it is configured with."""
    if args.endpoint is None:
        if args.provider or args.key_file:
            raise UsageError("--provider and --key-file go with --endpoint URL")
        file = actor_file(args)
        config = load(file) if file else Config()
        if config.model is None:
            raise UsageError(
                "no model is configured; say --actor FILE, or --endpoint, --provider and --model"
            )
        model = msgspec.structs.replace(config.model, name=args.model or config.model.name)
        return model, Settings(probes=config.review.probes, reply_tokens=model.reply_tokens)
    words = {
        "provider": args.provider,
        "endpoint": args.endpoint,
        "name": args.model,
        "key_file": args.key_file,
    }
    if missing := [flag for flag in ("provider", "name") if words[flag] is None]:
        raise UsageError(f"--endpoint needs --{'model' if missing[0] == 'name' else missing[0]}, too")
    try:
        model = named({key: word for key, word in words.items() if word is not None})
    except Misfit as error:
        raise UsageError(f"the model of the command line: {error}") from error
    return model, Settings(probes=Config().review.probes, reply_tokens=model.reply_tokens)


def instructions(args: argparse.Namespace) -> str:
    if args.system is None:
        return brief.SYSTEM
    try:
        return str(args.system.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--system {args.system}: cannot be read: {error}") from error


# ---------------------------------------------------------------------------- what is on record


def recorded(args: argparse.Namespace, last: int) -> tuple[list[Recorded], dict[str, str]]:
    """The latest reviews, oldest first, and why others cannot be replayed. JournalError as `read`."""
    talks: dict[str, Entry] = {}
    for entry in read(args.state_dir, trial=args.trial, kinds=("consulted",)):
        if not entry.trial:
            continue  # what a speculator was asked is no review
        talks.pop(entry.trial, None)
        talks[entry.trial] = entry  # a talk is on record after each call: the last is the whole of it
    latest = dict(list(talks.items())[-last:])
    verdicts = {e.trial: e.data for e in read(args.state_dir, trial=tuple(latest), kinds=("verdict",))}
    catalogue = load_catalogue()
    found, left_out = list[Recorded](), dict[str, str]()
    for trial, entry in latest.items():
        if "prompt" not in entry.data:
            left_out[trial] = "what was said is no longer kept, only its figures are"
            continue
        try:
            found.append(of_entry(entry, verdicts.get(trial, {}), catalogue))
        except KeyError as error:
            left_out[trial] = f"the catalogue has no {error.args[0]} any more"
        except msgspec.ValidationError as error:
            left_out[trial] = f"it was recorded by another version: {error}"
    return found, left_out


def of_entry(entry: Entry, verdict: Mapping[str, object], catalogue: Mapping[str, Knob]) -> Recorded:
    """KeyError: a knob is unknown; ValidationError: another version's record."""
    data = dict(entry.data)
    before, after = (msgspec.convert(data.pop(name, None), Writes) for name in ("before", "after"))
    allowed = msgspec.convert(data.pop("allowed", None), tuple[Allowed, ...])
    said = msgspec.convert(data, Consulted)
    case = Case(
        id=entry.trial,
        mode=Mode.LOSSY,
        rule=entry.rule,
        reason="",
        knobs=tuple(
            msgspec.structs.replace(catalogue[entry_of(write.knob)], id=write.knob) for write in after
        ),
        before=before,
        after=after,
        seen={},
        expect=Expect("", Way.DOWN),
        guard=(),
        allowed=allowed,
        settle_s=0.0,
        dwell_s=0.0,
        alternable=False,
        fresh_instances=False,
        lease_s=0.0,
        alpha=0.05,
        max_pairs=0,
        history={},
    )
    opinions = verdict.get("opinions")
    trial = str(opinions.get("trial", "")) if isinstance(opinions, Mapping) else ""
    word = trial.split(" ")[0].rstrip(":")
    evidence = word if word in list(VerdictKind) else ""
    return Recorded(case, said.model, said.system, said.prompt, said.exchange, evidence)


def talk_of(one: Recorded, settings: Settings) -> Talk:
    """The flow as it was then: what the numbers in the prompt stand for is in its first data block."""
    trial = Verdict(one.case.id, VerdictKind.CONFIRM, "")
    mark = one.prompt.partition("\n")[0].strip()
    talk = Talk(one.case, Examined(trial), settings, mark)
    table = next(iter(blocks(one.prompt)), {}).get("names")
    instances = table.values() if isinstance(table, dict) else ()
    ours = (*(knob.id for knob in one.case.knobs), one.case.rule)
    talk.names = Names([*(f"name@{instance}" for instance in instances), *ours])
    return talk


def blocks(text: str) -> list[dict[str, object]]:
    """The data blocks of what a model was told; one that was cut for the record is left out."""
    found = []
    lines = text.split("\n")
    for head, line in pairwise(lines):
        if head.startswith("<data "):
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if isinstance(data, dict):
                found.append(data)
    return found


def answers(one: Recorded) -> dict[str, ProbeAnswer]:
    """What was answered then, by what was asked."""
    found = {}
    for turn in one.exchange[1::2]:
        for asked, said in next(iter(blocks(turn)), {}).items():
            if isinstance(said, dict):
                found[asked] = ProbeAnswer(one.case.id, 0, "", str(said.get("error")))
            elif isinstance(said, list):
                found[asked] = ProbeAnswer(one.case.id, 0, "\n".join(map(str, said)))
    return found


def word_then(one: Recorded, talk: Talk) -> Word:
    """The first verdict of the record: what came of measuring its value is another question."""
    why = "it gave no verdict"
    for turn in one.exchange[::2]:
        match reply.read(turn, talk.terms):
            case Verdict() as verdict:
                return word(verdict)
            case reply.Unusable() as unusable:
                why = unusable.why
            case reply.Ask():
                pass
    return Word(UNUSABLE, reason=why)


def word(verdict: Verdict) -> Word:
    return Word(verdict.kind.value, verdict.writes, verdict.reason, verdict.confidence)


# --------------------------------------------------------------------------------- the replay


def replayed(one: Recorded, ask: Ask, system: str, settings: Settings, most: int) -> Replayed:
    """It is unfinished where `most` calls are used up before it gave a verdict."""
    talk, known, replies, missed = talk_of(one, settings), answers(one), list[Reply](), 0
    then = word_then(one, talk)
    flow = talk.word_on(one.prompt)
    now = Word(UNFINISHED)
    try:
        asked = next(flow)
        while True:
            match asked:
                case Consult():
                    if len(replies) >= most:
                        flow.close()
                        break
                    replies.append(ask(msgspec.structs.replace(asked, system=system)))
                    asked = flow.send(replies[-1])
                case Probe():
                    shown = " ".join((asked.name, *map(talk.names.show, asked.args.values())))
                    answer = known.get(clean(shown, 200))
                    missed += answer is None
                    answer = answer or ProbeAnswer(asked.case, asked.seq, "", NOT_RECORDED)
                    asked = flow.send(answer)
                case Consulted():
                    asked = flow.send(None)
                case Measure():
                    raise AssertionError("a talk measures nothing")
                case _:
                    assert_never(asked)
    except StopIteration as end:
        now = word(end.value)
    except Silence as silence:
        now = Word(UNUSABLE, reason=str(silence))
    return Replayed(
        trial=one.case.id,
        writes=one.case.after,
        evidence=one.evidence,
        recorded=then,
        now=now,
        agrees=now.kind != UNUSABLE and (now.kind, now.writes) == (then.kind, then.writes),
        same_instructions=digest(system) == one.system,
        calls=len(replies),
        tokens_in=sum(reply.tokens_in for reply in replies),
        tokens_out=sum(reply.tokens_out for reply in replies),
        cost=sum(reply.cost for reply in replies),
        seconds=sum(reply.seconds for reply in replies),
        not_recorded=missed,
    )


def summary(model: str, rows: Sequence[Replayed], left_out: dict[str, str]) -> Summary:
    judged = [row for row in rows if row.now.kind != UNFINISHED]
    return Summary(
        model=model,
        replayed=len(judged),
        agree=sum(row.agrees for row in judged),
        unusable=sum(row.now.kind == UNUSABLE for row in judged),
        record=confusion((row.recorded.kind, row.now.kind) for row in judged),
        evidence=confusion((row.evidence, row.now.kind) for row in judged if row.evidence),
        calls=sum(row.calls for row in rows),
        tokens_in=sum(row.tokens_in for row in rows),
        tokens_out=sum(row.tokens_out for row in rows),
        cost=sum(row.cost for row in rows),
        left_out=left_out,
    )


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (one, other), times in sorted(Counter(pairs).items()):
        found.setdefault(one, {})[other] = times
    return found


# ------------------------------------------------------------------------------------ telling


def page(whole: Summary, rows: Sequence[Replayed]) -> str:
    head = ("TRIAL", "CHANGE", "EVIDENCE", "RECORDED", "NOW", "AGREES", "TOKENS", "COST", "SECONDS")
    table = [
        (
            row.trial,
            show.writes(msgspec.to_builtins(row.writes)),
            row.evidence or "-",
            _word(row.recorded),
            _word(row.now),
            "yes" if row.agrees else "no",
            f"{row.tokens_in} + {row.tokens_out}",
            show.number(row.cost) if row.cost else "-",
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    lines = [show.table([[show.safe(cell) for cell in row] for row in table], head)] if rows else []
    usable = whole.replayed - whole.unusable
    share = f" ({whole.agree / usable:.0%} of the usable)" if usable else ""
    cost = f", cost {show.number(whole.cost)}" if whole.cost else ""
    judged = f"{show.count(whole.replayed, 'review')}, {whole.agree} as recorded{share}"
    took = f"{show.count(whole.calls, 'call')}, {whole.tokens_in} tokens in, {whole.tokens_out} out{cost}"
    lines += [
        "",
        f"{show.safe(whole.model)}: {judged}, {whole.unusable} unusable; {took}",
        *_confusion("recorded", whole.record),
        *_confusion("the trial's evidence", whole.evidence),
    ]
    if missed := sum(row.not_recorded for row in rows):
        what = "what it would have said with one is open"
        lines.append(f"  {show.count(missed, 'probe')} had no answer on record: {what}")
    if others := sum(not row.same_instructions for row in rows):
        lines.append(f"  {others} of {len(rows)} were recorded with other instructions than these")
    for trial, why in whole.left_out.items():
        lines.append(f"  {trial} left out: {show.safe(why)}")
    for row in rows:
        if row.now.kind == UNUSABLE:
            lines.append(f"  {row.trial} unusable: {show.safe(row.now.reason)}")
    return "\n".join(lines)


def _word(word: Word) -> str:
    values = show.writes(msgspec.to_builtins(word.writes))
    sure = f" ({word.confidence:.2f})" if word.confidence is not None else ""
    return word.kind + (f" {values}" if values else "") + sure


def _confusion(title: str, counts: Mapping[str, Mapping[str, int]]) -> Iterable[str]:
    for then, now in counts.items():
        said = ", ".join(f"{kind} {times}" for kind, times in now.items())
        yield f"  {title} {then}: now {said}"
