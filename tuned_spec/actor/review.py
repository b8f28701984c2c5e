"""The review of one change: the trial first, then, where a word can still count, the model's.

An I/O-free flow (see `flow`). Owns the order of things: measure, remember, ask, answer what is asked
back, weigh, and measure what the model would rather have. What may be said is `reply`'s, how it is said
`brief`'s, what it is worth `weigh`'s. Silence is an exception: the change goes back with its lease.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random

import msgspec

from tuned_spec.actor import brief, reply, trial
from tuned_spec.actor.flow import Answer, Asked, Consult, Reply, Review, Said, Silence
from tuned_spec.actor.record import exchanged, legible
from tuned_spec.actor.reply import Ask, Terms, Unusable
from tuned_spec.actor.trial import Examined, Side
from tuned_spec.actor.weigh import (
    Keep,
    Shown,
    Tried,
    alone,
    unheard,
    wants_measure,
    wants_word,
    weigh,
)
from tuned_spec.model import (
    Arm,
    Case,
    Consulted,
    Frozen,
    Past,
    Probe,
    ProbeAnswer,
    Verdict,
    VerdictKind,
    Writes,
)
from tuned_spec.windows import LEASE_SHARE

MOST_CALLS = 8  # of one case: the history keeps no more
NEAR = 1.4  # two workloads not further apart are the same one: speculate.signature.KNOWN
MARGIN = 0.05  # so much worse is not worse
FATES = {VerdictKind.CONFIRM: "confirmed", VerdictKind.OVERWRITE: "confirmed", VerdictKind.REJECT: "rejected"}

replace = msgspec.structs.replace


class Settings(Frozen, frozen=True):
    """`tries`: so many replies of one case that cannot be used are silence. A change that was judged `often`
    times within `remember_s` need not be asked about again; 0 asks always."""

    keep: Keep = Keep.BOTH
    probes: int = 6
    tries: int = 3
    reply_tokens: int = 1024
    often: int = 2
    remember_s: float = 7 * 86_400.0


def judge(case: Case, rng: Random, settings: Settings) -> Review:
    found = yield from trial.examine(case, rng)
    if not wants_word(settings.keep, found):
        return alone(settings.keep, found)
    if known := remembered(case, found, settings):
        return known
    talk = Talk(case, found, settings, brief.marker(rng))
    tried: tuple[Tried, ...] = ()
    try:
        word = yield from talk.word()
        if wants_measure(settings.keep, found, word):
            tried = ((yield from _measured(talk, word.writes)),)
            if settings.keep is Keep.BOTH and tried[0].shown is not Shown.GOOD:
                word = yield from talk.word_after(tried[0])
    except Silence as silence:
        stands = unheard(settings.keep, found, str(silence))
        if stands is None:
            raise
        return stands
    return weigh(settings.keep, found, word, tried)


# -------------------------------------------------------------------------------- memory


def remembered(case: Case, found: Examined, settings: Settings) -> Verdict | None:
    """What the model said of this very change under this workload, often and lately; None: ask it."""
    trial = found.verdict
    fate = FATES[trial.kind]
    kept = trial.writes or case.after
    same = [past for past in case.past if _same(past, kept, settings.remember_s)]
    agree = [past for past in same if past.fate == fate]
    if not 0 < settings.often <= len(agree) or len(agree) < len(same):
        return None
    last = min(agree, key=lambda past: past.age_s)
    times = f"as judged {len(agree)} times before, last {last.trial}"
    opinions = {"trial": f"{trial.kind.value}: {trial.reason}"[:600], "memory": times}
    return replace(trial, reason=f"{trial.reason}; {times}", by="trial and memory", opinions=opinions)


def _same(past: Past, writes: Writes, within_s: float) -> bool:
    near = past.distance is not None and past.distance <= NEAR
    return past.writes == writes and near and past.age_s <= within_s and "model" in past.by


# --------------------------------------------------------------------------- conversation


@dataclass
class Talk:
    """One conversation about one case."""

    case: Case
    found: Examined
    settings: Settings
    mark: str
    said: list[Said] = field(default_factory=list)
    calls: int = 0
    unusable: int = 0
    asked: int = 0
    seconds: float = 0.0
    limited: bool = False  # no other value can be chosen any more
    seq: int = 0

    def __post_init__(self) -> None:
        self.names = brief.names_of(self.case, self.found.verdict)
        self.seq = self.found.bench.seq if self.found.bench else 0

    @property
    def terms(self) -> Terms:
        last = self.calls + 1 >= MOST_CALLS
        return Terms(
            case=self.case,
            names=self.names,
            kept=self.found.verdict.writes or self.case.after,
            may_overwrite=not self.limited,
            probes=0 if last else max(0, self.settings.probes - self.asked),
        )

    def word(self) -> Generator[Asked, Answer, Verdict]:
        return (yield from self.word_on(brief.user(self.terms, self.found, self.mark)))

    def word_on(self, prompt: str) -> Generator[Asked, Answer, Verdict]:
        """For a prompt that was made before, as well."""
        self.tell(prompt)
        return (yield from self._until_usable())

    def word_after(self, tried: Tried) -> Generator[Asked, Answer, Verdict]:
        """Its value did not do: what does it say to the one that the trial found?"""
        self.limited = True
        self.tell(brief.measured(tried.writes, tried.figures, self.terms))
        return (yield from self._until_usable())

    def tell(self, text: str) -> None:
        self.said.append(Said("user", text))

    def _until_usable(self) -> Generator[Asked, Answer, Verdict]:
        while self.calls < MOST_CALLS:
            terms = self.terms
            said = yield from self._exchange(terms)
            read = reply.read(said.text, terms)
            self.said.append(Said("assistant", legible(said.text[: reply.MOST_CHARACTERS])))
            yield self._record(said, read)
            match read:
                case Verdict():
                    return read
                case Ask():
                    given = yield from self._probe(read)
                    self.tell(brief.answers(given, self.terms, self.mark))
                case Unusable():
                    self.unusable += 1
                    if self.unusable >= self.settings.tries:
                        raise Silence(f"{self.unusable} replies could not be used, the last: {read.why}")
                    self.tell(brief.again(read.why, self.terms))
        raise Silence(f"no verdict in {MOST_CALLS} exchanges")

    def _exchange(self, terms: Terms) -> Generator[Asked, Answer, Reply]:
        self.calls += 1
        answer = yield Consult(
            brief.SYSTEM, tuple(self.said), reply.schema(terms), self.settings.reply_tokens
        )
        if not isinstance(answer, Reply):
            raise TypeError(f"case {self.case.id}: a {type(answer).__name__} where a Reply was due")
        self.seconds += answer.seconds
        if answer.error:
            yield self._record(answer, Unusable(answer.error))
            raise Silence(f"the model: {answer.error}")
        return answer

    def _probe(self, ask: Ask) -> Generator[Asked, Answer, list[tuple[str, ProbeAnswer]]]:
        given = []
        for question in ask.questions:
            self.asked += 1
            self.seq += 1
            answer = yield Probe(self.case.id, self.seq, question.name, question.args)
            if not isinstance(answer, ProbeAnswer):
                raise TypeError(f"case {self.case.id}: a {type(answer).__name__} where a ProbeAnswer was due")
            shown = " ".join((question.name, *map(self.names.show, question.args.values())))
            given.append((shown, answer))
        if self.found.bench:
            self.found.bench.seq = self.seq
        return given

    def _record(self, answer: Reply, read: Verdict | Ask | Unusable) -> Consulted:
        match read:
            case Verdict():
                outcome = f"{read.kind.value} ({read.confidence:.2f})"
            case Ask():
                outcome = f"asks {', '.join(question.name for question in read.questions)}"
            case Unusable():
                outcome = f"unusable: {read.why}" if answer.text else f"no reply: {read.why}"
        asked = len(read.questions) if isinstance(read, Ask) else 0
        return exchanged(self.case.id, brief.SYSTEM, self.said, answer, outcome, asked)


# ------------------------------------------------------------------- the model's own value


def _measured(talk: Talk, writes: Writes) -> Generator[Asked, Answer, Tried]:
    """The model's value against the one that it would replace, in what is left of the lease."""
    case, bench = talk.case, talk.found.bench
    if bench is None or not case.alternable:
        return Tried(writes, Shown.UNCLEAR, "arms cannot be alternated")
    left = (case.review_s - talk.seconds) * LEASE_SHARE
    bench.left_s += left if math.isfinite(left) else 0.0
    kept = talk.found.verdict.writes
    tally = trial.Tally(case, least=-MARGIN)
    old, new = (Side(Arm.C, kept) if kept else trial.NEW), Side(Arm.C, writes)
    finding = yield from trial.compare(bench, tally, old, new, trial.MOST_FURTHER)
    talk.seq = bench.seq
    if finding.kind is VerdictKind.CONFIRM:
        return Tried(writes, Shown.GOOD, finding.reason)
    worse = tally.harm()
    return Tried(writes, Shown.WORSE if worse else Shown.UNCLEAR, finding.reason)
