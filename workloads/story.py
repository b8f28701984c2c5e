"""What happened in the demo, told in words and as a page: history entries in, sentences and a picture out.

Owns the wording and the selection. Decides nothing and touches no knob; everything said here was read from
the daemon's history, from the loads' own figures, or from the knob files by the witness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from tuned_spec.ledger.history import Entry
from tuned_spec.model import Way
from tuned_spec.report.picture import Event, Panel, Picture, Table, Window
from workloads.witness import Witness

ENDS = ("confirmed", "overwritten", "reverted")
LABELS = {"held": "in force", "left": "left", "theirs": "theirs"}  # short, for shades; the key says it whole


class Act(NamedTuple):
    """One load, the guess it provokes, and how to speak of it."""

    module: str
    rule: str
    knob: str
    metric: str
    title: str
    axis: str
    unit: str
    better: Way


URGENT = Act(
    "workloads.urgent",
    "urgent-first",
    "net.ipv4.tcp_notsent_lowat",
    "urgent_p95_ms",
    "Urgent messages on a busy connection",
    "wait, p95 of 0.1 s",
    "ms",
    Way.DOWN,
)
PING = Act(
    "workloads.pingpong",
    "poll-before-halt",
    "haltpoll.guest_halt_poll_ns",
    "ping_p95_us",
    "Round trips between two processes",
    "round trip, p95 of 0.1 s",
    "us",
    Way.DOWN,
)
BULK = Act(
    "workloads.bulk",
    "small-send-buffers",
    "net.ipv4.tcp_wmem",
    "bulk_mb_per_s",
    "Bulk transfers over loopback",
    "throughput",
    "MB/s",
    Way.UP,
)


class Said(NamedTuple):
    """One sentence of the story; `act` is None for what concerns the whole."""

    t: float
    text: str
    tone: str
    act: Act | None = None


def tell(entry: Entry, acts: Sequence[Act], entries: Sequence[Entry]) -> Said | None:
    """One history entry, of all there are, as a sentence; None for what a viewer need not see."""
    act = next((a for a in acts if a.rule == entry.rule), None)
    data: Mapping[str, Any] = entry.data
    match entry.kind:
        case "would" | "proposed":
            seen = ", ".join(f"{name} {value:.4g}" for name, value in data["seen"].items())
            verb = "would set" if entry.kind == "would" else "guess:"
            return Said(entry.t, f"{verb} {_writes(data['writes'])}   ({seen})", "changed", act)
        case "verdict":
            tone = "bad" if data["kind"] == "reject" else "good"
            return Said(entry.t, judgement(data, _least(entry.trial, entries)), tone, act)
        case "overwritten":
            return Said(entry.t, f"in force: {_writes(data['writes'])}", "good", act)
        case "reverted":
            back = ", ".join(map(_outcome, data["outcomes"]))
            return Said(entry.t, back or "nothing to put back", "back", act)
        case "failed" | "fault" | "ignored":
            return Said(entry.t, f"{entry.kind}: {data.get('what', '')}", "bad", act)
        case "foreign":
            return Said(
                entry.t, f"{', '.join(entry.knobs)} is {data['found']} by {data['writer']}", "bad", act
            )
    return None


def judgement(verdict: Mapping[str, Any], least: float | None, guess: str = "", total: str = "") -> str:
    """A verdict in words. The figures are the guess's; a still better value is said apart, `total` is its."""
    effect, high = verdict.get("effect"), verdict.get("high")
    if verdict["kind"] != "reject":
        told = f"{guess}: {figures(verdict)}" if guess else figures(verdict)
        better = ", ".join(_value(w["value"]) for w in verdict.get("writes", ()))
        further = f"; {better} is still better" + (f", {total} in all" if total else "") if better else ""
        return f"confirmed, {told}{further}"
    guarded = any(state.startswith("worse") for state in verdict.get("guards", {}).values())
    if effect is None or least is None or effect >= least or guarded:  # not for want of a gain
        return f"rejected: {verdict['reason']}"
    if high < 0 if high is not None else effect <= -least:  # few pairs have no interval
        return f"rejected: {figures(verdict)}"
    return f"rejected: no gain of {least:.0%} shown ({figures(verdict)})"


def figures(verdict: Mapping[str, Any]) -> str:
    """Effect and interval of a verdict. Positive is better, whichever way the metric goes."""
    if verdict.get("effect") is None:
        return str(verdict["reason"])
    low, high = verdict.get("low"), verdict.get("high")
    interval = f" [{low:+.0%}, {high:+.0%}]" if low is not None and high is not None else ""
    size, word = f"{abs(verdict['effect']):.0%}", "better" if verdict["effect"] >= 0 else "worse"
    told = "no difference" if size == "0%" else f"{size} {word}"
    return f"{told}{interval} in {verdict.get('pairs', 0)} pairs"


def _least(trial: str, entries: Sequence[Entry]) -> float | None:
    """The gain that this trial's rule promised, at least."""
    proposed = next((e for e in entries if e.trial == trial and e.kind == "proposed"), None)
    expect: Any = proposed.data.get("expect") if proposed else None
    return expect["min_effect"] if expect else None


def _outcome(outcome: Mapping[str, Any]) -> str:
    """What became of one knob that was to be put back."""
    knob, original = outcome["knob"], outcome["original"]
    match outcome["status"]:
        case "restored":
            return f"{knob} put back to {original}"
        case "unchanged":
            return f"{knob} already at {original}"
        case "foreign":
            return f"{knob} left at {outcome['found']}, which somebody else wrote"
        case _:
            return f"{knob} {outcome['status']}: {outcome['why']}"


def _writes(writes: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{w['knob']} = {_value(w['value'])}" for w in writes)


def _value(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class Result(NamedTuple):
    """What one act came to. `verdict` None: no verdict was given, and `end` says what there was."""

    act: Act
    verdict: Mapping[str, Any] | None
    end: str  # the last of ENDS, "would", or "no guess"
    before: float  # medians of the metric: before the guess, and while changed; NaN if there is none
    after: float
    new: str  # the value that the guess, or the actor, wrote; as the kernel showed it
    guess: str = ""  # the guess alone
    least: float | None = None  # the gain it promised


def result(act: Act, entries: Sequence[Entry], witness: Witness) -> Result:
    """Read from the history what became of an act, and from the samples what it was like."""
    mine = [e for e in entries if e.rule == act.rule]
    first = next((e for e in mine if e.kind in ("proposed", "would")), None)
    if first is None:
        return Result(act, None, "no guess", _median(witness, act, [(0.0, math.inf)]), math.nan, "")
    trial = [e for e in mine if e.trial == first.trial]
    verdict = next((e.data for e in trial if e.kind == "verdict"), None)
    end = next((e.kind for e in trial[::-1] if e.kind in (*ENDS, "would")), "still open")
    spans = changed_spans(act, witness)
    guessed: Any = first.data["writes"]
    guess = ", ".join(_value(w["value"]) for w in guessed)
    new = spans[-1][2] if spans else guess
    last = [(start, stop) for start, stop, text in spans if text == new]
    before = _median(witness, act, [(0.0, first.t)])
    after = _median(witness, act, last)
    return Result(act, verdict, end, before, after, new, guess, _least(first.trial, entries))


def changed_spans(act: Act, witness: Witness) -> list[tuple[float, float, str]]:
    """From when to when the knob was not as at the start, and what it was."""
    trace = witness.trace.get(act.knob, [])
    ends = [t for t, _ in trace[1:]] + [math.inf]
    original = witness.start.get(act.knob)
    return [(t, end, text) for (t, text), end in zip(trace, ends, strict=True) if text != original]


def _median(witness: Witness, act: Act, spans: Sequence[tuple[float, float]]) -> float:
    """Of the metric inside these spans, without the first 0.3 s of each, where old queues drain."""
    settle_s = 0.3
    values = [
        v
        for t, v in list(witness.samples.get(act.metric, []))
        if any(start + settle_s <= t < stop for start, stop in spans)
    ]
    return median(values) if values else math.nan


def quantity(value: float, unit: str) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"


# -------------------------------------------------------------------------------- the summary

HEAD = ("guess", "knob", "from", "to", "metric before", "changed", "outcome")


def rows(results: Sequence[Result], witness: Witness) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            r.act.rule,
            r.act.knob,
            witness.start.get(r.act.knob, "absent"),
            r.new or "-",
            quantity(r.before, r.act.unit),
            quantity(r.after, r.act.unit),
            outcome(r),
        )
        for r in results
    )


def outcome(r: Result) -> str:
    if r.verdict is not None:
        change = r.after / r.before - 1 if r.before else math.nan
        total = "" if math.isnan(change) else f"{abs(change):.0%} {'less' if change < 0 else 'more'}"
        return judgement(r.verdict, r.least, r.guess, total)
    return {
        "would": "observed only: nothing was written",
        "reverted": "put back without a verdict",
        "still open": "stopped before a verdict, and put back",
    }.get(r.end, r.end)


def headline(results: Sequence[Result], proof: str) -> str:
    """The result in one line, whatever it was."""
    parts = []
    for r in results:
        name = r.act.title[0].lower() + r.act.title[1:]
        if r.verdict is None:
            parts.append(f"{name}: {outcome(r)}")
        elif r.verdict["kind"] == "reject":
            parts.append(f"a guess about {name} rejected")
        else:
            was, now = quantity(r.before, r.act.unit), quantity(r.after, r.act.unit)
            parts.append(f"{name}: {now} instead of {was}")
    line = "; ".join([*parts, proof])
    return line[0].upper() + line[1:]


# --------------------------------------------------------------------------------- the page


def picture(
    title: str,
    notes: Sequence[str],
    story: Sequence[Said],
    results: Sequence[Result],
    states: Mapping[str, Sequence[State]],
    witness: Witness,
    tables: Sequence[Table],
) -> Picture:
    """One panel an act; times are seconds since the first sentence."""
    began = min((said.t for said in story), default=0.0)
    end = max((said.t for said in story), default=0.0)
    panels = []
    for r in results:
        samples = tuple((t - began, v) for t, v in witness.samples.get(r.act.metric, []))
        if not samples:
            continue
        events = tuple(Event(s.t - began, _short(s.text, r.act), s.tone) for s in story if s.act == r.act)
        windows = tuple(
            Window(a - began, b - began, label, tone)
            for a, b, label, tone in shades(witness.trace.get(r.act.knob, []), states[r.act.knob], end)
        )
        panels.append(
            Panel(
                f"{r.act.title}, {r.act.knob}", r.act.axis, r.act.unit, samples, r.act.better, events, windows
            )
        )
    return Picture(
        title, tuple(notes), tuple(panels), (Table("What was guessed", HEAD, rows(results, witness)), *tables)
    )


def _short(text: str, act: Act) -> str:
    """A sentence without what the panel says already: the knob's name, and the metric at that moment."""
    return text.split("   (")[0].replace(f"{act.knob} = ", "").replace(f"{act.knob} ", "")


class State(NamedTuple):
    """From `t` on, what the knob's value was to tuned-spec: none, trial, held, left (by a kill) or theirs."""

    t: float
    name: str


def states(knob: str, entries: Sequence[Entry], killed: float | None) -> list[State]:
    """What the history says of a knob over time; `killed` is when the daemon was, if it was."""
    found = [State(-math.inf, "none")]
    held = False
    for entry in sorted((e for e in entries if knob in e.knobs), key=lambda e: e.t):
        match entry.kind:
            case "proposed":
                found.append(State(entry.t, "trial"))
            case "confirmed" | "overwritten":
                held = True
                found.append(State(entry.t, "held"))
            case "reverted":
                held = held and bool(entry.trial)  # a trial goes back to what was confirmed before it
                found.append(State(entry.t, "held" if held else "none"))
            case "foreign":
                held = False
                found.append(State(entry.t, "theirs"))
    if killed is not None:
        found = [state for state in found if state.t < killed] + [State(killed, "left")]
    return found


def shades(
    trace: Sequence[tuple[float, str]], states: Sequence[State], last: float
) -> list[tuple[float, float, str, str]]:
    """The knob's own history as (start, end, label, tone): what its file showed, and what that was.

    A and B are what stood there before a trial and what the trial put first; any third value is a C.
    """
    if not trace:
        return []
    drawn = []
    original = trace[0][1]
    until = [*(state.t for state in states[1:]), last]
    for state, stop in zip(states, until, strict=True):
        old = next((text for t, text in reversed(trace) if t <= state.t), original)
        new = next((text for t, text in trace if t > state.t and text != old), "")
        for (t, text), end in zip(trace, [*(t for t, _ in trace[1:]), last], strict=True):
            a, b = max(t, state.t), min(end, stop)
            if a >= b or state.name == "none" or (state.name != "trial" and text == original):
                continue
            if state.name != "trial":
                drawn.append((a, b, LABELS[state.name], state.name))
            else:
                tone = "a" if text == old else "b" if text == new else "c"
                drawn.append((a, b, tone.upper(), tone))
    return drawn
