"""`plan`: what would be done now and why not, asked of the running daemon or worked out here."""

from __future__ import annotations

import argparse
import os
import time

import msgspec

from tuned_spec import engine
from tuned_spec.cli import live, show
from tuned_spec.cli.catalogue import Host
from tuned_spec.cli.check import asleep, load_policy, problems
from tuned_spec.cli.control import REFUSED, Refused, silence
from tuned_spec.daemon.needs import wanted_metrics
from tuned_spec.engine.events import Looked
from tuned_spec.engine.guessing import knobs_of
from tuned_spec.engine.plan import Checked, Stand, Step, asked, plan
from tuned_spec.errors import PolicyError
from tuned_spec.model import Mode, Observation, Policy, Refusal, Rule, Value
from tuned_spec.sense.sensor import Sense
from tuned_spec.speculate import rules as speculator
from tuned_spec.speculate.rules import RulesMemory
from tuned_spec.speculate.templates import instantiate

ANSWER_S = 5.0
BETWEEN_S = 1.0  # two looks at the host make a rate
DAEMON, HERE = "daemon", "here"


class Plan(msgspec.Struct, frozen=True):
    """The answer; what a later daemon adds is passed over."""

    mode: Mode
    policy: tuple[str, ...]
    steps: tuple[Step, ...]
    paused: bool = False


def main(args: argparse.Namespace) -> int:
    by = DAEMON
    try:
        found = None if args.policies else of_daemon(args)
        if found is None:
            by, found = HERE, of_this_host(args.policies or ["default"], args)
    except PolicyError as error:
        return problems(error, args.json, "plan")
    if args.json:
        show.json_out({"v": 1, "command": "plan", "ok": True, "by": by, **msgspec.structs.asdict(found)})
    else:
        print(told(found, by))
    return 0


def of_daemon(args: argparse.Namespace) -> Plan | None:
    """What the running daemon says; None if none runs. Refused if it is there and does not tell."""
    reply = live.ask(args.runtime_dir, "plan", patience_s=ANSWER_S)
    if reply is None:
        error, code = silence(args.runtime_dir)
        if code == REFUSED:
            raise Refused(error, code)
        return None
    if not reply.get("ok"):
        raise Refused(str(reply.get("error", "refused")), REFUSED)
    return msgspec.convert(reply["plan"], Plan)


# ------------------------------------------------------------------------- without a daemon


def of_this_host(policies: list[str], args: argparse.Namespace) -> Plan:
    """As a daemon with these policies would see the host after one second. Raises PolicyError."""
    host = Host(args.root)
    policy = load_policy(policies, host, args).policy
    rules = instantiate(policy.rules, host.knobs.instances)
    setup = engine.Setup.of(policy, host.knobs, rules, os.cpu_count() or 1, tried_only=True)
    memory = RulesMemory()
    for observation in _observations(policy, args):
        memory, _ = speculator.advance(rules, memory, observation, setup.stale_s)
    state = engine.State(setup=setup, mode=policy.mode, rules=memory, actor_alive=True, t=memory.t)
    looks = {rule.id: _look(rule, host, memory.t) for rule in asked(state)}
    steps = plan(state, looks, dict(asleep(policy, host, args.root)), memory.t)
    return Plan(policy.mode, policy.names, steps)


def _observations(policy: Policy, args: argparse.Namespace) -> list[Observation]:
    sense = Sense(args.root, policy.cgroups, wanted_metrics(policy))
    try:
        first = sense.observe(time.clock_gettime(time.CLOCK_BOOTTIME))
        time.sleep(BETWEEN_S)
        return [first, sense.observe(time.clock_gettime(time.CLOCK_BOOTTIME))]
    finally:
        sense.close()


def _look(rule: Rule, host: Host, t: float) -> Looked:
    """What its knobs hold. Whoever may not write is told what one who may would do."""
    live_now: dict[str, Value] = {}
    for name in knobs_of(rule):
        here = host.live(host.knobs[name])
        there = here.availability
        if not there.present or here.value is None:
            return Looked(t, rule.id, {}, Refusal("absent", name, here.why))
        if not there.writable and os.geteuid() == 0:
            return Looked(t, rule.id, {}, Refusal("read_only", name, there.why))
        if why := host.knobs[name].irreversible_when:
            return Looked(t, rule.id, {}, Refusal("irreversible", name, why))
        live_now[name] = here.value
    return Looked(t, rule.id, live_now)


# --------------------------------------------------------------------------------- telling


def told(found: Plan, by: str) -> str:
    who = "by the running daemon" if by == DAEMON else "no daemon was asked: as one would see it now"
    head = f"{' + '.join(found.policy)}, mode {found.mode}{', paused' if found.paused else ''} ({who})"
    order = list(Stand)
    steps = sorted(found.steps, key=lambda step: order.index(step.stand))
    rows = [_row(step) for step in steps]
    counts = ", ".join(f"{sum(s.stand is one for s in steps)} {one}" for one in order)
    table = show.table(rows, ("STANDS", "RULE", "WHEN", "WOULD WRITE", "WHY NOT"))
    return "\n".join([show.heading(head), counts, "", table])


def _row(step: Step) -> tuple[str, ...]:
    why = ": ".join(part for part in (step.code, step.knob, step.what) if part)
    if step.stand is Stand.WAITS and not step.code:
        why = "" if step.when else step.what
    return step.stand, step.id, "; ".join(map(_condition, step.when)) or "-", _change(step) or "-", why or "-"


def _change(step: Step) -> str:
    before = {write.knob: write.value for write in step.before}
    words = [f"{w.knob} {show.value(before.get(w.knob))} -> {show.value(w.value)}" for w in step.writes]
    if step.kind == "search":
        words = [f"search from {w.knob} = {show.value(w.value)}" for w in step.writes]
    return ", ".join(words)


def _condition(one: Checked) -> str:
    """`psi.cpu.some 0.04 of > 0.2`, `psi.cpu.some 0.31 > 0.2, 2.0s to go`."""
    value = "unknown" if one.value is None else show.number(one.value)
    holds = one.value is not None and (one.value > one.level if one.op == ">" else one.value < one.level)
    wanted = f"{'' if holds else 'of '}{one.op} {show.number(one.level)}"
    span = f" for {show.span(one.for_s)}" if one.for_s else ""
    left = f", {show.span(one.hold_s)} to go" if holds and one.hold_s else ""
    return f"{one.metric} {value} {wanted}{span}{left}"
