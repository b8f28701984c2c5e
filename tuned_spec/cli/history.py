"""`history`: what was decided and done, a line each."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import msgspec

from tuned_spec.cli import show
from tuned_spec.ledger.history import Entry, read

Data = Mapping[str, object]
FOREIGN = "written by somebody else"  # how the engine ends the reason of such a revert


def main(args: argparse.Namespace) -> int:
    now = time.time()
    since = now - show.seconds(args.since, "--since") if args.since else None
    limit = args.last if args.last > 0 else None
    entries = read(args.state_dir, knob=args.knob, trial=args.trial, limit=limit, since=since)
    if args.json:
        show.json_out({"v": 1, "command": "history", "entries": entries})
    elif not entries:
        print(f"no entries{' match' if args.knob or args.trial or args.since else ''} in {args.state_dir}")
    else:
        head = ("WHEN", "WHAT", "TRIAL", "DETAILS")
        rows = [(show.when(e.wall, now), kind(e), e.trial or "-", sentence(e)) for e in entries]
        print(show.table(rows, head))
    return 0


def kind(entry: Entry) -> str:
    """What happened. A trial that ended because somebody else wrote its knobs has nothing put back."""
    found = entry.data.get("outcomes")
    ends = {o.get("status") for o in found if isinstance(o, Mapping)} if isinstance(found, list) else set()
    theirs = ends == {"foreign"} or (not ends and str(entry.data.get("why")).endswith(FOREIGN))
    return "given up, theirs left" if entry.kind == "reverted" and theirs else entry.kind


def sentence(entry: Entry) -> str:
    """One entry in words; a kind of another version is shown as its data."""
    tell = SENTENCES.get(entry.kind)
    if tell is None:
        return msgspec.json.encode(entry.data).decode()
    words = tell(entry.data)
    about = ", ".join(k for k in entry.knobs if k not in words)
    rule = f" [{entry.rule}]" if entry.rule else ""
    return show.safe(f"{about}{': ' if about and words else ''}{words}{rule}")


def _proposed(data: Data) -> str:
    seen = data.get("seen")
    metrics = ", ".join(f"{n} {show.number(v)}" for n, v in seen.items()) if isinstance(seen, Mapping) else ""
    return planned(data) + (f" on {metrics}" if metrics else "")


def planned(data: Data) -> str:
    """What a proposal would write; a search proposes what stands there, and goes on from it."""
    writes = show.writes(data.get("writes"))
    return f"a search from {writes}" if writes and data.get("writes") == data.get("before") else writes


def _applied(data: Data) -> str:
    rounded = data.get("rounded")
    note = (
        f" (rounded by the kernel: {', '.join(map(str, rounded))})"
        if isinstance(rounded, list) and rounded
        else ""
    )
    return f"{show.writes(data.get('after'))}, before {show.writes(data.get('before'))}{note}"


def verdict(data: Data) -> str:
    """A verdict with its figures."""
    text = str(data.get("kind", "?"))
    if data.get("effect") is not None:
        text += f", effect {show.percent(data['effect'])}"
        if data.get("low") is not None:
            text += f" ({show.percent(data['low'])} to {show.percent(data.get('high'))})"
    if data.get("e_value") is not None:
        text += f", e-value {show.number(data['e_value'])}"
    if data.get("pairs"):
        text += f", {data['pairs']} pairs"
    return f"{text}: {data.get('reason', '')}"


def pending(data: Data) -> str:
    """What a person is asked."""
    left = data.get("left_s")
    span = f", {show.span(left)} to answer" if isinstance(left, int | float) else ""
    where = f"the {data.get('waits_at')} value is in place meanwhile{span}"
    return f"{show.moves(data.get('moves'))}: {data.get('what')} ({where})"


def outcomes(data: Data) -> str:
    found = data.get("outcomes")
    if not isinstance(found, list):
        return ""
    return ", ".join(
        f"{o.get('knob')} {o.get('status')}"
        + (f" ({o['why']})" if o.get("why") else f" to {o.get('original')}")
        for o in found
        if isinstance(o, Mapping)
    )


def _reverted(data: Data) -> str:
    done = outcomes(data)
    return str(data.get("why", "")) + (f": {done}" if done else "")


def _start(data: Data) -> str:
    policy = data.get("policy")
    names = "+".join(map(str, policy)) if isinstance(policy, list) else str(policy)
    return f"process {data.get('pid')}, {data.get('mode')}, policy {names}, actor {data.get('actor')}"


def _refused(data: Data) -> str:
    times = data.get("times", 1)
    return f"{data.get('code')}: {data.get('what')}" + (f" ({times} times)" if times != 1 else "")


def _fault(data: Data) -> str:
    return str(data.get("what", "")) + (f"; {data['hint']}" if data.get("hint") else "")


def consulted(data: Data) -> str:
    """What a model was asked for, and what that took."""
    calls, seconds = data.get("calls", 1), data.get("seconds", 0.0)
    text = f"{data.get('model')}: {data.get('outcome')}; {took(data)}"
    text += f" in {show.span(seconds)}" if isinstance(seconds, (int, float)) else ""
    return text + (f", {calls} calls" if calls != 1 else "")


def took(data: Data) -> str:
    """Tokens and money; there is a cost only where prices are configured."""
    text = f"{data.get('tokens_in', 0)} tokens in, {data.get('tokens_out', 0)} out"
    return text + (f", cost {show.number(data['cost'])}" if data.get("cost") else "")


def advice(one: Data) -> str:
    """A line of the daemon's on advice in force."""
    left, reason = one.get("left_s"), one.get("reason")
    text = f"{one.get('what')}, for {show.span(left if isinstance(left, (int, float)) else 0.0)} more"
    text += "" if one.get("holds") else " (not under the present workload)"
    return f"{text}, by {one.get('by')} in {one.get('trial')}" + (f": {reason}" if reason else "")


def _advised(data: Data) -> str:
    parts = []
    for one in _list(data, "taken"):
        if isinstance(one, Mapping) and isinstance(until := one.get("until"), (int, float)):
            parts.append(f"{one['what']} until {time.strftime('%Y-%m-%d %H:%M', time.localtime(until))}")
    parts += map(str, _list(data, "not_taken"))
    parts += [f"dropped: {what}" for what in _list(data, "dropped")]
    return f"{data.get('by')}: " + ("; ".join(parts) or "there was no advice")


def _list(data: Data, name: str) -> list[object]:
    found = data.get(name)
    return found if isinstance(found, list) else []


def _probed(data: Data) -> str:
    args = data.get("args")
    asked = ", ".join(map(str, args.values())) if isinstance(args, Mapping) else ""
    what = data.get("error") or f"{data.get('bytes')} bytes in {show.number(data.get('seconds'))} s"
    return f"asked for {data.get('name')}{f' ({asked})' if asked else ''}: {what}"


# kind (a key of model.RECORD_KINDS) -> its data in words
SENTENCES: dict[str, Callable[[Data], str]] = {
    "start": _start,
    "stop": _reverted,
    "would": _proposed,
    "proposed": _proposed,
    "suggested": lambda data: (
        f"{show.writes(data.get('writes')) or 'nothing'} for {data.get('metric')}: {data.get('reason')}"
    ),
    "refused": _refused,
    "applied": _applied,
    "failed": lambda data: str(data.get("what", "")),
    "verdict": verdict,
    "pending": pending,
    "decided": lambda data: str(data.get("what", "")),
    "consulted": consulted,
    "probed": _probed,
    "advised": _advised,
    "ignored": lambda data: str(data.get("what", "")),
    "confirmed": lambda data: show.writes(data.get("writes")),
    "overwritten": lambda data: show.writes(data.get("writes")),
    "reverted": _reverted,
    "foreign": lambda data: (
        f"{show.value(data.get('found'))} by {data.get('writer')}, ours was {show.value(data.get('ours'))}"
    ),
    "workload": lambda data: str(data.get("what", "")),
    "climbed": lambda data: (
        f"{show.writes(data.get('writes'))} after {data.get('windows')} windows: {data.get('what')}"
    ),
    "actor": lambda data: str(data.get("what", "")),
    "fault": _fault,
}
