"""`policy test`: a recorded trace through a policy, on paper: what would it have done, and when?

Nothing is read from this host but the files that are named: the same answer comes out everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuned_spec import paths
from tuned_spec.cli import show
from tuned_spec.cli.catalogue import unknown
from tuned_spec.cli.check import problems
from tuned_spec.errors import PolicyError, UsageError
from tuned_spec.knobs import text
from tuned_spec.knobs.caps import Facts
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.model import Knob, Mode, Value
from tuned_spec.policy.load import load
from tuned_spec.policy.replay import Paper, Proposed, Replay, replay
from tuned_spec.sense import metrics
from tuned_spec.sense.trace import Header, Trace

PAGE = 4096.0  # of a trace that does not tell it


def main(args: argparse.Namespace) -> int:
    path = Path(args.trace)
    trace = Trace(path)
    facts = facts_of(trace.header)
    entries = load_catalogue()
    values = {**trace.header.knobs, **given(args.set or [], Paper(entries, facts))}
    catalogue = Paper(entries, facts, values)
    try:
        policy = load(
            args.policies,
            shipped=paths.shipped_policies(),
            dropins=args.root / paths.DROPINS.relative_to("/"),
            catalogue=catalogue,
            metrics=metrics.known,
            uid_of=lambda user: 0,  # whoever reports a metric, the trace has it
            facts=facts,
            sensed={name: metric.per for name, metric in metrics.METRICS.items()},
        ).policy
    except PolicyError as error:
        return problems(error, args.json, "policy")
    found = replay(policy, trace, catalogue, values, mode=Mode(args.mode), cpus=trace.header.cpus)
    if args.json:
        head = {"v": 1, "command": "policy", "ok": True, "policy": policy.names, "trace": str(path)}
        show.json_out({**head, "header": trace.header, "replay": found})
    else:
        print(page(found, policy.names, path, trace.header))
    return 0


def facts_of(header: Header) -> Facts:
    """What the trace tells of its host, older ones less."""
    return {"ram": float(header.memory_bytes), "cpus": float(header.cpus), "page": PAGE, **header.facts}


def given(pairs: Sequence[str], catalogue: Mapping[str, Knob]) -> dict[str, Value]:
    """`KNOB=VALUE` of the command line; the value as the kernel shows it. Raises UsageError."""
    found: dict[str, Value] = {}
    for pair in pairs:
        name, equals, word = pair.rpartition("=")  # a selector of tasks has one of its own
        if not equals:
            raise UsageError(f"--set {pair}: write KNOB=VALUE, like vm.swappiness=60")
        if name not in catalogue:
            raise UsageError(f"--set {pair}: {unknown(name, catalogue)}")
        try:
            found[name] = text.parse(catalogue[name], word)
        except ValueError as error:
            raise UsageError(f"--set {pair}: {error}; write it as the kernel shows it") from error
    return found


def page(found: Replay, names: Sequence[str], path: Path, header: Header) -> str:
    lines = [
        f"{' + '.join(names)} on {path}, mode {found.mode.value}: "
        f"{show.count(len(found.proposed), 'proposal')} in "
        f"{show.count(found.observations, 'observation')} over {show.span(found.seconds)}",
        f"  kernel {header.kernel}, {header.cpus} CPUs, {header.memory_bytes / 2**30:.1f} GiB",
    ]
    if header.note:
        lines.append(show.wrapped(f"  {header.note}", 2))
    did = "would have proposed" if found.mode is Mode.OBSERVE else "proposed, and nobody answered"
    rows = [(_at(p.t), p.rule, _change(p), _seen(p.seen)) for p in found.proposed]
    lines += _section(did, rows, ("AT", "RULE", "CHANGE", "SEEN"))
    refusals = [(_at(r.t), r.rule, r.code, " ".join(filter(None, (r.knob, r.what)))) for r in found.refused]
    lines += _section("refused by the envelope", refusals, ("AT", "RULE", "CODE", "WHY"))
    asked = [(knob, ", ".join(rules)) for knob, rules in found.unknown.items()]
    lines += _section(
        "not told by the trace: say `--set KNOB=VALUE` for a proposal", asked, ("KNOB", "ASKED FOR BY")
    )
    deaf = [(rule, ", ".join(names)) for rule, names in found.deaf.items()]
    lines += _section("cannot hold: the trace does not have the metrics", deaf, ("RULE", "METRICS"))
    if found.quiet:
        lines += ["", show.wrapped(f"never held: {', '.join(found.quiet)}", 2)]
    return "\n".join(lines)


def _section(title: str, rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    return ["", show.heading(title), show.table(rows, head, indent=2)] if rows else []


def _at(t: float) -> str:
    return f"{t:.1f}s"


def _change(proposed: Proposed) -> str:
    before = {write.knob: write.value for write in proposed.before}
    pairs = [f"{w.knob} {show.value(before[w.knob])} -> {show.value(w.value)}" for w in proposed.writes]
    return ", ".join(pairs)


def _seen(seen: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {show.number(value)}" for name, value in seen.items())
