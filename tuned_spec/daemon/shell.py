"""The daemon's parts, wired: state and descriptors, and how one event is carried out to its end.

Owns what is started in which order and closed in which, and the way of each command to who does it. Must not
know what comes in (`serve`), nor what is answered (`answering`).
"""

from __future__ import annotations

import math
import os
import select
import shlex
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import assert_never

import msgspec

from tuned_spec import engine, paths
from tuned_spec.daemon.actor_link import ActorLink
from tuned_spec.daemon.control import ControlSocket
from tuned_spec.daemon.hands import Hands
from tuned_spec.daemon.known import KNOWN
from tuned_spec.daemon.log import Log
from tuned_spec.daemon.lookout_link import LookoutLink
from tuned_spec.daemon.needs import ears, pressure_levels, wanted_metrics
from tuned_spec.daemon.options import Options
from tuned_spec.daemon.probes_link import ProbesLink
from tuned_spec.daemon.users import gid_of, may_report, user_of
from tuned_spec.engine.events import (
    ActorChanged,
    Answer,
    Apply,
    Command,
    Event,
    Hold,
    Look,
    Note,
    Observed,
    Probed,
    Remember,
    Revert,
    RevertAll,
    RunProbe,
    SenseNow,
    TakeUp,
    Tell,
)
from tuned_spec.knobs.facts import host_words
from tuned_spec.ledger import priors
from tuned_spec.ledger.history import History
from tuned_spec.ledger.repair import ROOTS
from tuned_spec.model import (
    Mode,
    Outcome,
    Policy,
    Record,
    Rule,
    ToActor,
    entry_of,
)
from tuned_spec.probes.answer import Unanswered
from tuned_spec.probes.messages import Answered, Question
from tuned_spec.sense.gauges import GaugeSocket
from tuned_spec.sense.sensor import Sense
from tuned_spec.sense.triggers import open_triggers
from tuned_spec.speculate.options import MOST_OPTIONS, meant
from tuned_spec.speculate.rules import RulesMemory, inert
from tuned_spec.speculate.templates import instantiate, is_template

PLAN_S = 10.0  # between looks for disks, cgroups and the like that came or went
GROUP = "tuned-spec"  # whose members may report metrics


def clock() -> float:
    """Seconds of CLOCK_BOOTTIME: goes on in suspend, never steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Shell:
    def __init__(
        self, options: Options, policy: Policy, hands: Hands, boot_id: str, leftovers: tuple[Outcome, ...]
    ) -> None:
        self.options, self.hands, self.boot_id, self.started = options, hands, boot_id, clock()
        self.leftovers = leftovers
        self.log = Log()
        mode = options.mode or policy.mode
        if os.geteuid() != 0 and mode is not Mode.OBSERVE:
            self.log.say("not root: observing only, nothing will be written", mode=mode.value)
            mode = Mode.OBSERVE
        self.history = History(options.state_dir)
        hands.to_write = mode is not Mode.OBSERVE
        self.named = self.wanted = wanted_metrics(policy)
        self.sense = Sense(options.root, policy.cgroups, self.wanted)
        self.answered = Answer("")  # the engine's last word to somebody outside
        self.planned_at = -math.inf
        self.plan_now: dict[str, object] = {}
        remembered = priors.load(options.state_dir, time.time())
        for said in remembered.said:
            self.log.say("what was learned before is lost in part", why=said)
        self.policy = policy
        self.inert: list[tuple[str, str]] = []
        self.planned: tuple[Rule, ...] | None = None
        rules = self.rules_here()
        named = [action.knob for rule in policy.rules for action in rule.do]
        named += policy.suggest.knobs if policy.suggest else ()
        comes_and_goes = any("@" in name for name in named)
        self.next_plan = self.started + PLAN_S if comes_and_goes else math.inf
        self.gauges = GaugeSocket(
            options.runtime_dir / paths.METRICS, {m.name: m.uid for m in policy.metrics}, gid_of(GROUP)
        )
        for uid in {owner.uid: None for owner in policy.metrics}:
            if not may_report(uid, self.gauges.path):
                names = " ".join(owner.name for owner in policy.metrics if owner.uid == uid)
                what = f"groupadd --system {GROUP}; usermod -aG {GROUP} {user_of(uid)}; start again"
                self.log.say("the owner cannot write to the metric socket", metrics=names, do=what)
        self.control = ControlSocket(options.runtime_dir / paths.CONTROL)
        self.actor = ActorLink(options.seed, options.actor)
        self.lookout = LookoutLink(ears(policy, hands.catalogue))
        self.probes = ProbesLink()
        self.triggers, reasons = open_triggers(options.root, policy.cgroups, pressure_levels(policy))
        for reason in reasons:
            self.log.say("no pressure trigger, ticking instead", reason=reason)
        self.next_tick = self.next_glance = clock()
        self.tick_s, self.stop_why, self.exit_status = 1.0, "", 0
        learned = engine.Learned(
            priors=remembered.priors, record=remembered.record, foresight=remembered.foresight
        )
        self.state = engine.State(
            setup=engine.Setup.of(
                policy,
                hands.catalogue,
                rules,
                os.cpu_count() or 1,
                tried_only=True,
                options=self.options_here(),
                host=host_words(options.root),
            ),
            learned=learned,
            wall_offset=time.time() - self.started,
            mode=mode,
            where=""
            if options.runtime_dir == Path(ROOTS)
            else f" --runtime-dir {shlex.quote(str(options.runtime_dir))}",
            rules=RulesMemory(),
            prefix=f"{int(time.time()) % 1_000_000:x}.",
            t=self.started,
        )
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.wake_read, self.wake_write = socket.socketpair()
        self.wake_read.setblocking(False)
        self.wake_write.setblocking(False)

    def on(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def off(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    @property
    def needs_actor(self) -> bool:
        return self.state.mode is not Mode.OBSERVE

    @property
    def needs_lookout(self) -> bool:
        return self.state.mode is not Mode.OBSERVE and bool(self.lookout.hear)

    def rules_here(self) -> tuple[Rule, ...]:
        """The rules for what is on this host now; what cannot work here is `inert`."""
        self.hands.catalogue.forget()
        rules = instantiate(self.policy.rules, self.hands.catalogue.instances)
        known = rules == self.planned
        waiting = {rule for rule, _ in self.inert}  # whose program may have been started by now
        asked = [rule for rule in rules if not known or rule.id in waiting]
        knobs = {action.knob for rule in asked for action in rule.do}
        self.inert = inert(asked, self.sense.absent() | self.hands.unusable(knobs))
        for rule in self.policy.rules:
            if is_template(rule) and not any(entry_of(one.id) == rule.id for one in rules):
                self.inert.append((rule.id, f"nothing here is {' and '.join(a.knob for a in rule.do)}"))
        if not known:
            self.hands.watch_over(knobs)
        self.planned = rules
        return rules

    def options_here(self) -> tuple[str, ...]:
        """The knobs here that a model may propose values for."""
        suggest, catalogue = self.policy.suggest, self.hands.catalogue
        if suggest is None:
            return ()
        found = meant(suggest.knobs, catalogue, catalogue.instances)
        # One by one, and no more than are told: there is no end of cgroups that somebody may make.
        return tuple(islice((name for name in found if not self.hands.unusable([name])), MOST_OPTIONS))

    def mind_senses(self) -> None:
        """What an open trial is judged by is sensed while it is open, whether the policy names it or not."""
        judged = (trial.metrics for trial in self.state.trials.values())
        wanted = self.named.union(*judged)
        if wanted != self.wanted:
            self.wanted = wanted
            self.sense.want(wanted)

    # ------------------------------------------------------------------------- what goes out

    def dispatch(self, event: Event) -> None:
        """One event, and all that follows from it, to the end."""
        waiting = deque([event])
        while waiting:
            self.state, commands = engine.step(self.state, waiting.popleft())
            for command in commands:
                waiting.extend(self.execute(command))

    def execute(self, command: Command) -> tuple[Event, ...]:
        match command:
            case Look():
                return (self.hands.look(command),)
            case Apply():
                return self.hands.apply(command)
            case Revert():
                return self.hands.revert(command)
            case RevertAll():
                return self.hands.revert_all(command)
            case Hold():
                return self.hands.hold(command)
            case TakeUp():
                for knob in command.knobs:
                    self.hands.ledger.release(knob)
            case Remember():
                learned = msgspec.structs.astuple(command)
                self.history.do(partial(priors.save, self.options.state_dir, *learned))
            case SenseNow():
                observation = self.sense.observe(clock())
                return (Observed(observation.t, observation.values),)
            case RunProbe():
                return self.run_probe(command)
            case Tell():
                self.tell(command.message)
            case Answer():
                self.answered = command
            case Note():
                self.record(command.record)
            case _:
                assert_never(command)
        return ()

    def run_probe(self, command: RunProbe) -> tuple[Event, ...]:
        """What only the daemon knows is answered at once; the helper's answer comes to `hear_probes`."""
        t, token = clock(), command.token
        if known := KNOWN.get(command.name):
            try:
                answer, error = known(command.args, self.state, self.hands.ledger), ""
            except Unanswered as why:
                answer, error = "", str(why)
            return (Probed(clock(), token, answer, error, round(clock() - t, 4)),)
        trouble = self.probes.ask(Question(token, command.name, command.args), t)
        if self.probes.sock is not None and self.probes.sock.fileno() not in self.handlers:
            self.on(self.probes.sock.fileno(), select.EPOLLIN, self.hear_probes)
        return (Probed(clock(), token, "", trouble),) if trouble else ()

    def probed(self, said: Answered) -> None:
        self.dispatch(Probed(clock(), said.token, said.answer, said.error, said.seconds))

    def hear_probes(self, _mask: int) -> None:
        told, trouble = self.probes.receive()
        for said in told:
            self.probed(said)
        if trouble:
            self.end_probes(trouble)

    def end_probes(self, trouble: str) -> None:
        """Because of trouble, which is said to those who wait, or because nobody asks."""
        if self.probes.sock is not None:
            self.off(self.probes.sock.fileno())
        self.probes.give_up(clock())
        if trouble:
            self.log.say("the process that answers probes is given up", reason=trouble)
        for said in self.probes.lost(trouble):
            self.probed(said)

    def tell(self, message: ToActor) -> None:
        trouble = self.actor.tell(message)
        if trouble or self.actor.wants_to_write:
            self.mind_actor(trouble)

    def record(self, record: Record) -> None:
        self.history.record(record, time.time(), self.boot_id)
        self.log.record(record)

    def mind_actor(self, trouble: str) -> None:
        """Give the actor up if there is trouble, else listen for room to write if it needs that."""
        if self.actor.sock is None:
            return
        fd = self.actor.sock.fileno()
        if not trouble:
            self.epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if self.actor.wants_to_write else 0))
            return
        self.off(fd)
        self.actor.give_up(clock())
        self.dispatch(ActorChanged(clock(), False, f"actor given up: {trouble}"))

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for child in (self.actor, self.lookout, self.probes):
            if child.sock is not None:
                child.give_up(clock())
        self.control.close()
        self.gauges.close()
        for trigger in self.triggers:
            os.close(trigger.fd)
        self.sense.close()
        self.epoll.close()
        self.wake_read.close()
        self.wake_write.close()
        self.history.close()
