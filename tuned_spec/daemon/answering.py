"""Requests on the control socket: each becomes an event of the engine's, or is read off its state.

Owns who may ask for what, and the words of the answers; the bytes are `control`'s. Decides nothing of knobs.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from tuned_spec import __version__, engine
from tuned_spec.daemon.control import Client, Request
from tuned_spec.daemon.proposals import metrics_of, plain, unsensed
from tuned_spec.daemon.shell import Shell, clock
from tuned_spec.daemon.users import name_of
from tuned_spec.engine.events import (
    Decided,
    Offered,
    Pause,
    Resume,
    Withdrawn,
)
from tuned_spec.engine.guessing import look_at
from tuned_spec.engine.plan import asked, plan
from tuned_spec.engine.state import is_pending
from tuned_spec.model import (
    Offer,
)
from tuned_spec.sense.sensor import Sense

GLANCE_S = 1.0  # between ticks of an idle host
CHANGES = ("restore", "pause", "resume", "approve", "reject", "propose", "withdraw")
REMARK = 200  # characters of one that are kept


class Answering(Shell):
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
        if request.do in ("status", "plan"):
            return self.look(request.do)
        if request.do not in CHANGES:
            return {"ok": False, "error": f"{request.do}: unknown; status, plan, {', '.join(CHANGES)}"}
        if not client.may_change:
            return {"ok": False, "error": f"{request.do}: only root may change what is tuned; use sudo"}
        # Not before: whoever may only ask shall not have concrete knobs made, which are kept.
        if unknown := [k for k in request.knobs if k not in self.state.setup.catalogue]:
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

    def look(self, what: str) -> dict[str, object]:
        try:
            return {"ok": True, what: self.status() if what == "status" else self.plan()}
        except Exception as error:  # a fault of ours, but who only looks shall not end the daemon
            self.log.say("a question could not be answered", question=what, error=repr(error))
            return {"ok": False, "error": f"{what}: a fault of the daemon's, {error!r}; its log has it"}

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
            return {"ok": False, "error": found, "pending": pending}
        remark = "".join(c if c.isprintable() else " " for c in request.remark[:REMARK])
        approve = request.do == "approve"
        self.dispatch(Decided(clock(), found.trial, approve, uid, name_of(uid), remark))
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


def absent(root: Path, metrics: frozenset[str]) -> dict[str, str]:
    """Which of these this host cannot deliver -> why. Its own senses look, so that no rate begins anew."""
    sense = Sense(root, (), metrics)
    try:
        return sense.absent()
    finally:
        sense.close()
