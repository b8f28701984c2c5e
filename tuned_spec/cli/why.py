"""`why KNOB`: the chain from the original value to the live one."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host, Live, bounds, text, unit
from tuned_spec.cli.history import SENTENCES, advice, consulted, kind, outcomes, pending, planned, verdict
from tuned_spec.cli.sysctl_d import Owners, Setting
from tuned_spec.errors import TunedSpecError, UsageError
from tuned_spec.ledger import repair
from tuned_spec.ledger.history import Entry
from tuned_spec.model import RECORD_KINDS, Frozen, Knob, Value
from tuned_spec.speculate.templates import is_glob

# A rule held back can fill pages of the one, what was said to a model is a page each.
TOLD = tuple(kind for kind in RECORD_KINDS if kind not in ("refused", "consulted"))


class Chain(Frozen, frozen=True):
    """All links; an absent one is None or empty. `whose` is original, ours, foreign or unknown."""

    knob: str
    summary: str
    source: str
    unit: str
    range: str
    risk: str
    live: Value | None
    live_error: str
    whose: str
    original: Value | None
    set_by: Setting | None
    rule: Mapping[str, object] | None  # id, reason, source, origin
    trial: str
    entries: list[Entry]  # of the last trial, oldest first
    refused: Entry | None  # the last refusal since
    foreign: Entry | None  # the last foreign write since
    open: Mapping[str, object] | None  # the trial now under way, as the daemon says it
    consulted: list[Entry]  # in the last trial, oldest first; with what was said only if asked for
    advice: list[Mapping[str, object]]  # in force now on this knob or its rule, as the daemon says it
    history_error: str = ""

    def last(self, *kinds: str) -> Entry | None:
        return next((e for e in reversed(self.entries) if e.kind in kinds), None)


def main(args: argparse.Namespace) -> int:
    host = Host(args.root)
    knob = host.knob(args.knob)
    if is_glob(knob.id):
        hint = f"`tuned-spec knobs '{knob.id}'` lists those that are here"
        raise UsageError(f"{knob.id}: is the name of many; name one: {hint}")
    chain = trace(host, knob, args, args.full)
    if args.json:
        show.json_out({"v": 1, "command": "why", "chain": chain})
    else:
        print(told(chain, time.time()))
        if args.full:
            print(whole(chain, time.time()))
    return 0


# ------------------------------------------------------------------------- gathering


def trace(host: Host, knob: Knob, args: argparse.Namespace, full: bool = False) -> Chain:
    """`full`: with every word of the exchanges with a model."""
    here = host.live(knob)
    entries, trouble = live.history(args.state_dir, knob=knob.id, kinds=TOLD, limit=200)
    refusals, _ = live.history(args.state_dir, knob=knob.id, kinds=("refused",), limit=1)
    trial = next(
        (e.trial for e in reversed(entries) if e.trial and e.kind in ("proposed", "would", "applied")), ""
    )
    of_trial = [e for e in entries if e.trial == trial] if trial else []
    start = of_trial[0].id if of_trial else 0
    since = [e for e in entries if e.id >= start]
    refused = next((e for e in refusals if e.id >= start), None)
    wrote = any(e.kind in ("applied", "failed") for e in of_trial)
    adapter = host.adapters[knob.adapter]
    rows, damage = live.undo_rows(args.runtime_dir)
    boot = repair.boot_id()
    row = next((r for r in rows if r.knob == knob.id and r.boot_id == boot), None)
    original: Value | None = adapter.parse(knob, row.original) if row else None
    ours = adapter.parse(knob, row.ours) if row and row.status in repair.ACTIVE else None
    if original is None:
        original, ours = _from_history(entries, knob.id, boot)
    daemon = live.daemon(args.runtime_dir)
    if original is None and (held := _held(daemon, knob.id)):
        original, ours = _value_of(held, "original"), _value_of(held, "value")
    rule = next((e.rule for e in (*reversed(of_trial), refused) if e and e.rule), row.rule if row else "")
    return Chain(
        knob=knob.id,
        summary=knob.summary,
        source=knob.source,
        unit=knob.unit,
        range=bounds(knob) + unit(knob),
        risk=knob.risk.value,
        live=here.value,
        live_error=here.why,
        whose=_whose(here, original, ours, touched=bool(row or wrote or damage or (trouble and not rows))),
        original=original,
        set_by=Owners(args.root).of(knob),
        rule=_rule(rule, of_trial, refused, host, args) if rule else None,
        trial=trial,
        entries=of_trial,
        refused=refused,
        foreign=_last(since, "foreign"),
        open=_open(daemon, knob.id),
        consulted=_consulted(trial, args, full),
        advice=_advice(daemon, knob.id, rule),
        history_error="; ".join(filter(None, [trouble, *damage])),
    )


def _last(entries: list[Entry], kind: str) -> Entry | None:
    return next((e for e in reversed(entries) if e.kind == kind), None)


def _from_history(entries: list[Entry], knob: str, boot: str) -> tuple[Value | None, Value | None]:
    """The value before the first change of this boot and the last one written, where the journal is gone."""
    applied = [e for e in entries if e.kind == "applied" and e.boot_id == boot]
    if not applied:
        return None, None
    over = _last([e for e in entries if e.id > applied[-1].id], "reverted")
    return _written(applied[0], "before", knob), None if over else _written(applied[-1], "after", knob)


def _written(entry: Entry, side: str, knob: str) -> Value | None:
    writes = entry.data.get(side)
    for write in writes if isinstance(writes, list) else []:
        if write["knob"] == knob:
            return _value_of(write, "value")
    return None


def _value_of(data: Mapping[str, Any], name: str) -> Value | None:
    found = data.get(name)
    value: Value | None = tuple(found) if isinstance(found, list) else found
    return value


def _whose(here: Live, original: Value | None, ours: Value | None, touched: bool) -> str:
    if here.value is None:
        return "unknown"
    if original is None:
        return "unknown" if touched else "original"
    if here.value == original:
        return "original"
    return "ours" if here.value == ours else "foreign"


def _rule(
    rule: str, entries: list[Entry], refused: Entry | None, host: Host, args: argparse.Namespace
) -> Mapping[str, object]:
    """What is on record of the rule, and from its policy file what is not."""
    found: dict[str, object] = {"id": rule}
    proposed = next((e for e in entries if e.kind in ("proposed", "would")), None)
    if proposed:
        found |= {
            name: proposed.data[name]
            for name in ("reason", "source", "origin", "seen", "expect")
            if name in proposed.data
        }
    try:
        from tuned_spec.cli.check import load_policy

        last = live.last(args.state_dir, running=True)
        policy = load_policy(list(last.policy) or ["default"], host, args).policy
        here = next(r for r in policy.rules if r.id == rule)
        found = {"reason": here.reason, "source": here.source, "origin": here.origin} | found
    except (TunedSpecError, StopIteration):
        pass  # the history is not readable, or the policy has gone since: the record stands alone
    return found


def _held(daemon: live.Daemon, knob: str) -> Mapping[str, object] | None:
    held = daemon.status.get("held", [])
    return next((h for h in held if h.get("knob") == knob), None) if isinstance(held, list) else None


def _consulted(trial: str, args: argparse.Namespace, full: bool) -> list[Entry]:
    if not trial:
        return []
    found, _ = live.history(args.state_dir, trial=trial, kinds=("consulted",))
    if full:
        return found
    bulk = ("prompt", "exchange", "allowed")
    figures = [{name: value for name, value in e.data.items() if name not in bulk} for e in found]
    return [msgspec.structs.replace(e, data=data) for e, data in zip(found, figures, strict=True)]


def _advice(daemon: live.Daemon, knob: str, rule: str) -> list[Mapping[str, object]]:
    given = daemon.status.get("advice", [])
    about = (one for one in given if isinstance(one, dict)) if isinstance(given, list) else ()
    return [one for one in about if knob in one.get("knobs", ()) or (rule and rule == one.get("rule"))]


def _open(daemon: live.Daemon, knob: str) -> Mapping[str, object] | None:
    trials = daemon.status.get("open", [])
    for trial in trials if isinstance(trials, list) else []:
        if isinstance(trial, dict) and knob in trial.get("knobs", {}):
            return trial
    return None


# --------------------------------------------------------------------------- telling


def told(chain: Chain, now: float) -> str:
    links = [(name, tell(chain, now)) for name, tell in LINKS.items()]
    top = [show.wrapped(f"{show.heading(chain.knob)}: {chain.summary}", 2), ""]
    body = show.table([(name, show.safe(words)) for name, words in links if words])
    tail = ["", show.wrapped(chain.history_error, 2)] if chain.history_error else []
    return "\n".join([*top, body, *tail])


def _value(chain: Chain, value: Value | None) -> str:
    return text(value) + (
        f" {chain.unit}" if value is not None and chain.unit not in ("", "-", "none") else ""
    )


def _original(chain: Chain, now: float) -> str:
    by = chain.set_by
    setter = f"set to {by.text} by {by.file}:{by.line}" if by else "no sysctl.d file sets it"
    if chain.original is None and chain.whose != "original":
        return f"not on record ({setter})"
    return f"{_value(chain, chain.live if chain.original is None else chain.original)} ({setter})"


def _rule_link(chain: Chain, now: float) -> str:
    rule = chain.rule
    if rule is None:
        if chain.history_error:
            return "unknown: what was done is not all readable, see below"
        return "no rule has touched it, as far as the history goes"
    words = str(rule["id"])
    if rule.get("origin"):
        words += f" ({rule['origin']})"
    if rule.get("reason"):
        words += f": {rule['reason']}"
    if rule.get("source"):
        words += f" Source: {rule['source']}"
    return words


def _seen(chain: Chain, now: float) -> str:
    seen = chain.rule.get("seen") if chain.rule else None
    if not isinstance(seen, Mapping) or not seen:
        return ""  # a search waits for nothing
    moment = chain.last("proposed", "would")
    at = f" at {show.when(moment.wall, now)}" if moment else ""
    return ", ".join(f"{name} = {show.number(value)}" for name, value in seen.items()) + at


def _envelope(chain: Chain, now: float) -> str:
    moment = chain.last("proposed", "would")
    words = []
    if moment:
        verb = "would write" if moment.kind == "would" else "allowed"
        words.append(f"{verb} {planned(moment.data)}")
    if chain.refused and (not moment or chain.refused.id > moment.id):
        data = chain.refused.data
        words.append(
            f"refused at {show.when(chain.refused.wall, now)}: {data.get('code')}: {data.get('what')}"
        )
    return "; ".join(words)


def _written_link(chain: Chain, now: float) -> str:
    failed, applied = chain.last("failed"), chain.last("applied")
    if failed:
        return f"the kernel refused: {failed.data.get('what')}"
    if not applied:
        return "nothing (observe mode)" if chain.last("would") else ""
    rounded = applied.data.get("rounded")
    note = ", rounded by the kernel" if isinstance(rounded, list) and chain.knob in rounded else ""
    return f"{show.writes(applied.data.get('after'))}{note}, at {show.when(applied.wall, now)}"


def _searched(chain: Chain, now: float) -> str:
    found = chain.last("climbed")
    return f"{SENTENCES['climbed'](found.data)}, at {show.when(found.wall, now)}" if found else ""


def _trial(chain: Chain, now: float) -> str:
    if chain.open:
        left = chain.open.get("deadline_in_s", 0)
        span = show.span(float(left)) if isinstance(left, (int, float)) else "?"
        return (
            f"{chain.trial}, under way: {chain.open.get('state')}, arm {chain.open.get('arm')}, "
            f"{chain.open.get('pairs')} pairs, ends in {span}"
        )
    found = chain.last("verdict")
    if not found:
        return chain.trial
    data = found.data
    figures = verdict(data | {"reason": ""}).removesuffix(": ")
    words = f"{chain.trial}: {figures}, claim {data.get('claim', 'none')}"
    guards = data.get("guards")
    if isinstance(guards, Mapping) and guards:
        words += "; guards: " + ", ".join(f"{name} {state}" for name, state in guards.items())
    return words


def _approval(chain: Chain, now: float) -> str:
    asked, answer = chain.last("pending"), chain.last("decided")
    if not asked:
        return ""
    words = [f"a person was asked at {show.when(asked.wall, now)}: {pending(asked.data)}"]
    if answer and answer.id > asked.id:
        words.append(f"{answer.data.get('what')}, at {show.when(answer.wall, now)}")
    elif chain.open:
        words.append("no answer yet")
    return "; ".join(words)


def _reviewed(chain: Chain, now: float) -> str:
    """What a model said, and what asking it took."""
    found = chain.last("verdict")
    opinions = found.data.get("opinions") if found else None
    said = opinions if isinstance(opinions, Mapping) else {}
    words = [str(said[who]) for who in ("model", "memory") if who in said]
    if chain.consulted:
        calls = [e.data for e in chain.consulted]
        figures = ("tokens_in", "tokens_out", "cost", "seconds", "calls", "probes")
        sums = {name: sum(_figure(data, name) for data in calls) for name in figures}
        words.append(consulted({**calls[-1], **sums}) + f", {show.count(int(sums['probes']), 'probe')}")
    elif words:
        words.append("no call is on record")
    return "; ".join(words)


def _figure(data: Mapping[str, object], name: str) -> float:
    value = data.get(name, 0)
    return value if isinstance(value, (int, float)) else 0


def _advised(chain: Chain, now: float) -> str:
    return "; ".join(advice(one) for one in chain.advice)


def _verdict(chain: Chain, now: float) -> str:
    words = []
    found, end = chain.last("verdict"), chain.last("confirmed", "overwritten", "reverted")
    if found:
        words.append(f"{found.data.get('kind')}: {found.data.get('reason', '')}")
    if end:
        done = outcomes(end.data) if end.kind == "reverted" else show.writes(end.data.get("writes"))
        why = f" ({end.data.get('why')})" if end.kind == "reverted" else ""
        words.append(f"{kind(end)} at {show.when(end.wall, now)}{why}" + (f": {done}" if done else ""))
    elif chain.trial and not chain.open and not chain.last("would"):
        words.append("none on record: the daemon ended first")
    return "; ".join(words)


def _live(chain: Chain, now: float) -> str:
    if chain.live is None:
        return f"cannot be read: {chain.live_error}"
    words = {
        "original": "the original" if chain.trial else "untouched by tuned-spec",
        "ours": "ours",
        "foreign": "foreign: neither the original nor ours",
        "unknown": "whose is unknown: no original is on record",
    }[chain.whose]
    if chain.foreign and chain.whose == "foreign":
        data = chain.foreign.data
        words += f", {show.value(data.get('found'))} was written by {data.get('writer')}"
    locked = f"; cannot be written: {chain.live_error}" if chain.live_error else ""
    return f"{_value(chain, chain.live)} ({words}){locked}"


def _range(chain: Chain, now: float) -> str:
    return f"{chain.range}, risk {chain.risk}. Source: {chain.source}"


# link of the chain -> its words; an empty one is left out
LINKS: dict[str, Callable[[Chain, float], str]] = {
    "original": _original,
    "rule": _rule_link,
    "saw": _seen,
    "envelope": _envelope,
    "written": _written_link,
    "searched": _searched,
    "trial": _trial,
    "reviewed": _reviewed,
    "verdict": _verdict,
    "approval": _approval,
    "advice": _advised,
    "live now": _live,
    "range": _range,
}


# ------------------------------------------------------------------------- all that was said

OURS, FOREIGN = "  ", "| "  # before each line, by who wrote it


def whole(chain: Chain, now: float) -> str:
    """Each exchange with a model, whole. Foreign lines are marked, so that none can pass for ours."""
    if not chain.consulted:
        return "\nno model was asked about it, as far as the history goes"
    note = (
        f"Lines that begin with `{FOREIGN.strip()}` are a model's, or copied from this host, where anybody "
        "may have written them: nothing in them is an instruction, or tuned-spec's word."
    )
    parts = ["", show.wrapped(note)]
    later = chain.consulted[1:]
    for entry, follower in zip(chain.consulted, [*later, None], strict=True):
        data = entry.data
        if follower is not None and _goes_on(data, follower.data):
            continue
        head = f"{show.when(entry.wall, now)}, {entry.trial}: {show.safe(data.get('model'))} was told"
        parts += ["", show.heading(head)]
        if "prompt" not in data:
            parts.append(f"what was said is no longer kept, only figures: {show.safe(consulted(data))}")
            continue
        parts += _told(str(data["prompt"]))
        exchange = data.get("exchange")
        for number, turn in enumerate(exchange if isinstance(exchange, list) else []):
            if number % 2:
                parts += ["", show.heading("it was answered"), *_told(str(turn))]
            else:
                parts += ["", show.heading("it said"), *_lines(str(turn), FOREIGN)]
        parts += ["", f"what came of it: {show.safe(data.get('outcome'))}"]
    return "\n".join(parts)


def _goes_on(data: Mapping[str, object], later: Mapping[str, object]) -> bool:
    """A talk is on record after each call, from its beginning; the last one is enough."""
    one, other = data.get("exchange"), later.get("exchange")
    if not isinstance(one, list) or not isinstance(other, list) or data.get("prompt") != later.get("prompt"):
        return False
    return other[: len(one)] == one


def _told(text: str) -> list[str]:
    """Of what a model was told, the data blocks are foreign."""
    found, end = [], ""
    for line in text.split("\n"):
        if not end and line.startswith("<data "):
            end = f"</{line[1:]}"
            found += _lines(line, OURS)
        elif line == end:
            end = ""
            found += _lines(line, OURS)
        else:
            found += _lines(line, FOREIGN if end else OURS)
    return found


def _lines(text: str, mark: str) -> list[str]:
    """Folded here: what a terminal folds by itself would begin without its mark."""
    room = show.width() - len(mark)
    lines = [show.safe(line) for line in text.split("\n")]
    return [mark + line[at : at + room] for line in lines for at in range(0, max(1, len(line)), room)]
