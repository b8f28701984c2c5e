"""Wiring and event loop: turns what happens into events, and the engine's commands into deeds.

Owns the descriptors, the clock and the order in which things are started and stopped. Decides
nothing: that is the engine's. Single-threaded but for the history's writer.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection
from functools import partial
from pathlib import Path

import msgspec

from tuned_spec import __version__, engine, paths
from tuned_spec.daemon.answering import Answering
from tuned_spec.daemon.hands import Hands
from tuned_spec.daemon.notify import sd_notify, watchdog_s
from tuned_spec.daemon.options import Options
from tuned_spec.daemon.shell import clock
from tuned_spec.daemon.users import uid_of
from tuned_spec.engine.events import (
    ActorChanged,
    ActorSaid,
    ForeignFound,
    Observed,
    Planned,
    Stop,
    Ticked,
)
from tuned_spec.errors import JournalError, UsageError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load as load_catalogue
from tuned_spec.knobs.facts import host_facts
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger.journal import Journal, take_lock
from tuned_spec.model import (
    ForeignWrite,
    Hello,
    Record,
)
from tuned_spec.policy.load import load as load_policy
from tuned_spec.sense.metrics import METRICS, known
from tuned_spec.sense.sensor import BUSY_S, pace
from tuned_spec.sense.triggers import Trigger

LONGEST_WAIT_S = 5.0
PLAN_S = 10.0  # between looks for disks, cgroups and the like that came or went
GLANCE_S = 1.0  # between ticks of an idle host
STIRRED_S = 0.5  # from the tick that ends the idle time to the first with rates of the new
DOUBT_S = 5.0  # how long a stop waits for writes that have not come back

replace = msgspec.structs.replace


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
                uid_of=uid_of,
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


class Daemon(Answering):
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

    def glance(self, t: float) -> None:
        """Between slow ticks: has the host begun to work? Then its rates count from now on, not from then."""
        self.next_glance = t + GLANCE_S
        if self.sense.stirs(t):
            self.tick(t)
            self.next_tick = t + STIRRED_S

    def keep_actor(self, t: float) -> None:
        if self.needs_actor and self.actor.start_at is not None and t >= self.actor.start_at:
            trouble = self.actor.start(t)
            if self.actor.sock is not None:
                self.on(self.actor.sock.fileno(), select.EPOLLIN, self.hear_actor)
            else:
                self.dispatch(ActorChanged(clock(), False, f"actor given up: {trouble}"))

    def keep_lookout(self, t: float) -> None:
        if self.needs_lookout and self.lookout.start_at is not None and t >= self.lookout.start_at:
            self.lookout.start(t)
            if self.lookout.sock is not None:
                self.on(self.lookout.sock.fileno(), select.EPOLLIN, self.hear_lookout)

    def keep_probes(self, t: float) -> None:
        if (trouble := self.probes.overdue(t)) or self.probes.idle(t):
            self.end_probes(trouble)

    # --------------------------------------------------------------------- what comes in

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


def _fill_standard_streams() -> None:
    """Started with one of them closed, the journal would get its number, and what is printed with it."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
