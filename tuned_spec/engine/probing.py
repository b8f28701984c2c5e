"""Probes: an actor's questions are answered, in lossless from runs that were started before it asked.

Owns what may be served from ahead and what is run ahead; must not know how a probe is answered, nor what it
is about. A run ahead is served only if it is still true, and once:

- an *exact* answer while the ledger has done nothing since the run was started (`State.deeds`). Of a knob
  that is not ours nobody would tell us that another has written it, so there its age counts as well;
- a *sampled* answer while it is younger than its probe's `max_age_s`, no other workload was recognised and
  the ledger has done nothing, all since the run was *started*.

So the actor is told what it would be told if its question were run when it asks. An answer that is an error
is not served from ahead but asked for again. Nothing is run ahead while a measurement's window is open (it
would be measured, too), while nothing may be changed, nor outside lossless: in lossy nobody waits for the
actor. For the case after this one nothing is run: the verdict before it is a deed of the ledger, and what was
read before a deed is not served.
"""

from __future__ import annotations

import msgspec

from tuned_spec.engine.events import Command, Probed, RunProbe, Tell
from tuned_spec.engine.measuring import Measuring
from tuned_spec.engine.state import Answered, Phase, Run, Session, State, Trial
from tuned_spec.model import Cancel, Case, Measurement, Mode, Probe, ProbeAnswer, Writes
from tuned_spec.probes.names import PROBES, wrong_with
from tuned_spec.speculate import foresight
from tuned_spec.speculate.foresight import MEASURE, Query
from tuned_spec.speculate.prior import Fate

UNDER_WAY = 4  # runs ahead at once
WASTED_A_MINUTE = 30  # runs ahead that nobody asked for, after which no more are started
THINKING_S = 0.25  # a trial asks for its next window at once: who is silent so long thinks
RENEW_S = 0.001  # after an answer has grown stale
LOOKS = 12  # at what comes next, while one thought lasts; stale answers are renewed that often
A_CASE = 32  # probes of one case that are answered
AT_ONCE = 4  # of them under way

replace = msgspec.structs.replace


class Probing(Measuring):
    # ----------------------------------------------------------------------- what is asked

    def probe(self, trial: Trial | None, ask: Probe) -> None:
        """Serve it from ahead, wait with it for a run under way, or start one."""
        session = self.state.probing.sessions.get(ask.case)
        runs = self.state.probing.runs.values()
        waiting = sum(one.case == ask.case for run in runs for one in run.waiting)
        if trial is None or session is None:
            return self.refuse_probe(ask, "this case is not open")
        if session.probes >= A_CASE:
            return self.refuse_probe(ask, f"{A_CASE} probes a case, and no more")
        if waiting >= AT_ONCE:
            return self.refuse_probe(ask, f"{AT_ONCE} probes at once, and no more: wait for an answer")
        if wrong := wrong_with(ask.name, ask.args):
            self.put_session(ask.case, replace(session, probes=session.probes + 1))
            shown = replace(ask, name=ascii(ask.name[:40]), args={})  # fit for a terminal
            return self.reply(shown, Answered("", 0.0, wrong))
        asked = Query(ask.name, tuple(sorted(ask.args.items())))
        self.heard(ask.case, foresight.symbol(foresight.setting(trial.proposal), asked))
        self.count(asked=foresight.takes_time(self.state.learned.foresight, ask.name))
        found = next((run for run in runs if run.asked == asked and run.ahead), None)
        if found is None or not self.holds(found):
            return self.run(asked, ask)
        if found.answer is None:
            return self.put_run(replace(found, waiting=(*found.waiting, ask), joined=found.joined or self.t))
        self.drop_run(found)
        self.count(hits=1, saved_s=found.answer.seconds)
        return self.reply(ask, found.answer, ahead=True)

    def refuse_probe(self, ask: Probe, why: str) -> None:
        self.do(Tell(ProbeAnswer(ask.case, ask.seq, "", why)))

    def run(self, asked: Query, ask: Probe | None, ahead: str = "") -> None:
        token = self.state.probing.tokens + 1
        self.state = replace(self.state, probing=replace(self.state.probing, tokens=token))
        started = Run(
            token=token,
            asked=asked,
            ahead=ahead,
            started=self.t,
            deeds=self.state.deeds,
            workload=self.state.learned.workloads,
            waiting=(ask,) if ask else (),
        )
        self.put_run(started)
        self.do(RunProbe(token, asked.name, dict(asked.args)))

    def probed(self, event: Probed) -> None:
        run = self.state.probing.runs.get(event.token)
        if run is None or run.answer is not None:
            return
        learned = self.state.learned
        if not event.error:
            memory = foresight.ran(learned.foresight, run.asked.name, event.seconds)
            self.state = replace(self.state, learned=replace(learned, foresight=memory))
        if not run.ahead:
            self.drop_run(run)
        elif run.waiting:
            self.drop_run(run)
            if event.error or self.t - run.started >= PROBES[run.asked.name].max_age_s:
                self.waste()
                for ask in run.waiting:
                    self.run(run.asked, ask)
                return
            self.count(hits=1, saved_s=max(0.0, (run.joined or self.t) - run.started))
        elif event.error or not self.holds(run):
            self.drop_run(run)
            self.waste()
        else:
            self.put_run(replace(run, answer=Answered(event.answer, event.seconds)))
        for ask in run.waiting:
            self.reply(ask, Answered(event.answer, event.seconds, event.error), ahead=bool(run.ahead))

    def reply(self, ask: Probe, answer: Answered, ahead: bool = False) -> None:
        """The answer goes on record, without its text, and to the actor; none of a case that is over."""
        if trial := self.state.trials.get(ask.case):
            size, seconds = len(answer.text.encode()), answer.seconds
            facts = {"name": ask.name, "args": ask.args, "seconds": seconds, "error": answer.error}
            self.note("probed", trial, **facts, bytes=size, ahead=ahead)
            self.do(Tell(ProbeAnswer(ask.case, ask.seq, answer.text, answer.error)))

    def holds(self, run: Run) -> bool:
        """Whether the run, had it been started now, would be answered the same."""
        kind = PROBES[run.asked.name]
        if run.deeds != self.state.deeds:
            return False
        if kind.exact and all(word in self.state.originals for _, word in run.asked.args):
            return True
        return self.t - run.started < kind.max_age_s and run.workload == self.state.learned.workloads

    # ------------------------------------------------------------------- who asks for what

    def do(self, command: Command) -> None:
        """What the actor is told ends its waiting: from here on it thinks."""
        super().do(command)
        if isinstance(command, Tell):
            match command.message:
                case Case(id=id):
                    self.forget(id)
                    self.put_session(id, Session())
                    self.thinks(id)
                case Measurement(case=id) | ProbeAnswer(case=id):
                    self.thinks(id)
                case Cancel(case=id):
                    self.forget(id)
                case _:
                    pass

    def thinks(self, case: str) -> None:
        if session := self.state.probing.sessions.get(case):
            self.put_session(case, replace(session, since=self.t, looks=0, look_at=self.t))

    def heard(self, case: str, what: str) -> None:
        """It has thought, and waits for this."""
        session = self.state.probing.sessions.get(case)
        if session is None:
            return
        learned = self.state.learned
        if session.since is not None and what != MEASURE:
            memory = foresight.thought(learned.foresight, self.t - session.since)
            self.state = replace(self.state, learned=replace(learned, foresight=memory))
        asked = (*session.asked, what)[-foresight.SESSION :]
        probes = session.probes + (what != MEASURE)
        self.put_session(case, replace(session, asked=asked, probes=probes, since=None, look_at=None))

    def learn(
        self, trial: Trial, fate: Fate | None, writes: Writes, gain: float | None, by: str = ""
    ) -> None:
        self.end_session(trial, with_verdict=False)  # the lease has ended; else it is over already
        super().learn(trial, fate, writes, gain, by)

    def end_session(self, trial: Trial, with_verdict: bool) -> None:
        """Nothing more will be asked, whatever becomes of the trial."""
        if session := self.state.probing.sessions.get(trial.id):
            learned, place = self.state.learned, foresight.setting(trial.proposal)
            memory = foresight.learn(learned.foresight, place, session.asked, with_verdict)
            self.state = replace(self.state, learned=replace(learned, foresight=memory))
            self.forget(trial.id)

    def forget(self, case: str) -> None:
        """Nobody waits for its answers any more, and what was run for it is for nobody."""
        probing = self.state.probing
        sessions = {id: session for id, session in probing.sessions.items() if id != case}
        runs = {
            token: replace(run, waiting=tuple(ask for ask in run.waiting if ask.case != case))
            for token, run in probing.runs.items()
        }
        self.state = replace(self.state, probing=replace(probing, sessions=sessions, runs=runs))

    def drop(self, trial: Trial) -> None:
        super().drop(trial)
        self.forget(trial.id)

    # --------------------------------------------------------------------------- run ahead

    def look_ahead(self) -> None:
        """What ran ahead may have grown stale; what comes next may be due."""
        for run in tuple(self.state.probing.runs.values()):
            if run.answer is not None and not (run.ahead in self.state.probing.sessions and self.holds(run)):
                self.drop_run(run)
                self.waste()
        if not may_look_ahead(self.state):
            return
        for case, session in tuple(self.state.probing.sessions.items()):
            trial = self.state.trials.get(case)
            if trial is not None and session.look_at is not None and self.t >= session.look_at:
                self.look_ahead_of(trial, session)

    def look_ahead_of(self, trial: Trial, session: Session) -> None:
        policy, memory = self.state.setup.policy, self.state.learned.foresight
        silent_s = self.t - (self.t if session.since is None else session.since)
        without = frozenset({MEASURE}) if silent_s >= THINKING_S else frozenset[str]()
        place = foresight.setting(trial.proposal)
        tree = foresight.ahead(memory, place, session.asked, policy.ahead, policy.ahead_depth, without)
        for asked in foresight.worth(memory, tree, policy.ahead_price):
            self.start_ahead(trial, asked)
        looks = session.looks + 1
        again = [run.started + PROBES[run.asked.name].max_age_s + RENEW_S for run in self.runs_for(trial)]
        if not without:
            again.append((session.since or self.t) + THINKING_S)
        later = min((t for t in again if t > self.t), default=None) if looks < LOOKS else None
        self.put_session(trial.id, replace(session, looks=looks, look_at=later))

    def start_ahead(self, trial: Trial, asked: Query) -> None:
        probing = self.state.probing
        outstanding = [run for run in probing.runs.values() if run.ahead]
        if any(run.asked == asked and self.holds(run) for run in outstanding):
            return
        under_way = sum(run.answer is None for run in outstanding)
        lately = [t for t in probing.wasted if t > self.t - 60.0]
        if under_way < UNDER_WAY and len(lately) + len(outstanding) < WASTED_A_MINUTE:
            for stale in outstanding:  # its answer, when it comes, would not be the one to serve
                if stale.asked == asked:
                    self.drop_run(stale)
                    self.waste()
            self.run(asked, None, ahead=trial.id)
            self.count(started=1)

    def runs_for(self, trial: Trial) -> list[Run]:
        return [run for run in self.state.probing.runs.values() if run.ahead == trial.id]

    # ---------------------------------------------------------------------- small parts

    def waste(self) -> None:
        wasted = tuple(t for t in self.state.probing.wasted if t > self.t - 60.0)
        self.state = replace(self.state, probing=replace(self.state.probing, wasted=(*wasted, self.t)))
        self.count(wasted=1)

    def count(
        self, asked: int = 0, hits: int = 0, started: int = 0, wasted: int = 0, saved_s: float = 0
    ) -> None:
        probing = self.state.probing
        tally = replace(
            probing.tally,
            asked=probing.tally.asked + asked,
            hits=probing.tally.hits + hits,
            started=probing.tally.started + started,
            wasted=probing.tally.wasted + wasted,
            saved_s=probing.tally.saved_s + saved_s,
        )
        self.state = replace(self.state, probing=replace(probing, tally=tally))

    def put_run(self, run: Run) -> None:
        runs = {**self.state.probing.runs, run.token: run}
        self.state = replace(self.state, probing=replace(self.state.probing, runs=runs))

    def drop_run(self, run: Run) -> None:
        runs = {token: r for token, r in self.state.probing.runs.items() if token != run.token}
        self.state = replace(self.state, probing=replace(self.state.probing, runs=runs))

    def put_session(self, case: str, session: Session) -> None:
        sessions = {**self.state.probing.sessions, case: session}
        self.state = replace(self.state, probing=replace(self.state.probing, sessions=sessions))


def may_look_ahead(state: State) -> bool:
    """Nothing is being measured or written, and there is somebody to look ahead for."""
    calm = (Phase.JUDGING, Phase.WAITING)
    quiet = all(trial.phase in calm and trial.window is None for trial in state.trials.values())
    allowed = state.actor_alive and not state.paused and not state.stopping
    return state.mode is Mode.LOSSLESS and state.setup.policy.ahead > 0 and allowed and quiet


def next_look(state: State) -> float | None:
    """When something that runs ahead grows stale, or an actor has been silent for so long that it thinks."""
    due = [session.look_at for session in state.probing.sessions.values()] if may_look_ahead(state) else []
    return min((t for t in due if t is not None), default=None)
