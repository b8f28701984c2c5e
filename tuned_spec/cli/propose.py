"""`propose`: a change of one's own, put on trial like a rule's guess, and what comes of it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host
from tuned_spec.cli.control import REFUSED, Refused, silence
from tuned_spec.cli.history import outcomes, verdict
from tuned_spec.errors import JournalError, UsageError
from tuned_spec.knobs.facts import host_facts
from tuned_spec.knobs.instances import misnamed
from tuned_spec.ledger.history import Entry, read
from tuned_spec.model import Expect, Frozen, Knob, Offer, Value, Way, Write
from tuned_spec.policy import grammar, units
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.templates import is_glob

T = TypeVar("T")

WENT_BACK = 7  # of --wait: it was tried and is not kept
ANSWER_S = 10.0  # a daemon that is writing to a slow knob answers after it
LOOK_S = 0.5
LATE_S = 5.0  # a trial that is over is in the history by then

KEPT = ("confirmed", "overwritten")
GONE = ("reverted", "failed")
SAID = {
    "confirmed": "kept",
    "overwritten": "kept, with the actor's value",
    "reverted": "not kept",
    "failed": "the kernel refused",
    "over": "not kept",
    "would": "nothing was done: the daemon observes",
}


class Outcome(Frozen, frozen=True):
    """How a trial stands. `outcome`: open, would, or how it ended: confirmed, overwritten, reverted, failed;
    "over" where it ended and the history does not say how. `verdict`: the actor's, with its figures."""

    trial: str
    outcome: str
    knobs: tuple[str, ...] = ()
    rule: str = ""
    state: str = ""  # of an open one: applying, judging, ...
    pairs: int = 0
    deadline_in_s: float = 0.0
    why: str = ""
    verdict: Mapping[str, object] | None = None
    entries: Sequence[Entry] = ()


def main(args: argparse.Namespace) -> int:
    for flag in ("expect", "reason", "source"):
        if not getattr(args, flag).isprintable():
            raise UsageError(f"--{flag}: has a character in it that cannot be printed")
    host = Host(args.root)
    offer = Offer(
        source=args.source,
        writes=writes(args.changes, host, args.root),
        expect=Expect(args.expect, Way(args.way), _understood("--min-effect", args.min_effect, units.share)),
        reason=args.reason,
        guard=tuple(_understood("--guard", text, grammar.guard) for text in args.guard),
        confidence=_understood("--confidence", args.confidence, units.share),
    )
    reply = live.ask(args.runtime_dir, "propose", offer=offer, patience_s=ANSWER_S)
    if reply is None:
        error, code = silence(args.runtime_dir)
    else:
        error, code = ("", 0) if reply.get("ok") else (str(reply.get("error", "refused")), REFUSED)
    if error:
        if not args.json:
            raise Refused(error, code)
        refusal = reply.get("refusal") if reply else None
        show.json_out({"v": 1, "command": "propose", "ok": False, "error": error, "refusal": refusal})
        return code
    trial = str(reply["trial"]) if reply else ""
    said = f"{trial}: {show.writes(msgspec.to_builtins(offer.writes))}"
    observing = bool(reply and reply["mode"] == "observe")
    if not args.json:
        say_yes = live.command(f"approve {trial}", args.runtime_dir)
        _tell(said, say_yes, trial, offer, reply or {}, observing)
    outcome = follow(args, trial, wait=args.wait and not observing)
    if args.json:
        show.json_out(
            {"v": 1, "command": "propose", "ok": True, "error": "", **msgspec.structs.asdict(outcome)}
        )
    elif args.wait and not observing:
        print(show.wrapped(told(outcome), 2))
    waited = args.wait and not observing
    return WENT_BACK if waited and outcome.outcome not in (*KEPT, "open", "would") else 0


def _tell(
    said: str, say_yes: str, trial: str, offer: Offer, reply: Mapping[str, object], observing: bool
) -> None:
    if observing:
        print(f"{said}: allowed, but nothing is done: the daemon observes")
        return
    if reply.get("pending"):
        print(show.wrapped(f"{said}: a person is asked first: {say_yes}", 2))
        return
    left = reply.get("deadline_in_s", 0.0)
    ends = f", back in {show.span(left)} without a verdict" if isinstance(left, float) and left else ""
    judged = f"{offer.expect.metric} is to go {offer.expect.way.value} by {offer.expect.min_effect * 100:g}%"
    print(show.wrapped(f"{said}: on trial, {judged}{ends}", 2))
    print(f"  look: tuned-spec history --trial {trial}; tuned-spec why {offer.writes[0].knob}", flush=True)


def told(outcome: Outcome) -> str:
    """The end of a trial in words, with the figures."""
    words = f"{outcome.trial}: {SAID.get(outcome.outcome, outcome.outcome)}"
    words += f" ({outcome.why})" if outcome.why else ""
    back = next((outcomes(e.data) for e in reversed(outcome.entries) if e.kind == "reverted"), "")
    words += f": {back}" if back else ""
    return words + (f"; verdict: {verdict(outcome.verdict)}" if outcome.verdict else "")


# ------------------------------------------------------------------------ what is proposed


def writes(changes: Sequence[str], host: Host, root: Path) -> tuple[Write, ...]:
    """`KNOB=VALUE` or `KNOB[FIELD]=VALUE`, as a policy's `set` takes it. UsageError names what is wrong."""
    facts = host_facts(root)
    found: dict[str, Value] = {}
    for change in changes:
        target, equals, text = change.rpartition("=")  # a selector of tasks has one of its own
        if not equals or not text.strip():
            raise UsageError(f"{change[:80]!a}: write KNOB=VALUE, like vm.swappiness=10")
        name, bracket, field = target.partition("[")
        knob = one_knob(name, host)
        index = _field(knob, field, change) if bracket else None
        try:
            action = grammar.action(knob, index, f"set {' '.join(text.split())}", facts)
        except Misfit as error:
            raise UsageError(f"{knob.id}: {error}") from None
        if action.only is not None or isinstance(action.value, float):
            raise UsageError(f"{change[:80]!a}: write KNOB=VALUE, like vm.swappiness=10")
        value = action.value if index is None else _with(found.get(knob.id), knob, index, action.value, host)
        found[knob.id] = value
    return tuple(Write(name, value) for name, value in found.items())


def one_knob(name: str, host: Host) -> Knob:
    """The one knob of that name, which is no way out of where knobs are. UsageError: there is none."""
    knob = host.knob(name)
    if knob.per and not knob.instance:
        hint = f"write {knob.id}@NAME; `tuned-spec knobs {knob.id}` lists those that are here"
        raise UsageError(f"{knob.id}: there is one for each {knob.per}; {hint}")
    if wrong := misnamed(knob):
        raise UsageError(f"{knob.id}: {wrong}")
    if is_glob(knob.id):
        raise UsageError(f"{knob.id}: is the name of many; name one: `tuned-spec knobs '{knob.id}'`")
    return knob


def _field(knob: Knob, field: str, change: str) -> int:
    if field.removesuffix("]") not in knob.fields:
        fields = ", ".join(knob.fields) or "none: leave the [...] out"
        raise UsageError(f"{change[:80]!a}: {knob.id} has no such field; there are {fields}")
    return knob.fields.index(field.removesuffix("]"))


def _with(before: Value | None, knob: Knob, index: int, value: Value, host: Host) -> Value:
    """The knob's numbers with one of them changed."""
    here = host.live(knob)
    now = here.value if before is None else before
    if not isinstance(now, tuple) or index >= len(now) or not isinstance(value, int):
        raise UsageError(f"{knob.id}: its other fields cannot be read: {here.why or 'it shows other ones'}")
    return (*now[:index], value, *now[index + 1 :])


def _understood(flag: str, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except Misfit as error:
        raise UsageError(f"{flag}: {error}") from None


# ------------------------------------------------------------------------ what comes of it


def follow(args: argparse.Namespace, trial: str, *, wait: bool) -> Outcome:
    """How the trial stands; with `wait`, once it has ended (Ctrl-C ends the waiting, not the trial)."""
    silent_since: float | None = None
    while True:
        found = stands(args, trial)
        if not wait or found.outcome not in ("open", "over"):
            return found
        if found.outcome == "open":
            silent_since = None
        elif silent_since is None:
            silent_since = time.monotonic()
        elif time.monotonic() > silent_since + LATE_S:
            return found
        time.sleep(LOOK_S)


def stands(args: argparse.Namespace, trial: str) -> Outcome:
    """By the history, and by the daemon as long as it is open. UsageError: nobody knows of it."""
    try:
        entries = read(args.state_dir, trial=trial, limit=None)
    except JournalError:
        entries = []  # a history that cannot be read must not hide that a change is on trial
    opened = live.daemon(args.runtime_dir).status.get("open", [])
    here = [t for t in opened if t.get("trial") == trial] if isinstance(opened, list) else []
    last = next((e for e in reversed(entries) if e.kind in (*KEPT, *GONE, "would")), None)
    judged = next((e for e in reversed(entries) if e.kind == "verdict"), None)
    first = entries[0] if entries else None
    common = Outcome(
        trial=trial,
        outcome="over",
        knobs=first.knobs if first else (),
        rule=first.rule if first else "",
        verdict=judged.data if judged else None,
        entries=entries,
    )
    if here:
        one = here[0]
        return msgspec.structs.replace(
            common,
            outcome="open",
            knobs=tuple(one.get("knobs", ())),
            rule=str(one.get("rule", "")),
            state=str(one.get("state", "")),
            pairs=int(one.get("pairs", 0)),
            deadline_in_s=float(one.get("deadline_in_s", 0.0)),
        )
    if last is None:
        return common
    why = last.data.get("why", last.data.get("what", ""))
    return msgspec.structs.replace(common, outcome=last.kind, why=str(why))
