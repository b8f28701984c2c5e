"""`status`: what is running, changed, refused and on trial; also after the daemon died."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tuned_spec.cli import live, show
from tuned_spec.errors import JournalError
from tuned_spec.ledger.history import DAY_S, Spent, read, spent, tally
from tuned_spec.model import Frozen

NOT_RUNNING = 6  # and nothing left to put back
RECENT = 200  # entries of a kind that are looked at one by one
LEFT = 1  # something is changed and nobody minds it, or the daemon hangs

Json = dict[str, object]


def main(args: argparse.Namespace) -> int:
    daemon = live.daemon(args.runtime_dir)
    judged, models, last, refusals, trouble = Judged(), Models(), live.Last(), Counter[str](), ""
    try:
        last = live.last(args.state_dir, running=daemon.state != "stopped")
        alpha = daemon.status.get("alpha", last.alpha)
        judged = judge(args.state_dir, alpha if isinstance(alpha, float) else None)
        models = consulted(args.state_dir, time.time())
        if daemon.state != "running":
            refused = read(args.state_dir, kinds=("refused",), limit=RECENT)
            refusals = Counter(str(e.data.get("code")) for e in refused)
    except JournalError as error:
        trouble = str(error)  # a bad history must not hide what the daemon and the kernel say
    document: Json = {"v": 1, "command": "status", "state": daemon.state, "pid": daemon.pid}
    document |= {"last": last, "judged": judged, "models": models, "history_error": trouble}
    if daemon.state == "running":
        if args.json:
            show.json_out(document | {"status": daemon.status})
        else:
            print_running(daemon.status, judged, models, trouble)
        return 0
    journal = live.journal(args.runtime_dir)
    left = bool(journal.changed or journal.damage) or daemon.state == "hung"
    command = live.command("restore", args.runtime_dir) if left else ""
    if args.json:
        show.json_out(document | {"journal": journal, "refusals": refusals, "restore": command})
    else:
        print_dead(
            daemon, last, journal, command, "" if trouble else f"no run is on record in {args.state_dir}"
        )
        print_counts("refusals on record", refusals)
        print_judged(judged, trouble)
        print_models(models)
    return LEFT if left else NOT_RUNNING


class Judged(Frozen, frozen=True):
    """What the history says of the verdicts so far, and what may be said of wrong confirmations.

    `expected_false` is an upper bound, not a measurement: at most alpha of all judged guesses, had every
    one of them been without effect. `undone`: of the last RECENT kept, those of which a later verdict kept
    the value of before.
    """

    judged: int = 0
    kept: int = 0
    undone: int = 0
    alpha: float | None = None
    expected_false: float | None = None


def judge(state_dir: Path, alpha: float | None) -> Judged:
    """Raises JournalError where the history cannot be read."""
    counts = tally(state_dir)
    judged, kept = counts.get("verdict", 0), counts.get("confirmed", 0) + counts.get("overwritten", 0)
    bound = None if alpha is None else min(float(kept), alpha * judged)
    return Judged(judged, kept, len(undone(state_dir)) if kept else 0, alpha, bound)


class Models(Frozen, frozen=True):
    """What the history says of models that were asked: in the last hour, in the last day.

    `reviewed` are the verdicts of the last day in which a model's word counts, `unasked` those of them that
    came without a call: it had said so before.
    """

    hour: Spent = Spent()
    day: Spent = Spent()
    reviewed: int = 0
    unasked: int = 0


def consulted(state_dir: Path, now: float) -> Models:
    """Raises JournalError where the history cannot be read."""
    day = spent(state_dir, now - DAY_S)
    verdicts = read(state_dir, kinds=("verdict",), since=now - DAY_S, limit=RECENT)
    heard = {e.trial for e in verdicts if _by_model(e.data)}
    if not day.trials and not heard:
        return Models()
    hour = spent(state_dir, now - 3600.0)
    return Models(hour, day, len(heard), len(heard - set(day.trials)))


def _by_model(verdict: Mapping[str, object]) -> bool:
    opinions = verdict.get("opinions")
    said = opinions if isinstance(opinions, Mapping) else {}
    silent = str(said.get("model", "silent")).startswith("silent")
    return not silent or "memory" in said or "model" in str(verdict.get("by", ""))


def undone(state_dir: Path) -> set[str]:
    """Trials whose confirmed value a later confirmation set back to what it had been before."""
    kept = read(state_dir, kinds=("confirmed", "overwritten"), limit=RECENT)
    before: dict[str, Mapping[str, object]] = {}
    for entry in read(state_dir, trial=[e.trial for e in kept], kinds=("applied",)):
        before.setdefault(entry.trial, _by_knob(entry.data.get("before")))
    found = set()
    for number, later in enumerate(kept):
        now = _by_knob(later.data.get("writes"))
        for earlier in kept[:number]:
            was = before.get(earlier.trial, {})
            if any(knob in was and was[knob] == value for knob, value in now.items()):
                found.add(earlier.trial)
    return found


def _by_knob(writes: object) -> dict[str, object]:
    if not isinstance(writes, list):
        return {}
    return {str(w["knob"]): w["value"] for w in writes if isinstance(w, Mapping)}


# ------------------------------------------------------------------------------- printing


class Actor(msgspec.Struct):
    kind: str = "?"
    alive: bool = False
    pid: int | None = None
    restarts: int = 0


class OpenTrial(msgspec.Struct):
    trial: str
    rule: str
    knobs: dict[str, object]
    state: str
    arm: str = "A"
    pairs: int = 0
    deadline_in_s: float = 0.0


class Pending(msgspec.Struct):
    trial: str
    rule: str
    moves: list[dict[str, object]]
    what: str
    asked: str
    waits_at: str
    reason: str = ""
    by: str = ""
    left_s: float = 0.0
    approve: str = ""
    reject: str = ""


class Held(msgspec.Struct):
    knob: str
    original: object
    value: object
    trial: str
    rule: str
    since_s: float = 0.0


class Foreign(msgspec.Struct):
    knob: str
    ours: object
    found: object
    writer: str = "unknown"


class Inert(msgspec.Struct):
    rule: str
    reason: str


class Advice(msgspec.Struct):
    what: str
    by: str
    trial: str
    left_s: float = 0.0
    holds: bool = True
    reason: str = ""


class Guesses(msgspec.Struct):
    judged: int = 0
    confirmed: int = 0


class Workload(msgspec.Struct):
    age_s: float | None = None
    known: str = ""


class Probes(msgspec.Struct):
    pid: int | None = None
    asked: int = 0
    failed: int = 0


class Ahead(msgspec.Struct):
    k: int = 0
    asked: int = 0
    hits: int = 0
    started: int = 0
    wasted: int = 0
    saved_s: float = 0.0


class Status(msgspec.Struct):
    """The daemon's answer, as far as it is printed; what a later daemon adds is passed over."""

    pid: int
    mode: str
    policy: list[str]
    since_s: float = 0.0
    actor: Actor = msgspec.field(default_factory=Actor)
    pending: list[Pending] = []
    open: list[OpenTrial] = []
    held: list[Held] = []
    foreign: list[Foreign] = []
    refusals: dict[str, int] = {}
    rejected_samples: dict[str, int] = {}
    metrics: dict[str, float] = {}
    inert: list[Inert] = []
    advice: list[Advice] = []
    tick_s: float = 0.0
    paused: bool = False
    journal_ok: bool = True
    writer_watch: str = ""
    guesses: Guesses = msgspec.field(default_factory=Guesses)
    workload: Workload = msgspec.field(default_factory=Workload)
    probes: Probes = msgspec.field(default_factory=Probes)
    ahead: Ahead = msgspec.field(default_factory=Ahead)


def print_running(reply: Json, judged: Judged, models: Models, trouble: str) -> None:
    status = msgspec.convert(reply, Status)
    state = show.paint("running", "green") + (show.paint(", paused", "yellow") if status.paused else "")
    print(f"tuned-spec {state}: process {status.pid} for {show.span(status.since_s)}")
    print(f"  mode     {status.mode}, policy {' + '.join(status.policy)}, a tick each {status.tick_s:.1f} s")
    actor = status.actor
    word = f"alive, process {actor.pid}" if actor.alive else show.paint("not alive", "red")
    if status.mode == "observe" and not actor.alive:
        word = "not needed (observing)"
    again = f", {actor.restarts} restarts" if actor.restarts else ""
    print(f"  actor    {actor.kind}: {word}{again}")
    if asked := status.probes.asked:
        runs = f"process {status.probes.pid}" if status.probes.pid else "not running, nobody asks"
        print(f"  probes   {asked} asked, {status.probes.failed} without an answer: {runs}")
    if status.ahead.k and (asked := status.ahead.asked):
        ahead = status.ahead
        served = (
            f"{ahead.hits} of {asked} probes that take time had been run before ({ahead.hits / asked:.0%})"
        )
        saved = f"{show.span(ahead.saved_s)} saved, {ahead.wasted} runs for nothing"
        print(show.wrapped(f"  ahead    {served}, {saved}", 11))
    if hits := status.guesses.judged:
        share = f"{status.guesses.confirmed / hits:.0%}"
        print(f"  guesses  {hits} judged, {status.guesses.confirmed} kept: a hit rate of {share}")
    if (age_s := status.workload.age_s) is not None:
        known = f", known as {status.workload.known}" if status.workload.known else ""
        print(f"  workload the same for {show.span(age_s)}{known}")
    if not status.journal_ok:
        print(show.paint("  journal  cannot be written: no new changes, reverts still work", "red"))
    print_pending(status.pending)
    waiting = {question.trial for question in status.pending}
    section(
        "on trial",
        ("TRIAL", "KNOB", "STATE", "ARM", "PAIRS", "ENDS IN", "RULE"),
        [
            (
                t.trial,
                f"{k} = {show.value(v)}",
                t.state,
                t.arm,
                str(t.pairs),
                show.span(t.deadline_in_s),
                t.rule,
            )
            for t in status.open
            if t.trial not in waiting
            for k, v in t.knobs.items()
        ],
    )
    section(
        "held",
        ("KNOB", "ORIGINAL", "NOW", "FOR", "TRIAL", "RULE"),
        [
            (h.knob, show.value(h.original), show.value(h.value), show.span(h.since_s), h.trial, h.rule)
            for h in status.held
        ],
    )
    section(
        "written by others, left alone",
        ("KNOB", "OURS", "THEIRS", "WRITER"),
        [(f.knob, show.value(f.ours), show.value(f.found), f.writer) for f in status.foreign],
    )
    section(
        "advice in force (`tuned-spec resume --advice` drops it)",
        ("ENDS IN", "WHAT", "NOW", "BY", "TRIAL", "REASON"),
        [
            (
                show.span(a.left_s),
                show.safe(a.what),
                "holds" if a.holds else "another workload",
                show.safe(a.by),
                a.trial,
                show.safe(a.reason),
            )
            for a in status.advice
        ],
    )
    reported = {name: v for name, v in status.metrics.items() if name.startswith("app.")}
    section("reported by programs", ("METRIC", "LAST"), [(n, show.number(v)) for n, v in reported.items()])
    section("inert here", ("RULE", "WHY"), [(i.rule, i.reason) for i in status.inert])
    print_counts("refusals", status.refusals)
    print_rejected({why: n for why, n in status.rejected_samples.items() if n})
    print_judged(judged, trouble)
    print_models(models)


def print_pending(questions: Sequence[Pending]) -> None:
    if questions:
        print("\n" + show.paint("waiting for a person", "yellow"))
    for question in questions:
        left = f"{show.span(question.left_s)} left, the {question.waits_at} value is in place meanwhile"
        print(show.wrapped(f"  {question.trial}  {show.moves(question.moves)}  ({left})", 4))
        by = f", judged by {question.by}" if question.by else ""
        print(show.wrapped(f"    {question.rule}{by}: {question.reason}", 6))
        print(show.wrapped(f"    {question.what}", 6))
        print(f"    {show.heading(question.approve)}\n    {show.heading(question.reject)}")


def print_dead(daemon: live.Daemon, last: live.Last, journal: live.Journal, command: str, never: str) -> None:
    now = time.time()
    if daemon.state == "hung":
        words = f"process {daemon.pid} holds the lock but does not answer"
        print(show.wrapped(f"tuned-spec hung: {words}; `restore` ends it and puts everything back", 2))
    elif daemon.state == "unseen":
        print("tuned-spec: whether root's daemon runs cannot be seen without root; use sudo")
    elif last.seen:
        seen = f"last seen {show.when(last.seen, now)}, {show.span(now - last.seen)} ago"
        print(show.wrapped(f"tuned-spec not running ({seen}, ended by {last.ended})", 2))
        print(f"  it was   {last.mode}, policy {' + '.join(last.policy)}, process {last.pid}")
    else:
        print(show.wrapped("tuned-spec not running" + (f" ({never})" if never else ""), 2))
    head = ("KNOB", "ORIGINAL", "NOW", "STATE", "TRIAL", "RULE")
    rows = [
        (c["knob"], c["original"], c["found"] or c["why"], c["status"], c["trial"], c["rule"])
        for c in journal.changed
    ]
    section("still changed on this host", head, rows)
    section(
        "written by others, left alone",
        ("KNOB", "ORIGINAL", "OURS", "THEIRS"),
        [(f["knob"], f["original"], f["value"], f["found"]) for f in journal.foreign],
    )
    for line in journal.damage:
        print(show.wrapped(f"  journal  {line}", 11))
    if command:
        sure = journal.changed or daemon.state == "hung"
        print(f"\nto put {'it back' if sure else 'back what may be left'}:  {show.heading(command)}")
    else:
        print("  nothing of tuned-spec is left changed on this host")


def section(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        print(f"\n{show.heading(title)}")
        print(show.table(rows, head, indent=2))


def print_rejected(counts: Mapping[str, int]) -> None:
    if counts:
        from tuned_spec.sense.gauges import REASONS  # late: a healthy host has none

        rows = [(str(n), REASONS.get(why, why)) for why, n in counts.items()]
        section("samples refused", ("TIMES", "WHY"), rows)


def print_counts(title: str, counts: Mapping[str, int]) -> None:
    most = [item for item in sorted(counts.items(), key=lambda item: -item[1]) if item[1]]
    if most:
        print("\n" + show.wrapped(f"{title}: " + ", ".join(f"{name} {n}" for name, n in most), 2))


def print_judged(judged: Judged, trouble: str) -> None:
    if trouble:
        print(f"\n{show.wrapped(trouble, 2)}")
        return
    print(f"\n{show.heading('verdicts on record')}: {judged.judged}, {judged.kept} kept", end="")
    print(f", {judged.undone} of these undone by a later verdict" if judged.kept else "")
    if judged.alpha is not None:
        bound = (
            f"; of the {judged.kept} kept at most {show.number(judged.expected_false)}" if judged.kept else ""
        )
        text = f"at most {judged.alpha:.0%} of guesses without effect are confirmed{bound} "
        text += "(bound by design, not measured)"
        print(show.wrapped(f"  false confirmations: {text}", 4))


def print_models(models: Models) -> None:
    if models == Models():
        return
    rows = []
    for name, sum_ in (("last hour", models.hour), ("last day", models.day)):
        cost = show.number(sum_.cost) if sum_.cost else "-"
        rows.append((name, str(sum_.calls), str(sum_.tokens_in), str(sum_.tokens_out), cost))
    section("models were asked", ("IN THE", "CALLS", "TOKENS IN", "OUT", "COST"), rows)
    if models.reviewed:
        share, total = models.unasked / models.reviewed, show.count(models.reviewed, "verdict")
        print(f"  of {total} with a model's word {share:.0%} came without a call")
