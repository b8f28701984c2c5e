"""`status`: what is running, changed, refused and on trial; also after the daemon died."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tuned_spec.cli import live, show
from tuned_spec.ledger.history import Entry
from tuned_spec.model import Frozen

NOT_RUNNING = 6  # and nothing left to put back
JUDGED = ("verdict", "applied", "confirmed", "overwritten")
LEFT = 1  # something is changed and nobody minds it, or the daemon hangs

Json = dict[str, object]


def main(args: argparse.Namespace) -> int:
    daemon = live.daemon(args.runtime_dir)
    entries, trouble = live.history(args.state_dir, kinds=JUDGED, limit=2000)
    last = live.Last() if trouble else live.last(args.state_dir, running=daemon.state != "stopped")
    document: Json = {"v": 1, "command": "status", "state": daemon.state, "pid": daemon.pid}
    document |= {"last": last, "history_error": trouble}
    code = 0
    if daemon.state == "running":
        document |= {"status": daemon.status}
        alpha = daemon.status.get("alpha")
    else:
        journal = live.journal(args.runtime_dir)
        refusals, _ = live.history(args.state_dir, kinds=("refused",))
        document |= {"journal": journal, "refusals": Counter(str(e.data.get("code")) for e in refusals)}
        left = bool(journal.changed or journal.damage)
        document |= {
            "restore": live.restore_command(args.runtime_dir) if left or daemon.state == "hung" else ""
        }
        code = LEFT if left or daemon.state == "hung" else NOT_RUNNING
        alpha = None
    judged = judge(entries, alpha if isinstance(alpha, float) else None)
    document |= {"judged": judged}
    if args.json:
        show.json_out(document)
    elif daemon.state == "running":
        print_running(daemon.status, judged, trouble)
    else:
        print_dead(daemon, last, journal, document, judged, trouble, args.state_dir)
    return code


class Judged(Frozen, frozen=True):
    """What the history says of the verdicts so far, and what may be said of wrong confirmations.

    `expected_false` is an upper bound, not a measurement: at most alpha of all judged guesses, had every
    one of them been without effect. `undone` were confirmed, and a later verdict kept the value of before.
    """

    judged: int
    kept: int
    undone: int
    alpha: float | None
    expected_false: float | None


def judge(entries: list[Entry], alpha: float | None) -> Judged:
    before: dict[str, Mapping[str, object]] = {}
    kept: list[Entry] = []
    undone = set()
    for entry in entries:
        if entry.kind == "applied":
            before.setdefault(entry.trial, _by_knob(entry.data.get("before")))
        elif entry.kind in ("confirmed", "overwritten"):
            now = _by_knob(entry.data.get("writes"))
            for old in kept:
                was = before.get(old.trial, {})
                if any(knob in was and was[knob] == value for knob, value in now.items()):
                    undone.add(old.trial)
            kept.append(entry)
    count = sum(e.kind == "verdict" for e in entries)
    bound = None if alpha is None else min(float(len(kept)), alpha * count)
    return Judged(count, len(kept), len(undone), alpha, bound)


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


class Status(msgspec.Struct):
    """The daemon's answer, as far as it is printed; what a later daemon adds is passed over."""

    pid: int
    mode: str
    policy: list[str]
    since_s: float = 0.0
    actor: Actor = msgspec.field(default_factory=Actor)
    open: list[OpenTrial] = []
    held: list[Held] = []
    foreign: list[Foreign] = []
    refusals: dict[str, int] = {}
    rejected_samples: dict[str, int] = {}
    metrics: dict[str, float] = {}
    inert: list[Inert] = []
    tick_s: float = 0.0
    paused: bool = False
    journal_ok: bool = True
    writer_watch: str = ""


def print_running(reply: Json, judged: Judged, trouble: str) -> None:
    status = msgspec.convert(reply, Status)
    state = show.paint("running", "green") + (show.paint(", paused", "yellow") if status.paused else "")
    print(f"tuned-spec {state}: process {status.pid} for {show.span(status.since_s)}")
    print(f"  mode     {status.mode}, policy {' + '.join(status.policy)}, a tick each {status.tick_s:g} s")
    actor = status.actor
    word = f"alive, process {actor.pid}" if actor.alive else show.paint("not alive", "red")
    if status.mode == "observe" and not actor.alive:
        word = "not needed (observing)"
    again = f", {actor.restarts} restarts" if actor.restarts else ""
    print(f"  actor    {actor.kind}: {word}{again}")
    if not status.journal_ok:
        print(show.paint("  journal  cannot be written: no new changes, reverts still work", "red"))
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
    section("inert here", ("RULE", "WHY"), [(i.rule, i.reason) for i in status.inert])
    print_counts("refusals", status.refusals)
    print_counts("rejected samples", status.rejected_samples)
    print_judged(judged, trouble)


def print_dead(
    daemon: live.Daemon,
    last: live.Last,
    journal: live.Journal,
    document: Json,
    judged: Judged,
    trouble: str,
    state_dir: Path,
) -> None:
    now = time.time()
    if daemon.state == "hung":
        words = f"process {daemon.pid} holds the lock but does not answer"
        print(show.wrapped(f"tuned-spec hung: {words}; `restore` ends it and puts everything back", 2))
    elif last.seen:
        seen = f"last seen {show.when(last.seen, now)}, {show.span(now - last.seen)} ago"
        print(show.wrapped(f"tuned-spec not running ({seen}, ended by {last.ended})", 2))
        print(f"  it was   {last.mode}, policy {' + '.join(last.policy)}, process {last.pid}")
    else:
        nothing = "no run is on record" if not trouble else "the history cannot be read"
        print(show.wrapped(f"tuned-spec not running ({nothing} in {state_dir})", 2))
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
    if document["restore"]:
        print(f"\nto put it back:  {show.heading(str(document['restore']))}")
    elif not journal.changed:
        print("  nothing of tuned-spec is left changed on this host")
    refusals = document["refusals"]
    print_counts("refusals on record", refusals if isinstance(refusals, dict) else {})
    print_judged(judged, trouble)


def section(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if rows:
        print(f"\n{show.heading(title)}")
        print(show.table(rows, head, indent=2))


def print_counts(title: str, counts: Mapping[str, int]) -> None:
    if counts:
        most = sorted(counts.items(), key=lambda item: -item[1])
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
