"""Wiring and event loop: turns what happens into events, and the engine's commands into deeds.

Owns the descriptors, the clock and the order in which things are started and stopped. Decides
nothing: that is the engine's. Single-threaded but for the history's writer.
"""

from __future__ import annotations

import grp
import math
import os
import pwd
import select
import shlex
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import assert_never

import msgspec

from tuned_spec import __version__, engine, paths
from tuned_spec.daemon.actor_link import ActorLink
from tuned_spec.daemon.control import Client, ControlSocket, Request
from tuned_spec.daemon.hands import Hands
from tuned_spec.daemon.known import KNOWN
from tuned_spec.daemon.log import Log
from tuned_spec.daemon.lookout_link import LookoutLink
from tuned_spec.daemon.needs import ears, pressure_levels, wanted_metrics
from tuned_spec.daemon.notify import sd_notify, watchdog_s
from tuned_spec.daemon.options import Options
from tuned_spec.daemon.probes_link import ProbesLink
from tuned_spec.daemon.proposals import metrics_of, plain, unsensed
from tuned_spec.engine.events import (
    ActorChanged,
    ActorSaid,
    Answer,
    Apply,
    Command,
    Decided,
    Event,
    ForeignFound,
    Hold,
    Look,
    Note,
    Observed,
    Offered,
    Pause,
    Planned,
    Probed,
    Remember,
    Resume,
    Revert,
    RevertAll,
    RunProbe,
    SenseNow,
    Stop,
    TakeUp,
    Tell,
    Ticked,
    Withdrawn,
)
from tuned_spec.engine.guessing import look_at
from tuned_spec.engine.plan import asked, plan
from tuned_spec.engine.state import is_pending
from tuned_spec.errors import JournalError, UsageError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.knobs.facts import host_facts, host_words
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import priors
from tuned_spec.ledger.history import History
from tuned_spec.ledger.journal import Journal, take_lock
from tuned_spec.ledger.repair import ROOTS
from tuned_spec.model import (
    ForeignWrite,
    Hello,
    Mode,
    Offer,
    Outcome,
    Policy,
    Record,
    Rule,
    ToActor,
    entry_of,
)
from tuned_spec.policy.load import load as load_policy
from tuned_spec.probes.answer import Unanswered
from tuned_spec.probes.messages import Answered, Question
from tuned_spec.sense.gauges import GaugeSocket
from tuned_spec.sense.metrics import METRICS, known
from tuned_spec.sense.sensor import BUSY_S, Sense, pace
from tuned_spec.sense.triggers import Trigger, open_triggers
from tuned_spec.speculate.options import MOST_OPTIONS, meant
from tuned_spec.speculate.rules import RulesMemory, inert
from tuned_spec.speculate.templates import instantiate, is_template

LONGEST_WAIT_S = 5.0
PLAN_S = 10.0  # between looks for disks, cgroups and the like that came or went
GLANCE_S = 1.0  # between ticks of an idle host
STIRRED_S = 0.5  # from the tick that ends the idle time to the first with rates of the new
DOUBT_S = 5.0  # how long a stop waits for writes that have not come back
CHANGES = ("restore", "pause", "resume", "approve", "reject", "propose", "withdraw")
REMARK = 200  # characters of one that are kept
GROUP = "tuned-spec"  # whose members may report metrics

replace = msgspec.structs.replace


def clock() -> float:
    """Seconds of CLOCK_BOOTTIME: goes on in suspend, never steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def serve(options: Options) -> int:
    """Run until told to stop; everything is put back on the way out. Returns the exit status."""
    _fill_standard_streams()
    for directory, mode in ((options.runtime_dir, 0o755), (options.state_dir, 0o750)):
        try:
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{directory}: cannot be made ({error.strerror}); name another place") from error
    lock = take_lock(options.runtime_dir)
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        access = adapters(options.root)
        catalogue = Catalogue(load_catalogue(), access)
        hands = Hands(catalogue, access, Journal(options.runtime_dir, boot_id), clock)
        # Before anything that can fail: what a daemon that died has left goes back, even if we cannot start.
        leftovers = hands.ledger.restore(None)
        try:
            policy = load_policy(
                options.policies,
                shipped=paths.shipped_policies(),
                dropins=options.dropins,
                catalogue=catalogue,
                metrics=known,
                uid_of=_uid_of,
                facts=host_facts(options.root),
                sensed={name: metric.per for name, metric in METRICS.items()},
            ).policy
            daemon = Daemon(options, policy, hands, boot_id, leftovers)
            try:
                return daemon.run()
            finally:
                # On a good way out there is nothing left to restore; on a bad one this is what counts,
                # before anything that could fail or wait.
                hands.ledger.restore(None)
                daemon.close()
        finally:
            hands.ledger.restore(None)  # what had no descriptor to be written with has one now
            hands.close()
    finally:
        os.close(lock)


class Daemon:
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
            options.runtime_dir / paths.METRICS, {m.name: m.uid for m in policy.metrics}, _gid_of(GROUP)
        )
        for uid in {owner.uid: None for owner in policy.metrics}:
            if not _may_report(uid, self.gauges.path):
                names = " ".join(owner.name for owner in policy.metrics if owner.uid == uid)
                what = f"groupadd --system {GROUP}; usermod -aG {GROUP} {_user_of(uid)}; start again"
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

    # ------------------------------------------------------------------------------- loop

    def run(self) -> int:
        self.note_leftovers()
        self.on(self.gauges.fileno(), select.EPOLLIN, self.read_gauges)
        self.on(self.control.listener.fileno(), select.EPOLLIN, self.accept_client)
        self.on(self.wake_read.fileno(), select.EPOLLIN, self.read_signals)
        for trigger in self.triggers:
            self.on(trigger.fd, select.EPOLLPRI, partial(self.pressure, trigger))
        self.on(self.hands.aside.fileno(), select.EPOLLIN, self.come_back)
        watch = self.hands.watch.fileno()
        if watch is not None:
            self.on(watch, select.EPOLLIN, self.foreign_hand)
        signal.set_wakeup_fd(self.wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        mode, policy = self.state.mode, self.state.setup.policy
        self.record(
            Record(
                "start",
                clock(),
                data={
                    "pid": os.getpid(),
                    "mode": mode.value,
                    "policy": policy.names,
                    "actor": self.actor.kind,
                    "alpha": policy.alpha,
                    "boot_id": self.boot_id,
                    "version": __version__,
                },
            )
        )
        sd_notify(f"READY=1\nSTATUS={mode.value}, policy {'+'.join(policy.names)}")
        watchdog, next_kick = watchdog_s(), 0.0
        while not self.stop_why:
            t = clock()
            self.keep_actor(t)
            self.keep_lookout(t)
            self.keep_probes(t)
            if t >= self.next_tick:
                self.tick(t)
            elif t >= self.next_glance:
                self.glance(t)
            if watchdog and t >= next_kick:
                sd_notify("WATCHDOG=1")
                next_kick = t + watchdog
            if self.options.for_s is not None and t >= self.started + self.options.for_s:
                self.stop_why = "its time was up"
                break
            if not self.stop_why:
                self.poll(t)
                self.dispatch(Ticked(clock()))
        self.stop()
        return self.exit_status

    def on(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def off(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def poll(self, t: float) -> None:
        due = [self.next_tick, self.next_glance, engine.next_wake(self.state), t + LONGEST_WAIT_S]
        due.append(self.probes.due)
        if self.needs_actor:
            due.append(self.actor.start_at)
        if self.needs_lookout:
            due.append(self.lookout.start_at)
        if self.options.for_s is not None:
            due.append(self.started + self.options.for_s)
        wait = max(0.0, min(x for x in due if x is not None) - clock())
        for fd, mask in self.epoll.poll(wait):
            if fd in self.handlers:  # an earlier handler of this round may have dropped it
                self.handlers[fd](mask)

    def tick(self, t: float) -> None:
        self.mind_senses()
        observation = self.sense.observe(t)
        # Without a trigger nothing would wake an idle host's loop between slow ticks.
        self.tick_s = pace(observation) if self.triggers else BUSY_S
        self.next_tick, self.next_glance = t + self.tick_s, t + GLANCE_S
        for event in self.hands.foreign():
            self.dispatch(event)
        self.dispatch(Observed(observation.t, observation.values))
        for client in self.control.silent(t):
            self.drop_client(client)
        if missing := self.hands.journal.missing():
            # Should we be killed now, nobody could tell what is changed: back with it while we can.
            self.stop_why, self.exit_status = missing, JournalError.exit_code
        elif not self.state.journal_ok:
            for recovered in self.hands.try_journal():
                self.dispatch(recovered)
        if self.needs_lookout and t >= self.lookout.scan_at:
            self.lookout.scanned(t)
            self.join(None)
        if t >= self.next_plan:
            self.next_plan = t + PLAN_S
            rules, options = self.rules_here(), self.options_here()
            if (rules, options) != (self.state.setup.rules, self.state.setup.options):
                self.dispatch(Planned(clock(), rules, options))

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
        return tuple(name for name in found if name not in self.hands.unusable(found))[:MOST_OPTIONS]

    def glance(self, t: float) -> None:
        """Between slow ticks: has the host begun to work? Then its rates count from now on, not from then."""
        self.next_glance = t + GLANCE_S
        if self.sense.stirs(t):
            self.tick(t)
            self.next_tick = t + STIRRED_S

    @property
    def needs_actor(self) -> bool:
        return self.state.mode is not Mode.OBSERVE

    def keep_actor(self, t: float) -> None:
        if self.needs_actor and self.actor.start_at is not None and t >= self.actor.start_at:
            trouble = self.actor.start(t)
            if self.actor.sock is not None:
                self.on(self.actor.sock.fileno(), select.EPOLLIN, self.hear_actor)
            else:
                self.dispatch(ActorChanged(clock(), False, f"actor given up: {trouble}"))

    @property
    def needs_lookout(self) -> bool:
        return self.state.mode is not Mode.OBSERVE and bool(self.lookout.hear)

    def keep_lookout(self, t: float) -> None:
        if self.needs_lookout and self.lookout.start_at is not None and t >= self.lookout.start_at:
            self.lookout.start(t)
            if self.lookout.sock is not None:
                self.on(self.lookout.sock.fileno(), select.EPOLLIN, self.hear_lookout)

    def keep_probes(self, t: float) -> None:
        if (trouble := self.probes.overdue(t)) or self.probes.idle(t):
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

    # --------------------------------------------------------------------- what comes in

    def hear_probes(self, _mask: int) -> None:
        told, trouble = self.probes.receive()
        for said in told:
            self.probed(said)
        if trouble:
            self.end_probes(trouble)

    def hear_lookout(self, _mask: int) -> None:
        fd = self.lookout.sock.fileno() if self.lookout.sock else -1
        told, trouble = self.lookout.receive(clock())
        if started := {pid for tasks in told for pid in tasks.exec}:
            self.join(started)
        if trouble:
            self.off(fd)
            self.lookout.give_up(clock())
            why = "; ".join(self.lookout.deaf.values()) or trouble
            self.log.say("no news of tasks, looking for them now and then", reason=why)

    def join(self, among: Collection[int] | None) -> None:
        """What came to those who are changed is changed too, unless nothing may be written."""
        if not self.state.paused and not self.state.stopping and self.state.journal_ok:
            for event in self.hands.join(among):
                self.dispatch(event)

    def read_gauges(self, _mask: int) -> None:
        t = clock()
        samples = self.gauges.receive(t)
        # One event a sample, so that a burst is a series of readings and not only its last one.
        for sample in samples:
            self.dispatch(Observed(t, {sample.name: sample.value}, host=False))

    def pressure(self, trigger: Trigger, mask: int) -> None:
        """The kernel says that the pressure is past a level: that is news even before the next tick."""
        if mask & select.EPOLLERR:  # its cgroup is gone
            self.off(trigger.fd)
            os.close(trigger.fd)
            self.triggers.remove(trigger)
            return
        observation = self.sense.observe(clock())
        # Over the whole time since the last tick the pressure may look lower than over the trigger's window.
        share = max(trigger.share, observation.values.get(trigger.name, 0.0))
        self.dispatch(Observed(observation.t, observation.values | {trigger.name: share}))
        self.next_tick = min(self.next_tick, clock() + BUSY_S)

    def come_back(self, _mask: int) -> None:
        for event in self.hands.come_back():
            self.dispatch(event)

    def foreign_hand(self, _mask: int) -> None:
        for event in self.hands.foreign():
            self.dispatch(event)

    def read_signals(self, _mask: int) -> None:
        for number in self.wake_read.recv(64):
            # A terminal that closes ends what it started; as a service, nobody sends this.
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self.stop_why = f"stopped by {signal.Signals(number).name}"

    def hear_actor(self, mask: int) -> None:
        t = clock()
        if mask & select.EPOLLOUT:
            self.mind_actor(self.actor.flush())
        messages, trouble = self.actor.receive(t)
        for message in messages:
            if isinstance(message, Hello):
                trouble = trouble or self.actor.accept(message)
                if not trouble:
                    what = f"{message.kind} actor started, process {message.pid}, uid {message.uid}"
                    review_s, speculates = self.actor.review_s, self.actor.speculates
                    self.dispatch(ActorChanged(clock(), True, what, review_s, speculates))
            elif self.actor.ready:
                self.dispatch(ActorSaid(clock(), message))
            else:
                trouble = trouble or "it spoke before it said hello"
        self.mind_actor(trouble)

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

    # ----------------------------------------------------------------------- control socket

    def accept_client(self, _mask: int) -> None:
        client = self.control.accept(clock())
        if client:
            self.on(client.sock.fileno(), select.EPOLLIN, lambda mask: self.serve_client(client, mask))

    def serve_client(self, client: Client, mask: int) -> None:
        if mask & select.EPOLLOUT:
            more = self.control.flush(client)
        else:
            request = self.control.read(client)
            if request is None:
                return
            if request == "closed":
                self.drop_client(client)
                return
            reply: dict[str, object] = (
                {"ok": False, "error": request} if isinstance(request, str) else self.answer(request, client)
            )
            more = self.control.answer(client, reply)
        if more:
            self.epoll.modify(client.sock.fileno(), select.EPOLLOUT)
        else:
            self.drop_client(client)

    def drop_client(self, client: Client) -> None:
        if client.sock.fileno() >= 0:
            self.off(client.sock.fileno())
        self.control.drop(client)

    def answer(self, request: Request, client: Client) -> dict[str, object]:
        unknown = [k for k in request.knobs if k not in self.state.setup.catalogue]
        if request.do == "status":
            return {"ok": True, "status": self.status()}
        if request.do == "plan":
            return {"ok": True, "plan": self.plan()}
        if request.do not in CHANGES:
            return {"ok": False, "error": f"{request.do}: unknown; status, plan, {', '.join(CHANGES)}"}
        if not client.may_change:
            return {"ok": False, "error": f"{request.do}: only root may change what is tuned; use sudo"}
        if unknown:
            return {"ok": False, "error": f"{', '.join(unknown)}: not in the catalogue"}
        match request.do:
            case "restore":
                self.dispatch(Pause(clock(), restore=True, knobs=request.knobs))
                return {"ok": True, "outcomes": self.hands.reverted, "paused": True}
            case "propose":
                return self.propose(request.offer)
            case "withdraw":
                self.dispatch(Withdrawn(clock(), request.source, request.trial))
                return self.word()
            case "pause":
                self.dispatch(Pause(clock()))
            case "resume":
                self.dispatch(Resume(clock(), request.knobs, request.advice))
            case _:
                return self.decide(request, client.uid)
        return {"ok": True, "paused": self.state.paused}

    def propose(self, offer: Offer | None) -> dict[str, object]:
        """The trial that comes of a proposal, or why none does."""
        found = "propose: the offer is missing" if offer is None else plain(offer)
        if isinstance(found, str):
            return {"ok": False, "error": found}
        missing = absent(self.options.root, metrics_of(found))
        self.dispatch(Offered(clock(), found, unsensed(found, self.policy.metrics, missing)))
        self.mind_senses()
        return self.word()

    def word(self) -> dict[str, object]:
        """The engine's answer to somebody outside. `state` "": it is over, or nothing is done (`observe`)."""
        if refusal := self.answered.refusal:
            error = f"{refusal.code}: {refusal.knob}{': ' if refusal.knob else ''}{refusal.what}"
            return {"ok": False, "error": error, "refusal": refusal}
        trial = self.state.trials.get(self.answered.trial)
        return {
            "ok": True,
            "trial": self.answered.trial,
            "mode": self.state.mode,
            "state": trial.phase if trial else "",
            "pending": trial is not None and is_pending(trial),
            "deadline_in_s": round(trial.deadline - clock(), 1) if trial else 0.0,
        }

    def mind_senses(self) -> None:
        """What an open trial is judged by is sensed while it is open, whether the policy names it or not."""
        judged = (trial.metrics for trial in self.state.trials.values())
        wanted = self.named.union(*judged)
        if wanted != self.wanted:
            self.wanted = wanted
            self.sense.want(wanted)

    def plan(self) -> dict[str, object]:
        """What would be done now. Anybody may ask, so that it is worked out once a second at most."""
        t = clock()
        if t - self.planned_at >= GLANCE_S:
            looks = {
                rule.id: self.hands.look(look_at(rule, self.hands.catalogue)) for rule in asked(self.state)
            }
            steps = plan(self.state, looks, dict(self.inert), t)
            self.planned_at = t
            self.plan_now = {
                "mode": self.state.mode,
                "policy": self.policy.names,
                "paused": self.state.paused,
                "steps": steps,
            }
        return self.plan_now

    def decide(self, request: Request, uid: int) -> dict[str, object]:
        """A person's yes or no to a pending question."""
        found = engine.find_pending(self.state, request.trial)
        if isinstance(found, str):
            pending = engine.describe(self.state, clock())["pending"]
            return {"ok": False, "error": f"{request.do}: {found}", "pending": pending}
        remark = "".join(c if c.isprintable() else " " for c in request.remark[:REMARK])
        approve = request.do == "approve"
        self.dispatch(Decided(clock(), found.trial, approve, uid, _name_of(uid), remark))
        open = self.state.trials.get(found.trial)
        kept = any(held.trial == found.trial for held in self.state.held.values())
        state = open.phase.value if open else "kept" if kept else "over"
        return {"ok": True, "trial": found.trial, "moves": found.moves, "asked": found.asked, "state": state}

    def status(self) -> dict[str, object]:
        t = clock()
        return {
            "pid": os.getpid(),
            "version": __version__,
            "since_s": round(t - self.started, 1),
            **engine.describe(self.state, t),
            "actor": {
                "kind": self.actor.kind,
                "alive": self.actor.ready,
                "pid": self.actor.pid,
                "restarts": max(0, self.actor.restarts),
            },
            "inert": [{"rule": rule, "reason": reason} for rule, reason in self.inert],
            "rejected_samples": self.gauges.rejected,
            "writer_watch": self.hands.watch.why or "fanotify",
            "task_watch": (self.lookout.why or "netlink") if self.needs_lookout else "not needed",
            "journal_ok": self.state.journal_ok,
            "probes": {"pid": self.probes.pid, "asked": self.probes.asked, "failed": self.probes.failed},
            "tick_s": self.tick_s,
        }

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

    def tell(self, message: ToActor) -> None:
        trouble = self.actor.tell(message)
        if trouble or self.actor.wants_to_write:
            self.mind_actor(trouble)

    def record(self, record: Record) -> None:
        self.history.record(record, time.time(), self.boot_id)
        self.log.record(record)

    # ------------------------------------------------------------------------ journal, ends

    def note_leftovers(self) -> None:
        """What was put back at the start; and who else has a knob, from before, keeps it."""
        back = tuple(o for o in self.leftovers if o.status != "foreign")
        if back:
            data: dict[str, object] = {"why": "left by a daemon that died", "outcomes": back}
            self.record(Record("reverted", clock(), knobs=tuple(o.knob for o in back), data=data))
        for knob in (o.knob for o in self.leftovers if o.status == "foreign" and o.found == o.original):
            self.hands.ledger.release(knob)  # they gave it back
        theirs = tuple(
            ForeignWrite(o.knob, o.original, o.found, "somebody before this start")
            for o in self.leftovers
            if o.status == "foreign" and o.found != o.original
        )
        if theirs:
            self.dispatch(ForeignFound(clock(), theirs))

    def stop(self) -> None:
        sd_notify("STOPPING=1")
        for client in tuple(self.control.clients.values()):
            self.drop_client(client)  # theirs may be the last descriptors, and the way back needs one
        # A write that blocks is waited for, but not for ever: the repair compares what is left in doubt.
        self.hands.withdraw()
        patience = clock() + DOUBT_S
        while self.hands.aside.under_way and clock() < patience:
            select.select([self.hands.aside], [], [], patience - clock())
            self.come_back(0)
        self.dispatch(Stop(clock(), self.stop_why))
        data: dict[str, object] = {"why": self.stop_why, "outcomes": self.hands.reverted}
        self.record(Record("stop", clock(), data=data))
        if any(o.status == "failed" for o in self.hands.reverted):
            self.exit_status = 1

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


def absent(root: Path, metrics: frozenset[str]) -> dict[str, str]:
    """Which of these this host cannot deliver -> why. Its own senses look, so that no rate begins anew."""
    sense = Sense(root, (), metrics)
    try:
        return sense.absent()
    finally:
        sense.close()


def _gid_of(group: str) -> int:
    """-1, which leaves a file's group as it is, where there is no such group or we may not give it away."""
    try:
        return grp.getgrnam(group).gr_gid if os.geteuid() == 0 else -1
    except KeyError:
        return -1


def _may_report(uid: int, path: Path) -> bool:
    """Whether that user gets past the socket's mode: it is ours, or of a group that the user is in."""
    status = path.stat()
    if uid in (0, status.st_uid):
        return True
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return False
    return status.st_gid in os.getgrouplist(user.pw_name, user.pw_gid)


def _user_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"(user {uid}, who has no name here)"


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "nobody known"


def _uid_of(user: str) -> int:
    return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def _fill_standard_streams() -> None:
    """Started with one of them closed, the journal would get its number, and what is printed with it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
