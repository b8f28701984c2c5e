"""Random events in random order, time going forward in jumps: what must hold, holds."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.test_advised import ITEMS
from tests.engine.test_learning import CPU, DISK
from tests.engine.test_suggesting import OPTIONS, SUGGEST
from tests.engine.world import CATALOGUE, FOUND, POLICY, RULES, World
from tuned_spec.approval import needed
from tuned_spec.engine import events as ev
from tuned_spec.engine import next_wake
from tuned_spec.engine.state import Phase, side
from tuned_spec.engine.telling import pending
from tuned_spec.envelope import CODES
from tuned_spec.model import (
    Approval,
    Arm,
    Asking,
    Cancel,
    Case,
    Expect,
    Measure,
    Measurement,
    Mode,
    Notice,
    Offer,
    Outlook,
    Probe,
    ProbeAnswer,
    Refusal,
    Risk,
    Rule,
    Side,
    Strategy,
    Suggestion,
    Value,
    Verdict,
    VerdictKind,
    Way,
    Write,
)
from tuned_spec.speculate.advice import IN_FORCE, MOST_S
from tuned_spec.speculate.signature import NEEDS

KNOBS = st.sampled_from(sorted(FOUND))
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.integers(-10, 2000), st.just("word"), st.tuples(st.integers(), st.integers())
)
APPROVALS = st.builds(
    Approval,
    risk=st.sampled_from([None, *Risk]),
    knobs=st.sampled_from([(), ("t.s*",)]),
    rules=st.sampled_from([(), ("grow",)]),
    ask=st.sampled_from(Asking),
    wait_at=st.sampled_from(Side),
    for_s=st.sampled_from([10.0, 600.0]),
)
METRICS = st.sampled_from(["app.p95", "app.other", "app.max", "app.lag", "cpu.busy"])
ENDS = {"confirmed", "overwritten", "reverted", "foreign", "failed"}


class Loop(RuleBasedStateMachine):
    @initialize(mode=st.sampled_from(list(Mode)), approval=APPROVALS, risky=st.sets(KNOBS, max_size=2))
    def begin(self, mode: Mode, approval: Approval, risky: set[str]) -> None:
        self.world = World(mode, msgspec.structs.replace(POLICY, approval=approval, suggest=SUGGEST))
        self.risky = risky
        high = {name: msgspec.structs.replace(CATALOGUE[name], risk=Risk.HIGH) for name in risky}
        setup = msgspec.structs.replace(
            self.world.state.setup, catalogue=CATALOGUE | high, options=tuple(set(OPTIONS) - risky)
        )
        self.world.state = msgspec.structs.replace(self.world.state, setup=setup)
        self.yes: set[tuple[str, Value]] = set()  # what was approved
        self.foreign: set[str] = set()
        self.stopped = False
        self.seen = self.noted = 0
        self.was_paused = self.asked = False
        self.world.feed(ev.ActorChanged(self.world.t, True, "started", 0.0, True))

    def cases(self) -> list[str]:
        return [m.id for m in self.world.told if isinstance(m, Case)]

    # ------------------------------------------------------------------- what may happen

    @rule(dt=st.sampled_from([0.01, 0.5, 1.0, 3.0, 20.0, 100.0, 10_000.0]))
    def time(self, dt: float) -> None:
        self.world.t += dt
        self.world.feed(ev.Ticked(self.world.t))

    @rule(dt=st.sampled_from([0.0, 0.1, 1.0]), values=st.dictionaries(METRICS, st.floats(0, 100)))
    def observe(self, dt: float, values: dict[str, float]) -> None:
        self.world.t += dt
        self.world.feed(ev.Observed(self.world.t, values, host="cpu.busy" in values))

    @rule(
        data=st.data(),
        arm=st.sampled_from(list(Arm)),
        settle=st.floats(-1, 5),
        dwell=st.floats(-1, 5),
        value=VALUES,
    )
    def measure(self, data: st.DataObject, arm: Arm, settle: float, dwell: float, value: Value) -> None:
        case = data.draw(st.sampled_from([*self.cases()[-3:], "nonsense"]))
        trial = self.world.state.trials.get(case)
        writes = tuple(Write(k, value) for k in trial.knobs) if trial else (Write("t.plain", value),)
        self.asked = True
        self.world.feed(ev.ActorSaid(self.world.t, Measure(case, 1, arm, settle, dwell, writes)))

    @rule(
        data=st.data(),
        kind=st.sampled_from(list(VerdictKind)),
        value=VALUES,
        knob=KNOBS,
        strategy=st.lists(ITEMS, max_size=5),
    )
    def verdict(
        self, data: st.DataObject, kind: VerdictKind, value: Value, knob: str, strategy: list[Strategy]
    ) -> None:
        case = data.draw(st.sampled_from([*self.cases()[-3:], "nonsense"]))
        verdict = Verdict(case, kind, "because", (Write(knob, value),), strategy=tuple(strategy))
        self.asked = True
        self.world.feed(ev.ActorSaid(self.world.t, verdict))

    @rule(data=st.data(), approve=st.booleans())
    def person(self, data: st.DataObject, approve: bool) -> None:
        """Answers what is pending, what is over, and what never was."""
        questions = {notice.trial: notice for notice in pending(self.world.state)}
        trial = data.draw(st.sampled_from([*questions, *questions, *self.cases()[-2:], "nonsense"]))
        if approve and trial in questions:
            self.yes |= {(move.knob, move.new) for move in questions[trial].moves}
        self.asked = True
        self.world.feed(ev.Decided(self.world.t, trial, approve, 0, "root"))

    @rule(data=st.data(), better=st.floats(-1, 1))
    def before_and_after(self, data: st.DataObject, better: float) -> None:
        case = data.draw(st.sampled_from([*self.cases()[-3:], "nonsense"]))
        figures = Verdict(case, VerdictKind.REJECT, "figures only", effect=better, claim="before_after")
        self.asked = True
        self.world.feed(ev.ActorSaid(self.world.t, figures))

    @rule(figures=st.sampled_from([CPU, DISK]), seconds=st.integers(1, 6))
    def workload(self, figures: dict[str, float], seconds: int) -> None:
        """A second of it at a time, with what searches listen to."""
        for _ in range(seconds):
            self.world.t += 1.0
            self.world.feed(ev.Observed(self.world.t, dict.fromkeys(NEEDS, 0.0) | figures))
            self.world.feed(ev.Observed(self.world.t, {"app.lag": 9.0}, host=False))

    @rule(rules=st.sets(st.sampled_from(RULES)))
    def planned(self, rules: set[Rule]) -> None:
        """What the rules are of goes and comes back."""
        now = tuple(one for one in RULES if one in rules)
        self.world.feed(ev.Planned(self.world.t, now, OPTIONS))

    @rule(data=st.data(), name=st.sampled_from(["memory", "changes", "top"]))
    def probe(self, data: st.DataObject, name: str) -> None:
        case = data.draw(st.sampled_from([*self.cases()[-3:], "nonsense"]))
        answers = len(self.answers())
        self.world.feed(ev.ActorSaid(self.world.t, Probe(case, 1, name)))
        assert len(self.answers()) == answers + 1, "each question is answered, if only by why not"

    def answers(self) -> list[ProbeAnswer]:
        return [m for m in self.world.told if isinstance(m, ProbeAnswer)]

    @rule(
        writes=st.lists(st.builds(Write, KNOBS, VALUES), max_size=2),
        source=st.sampled_from(["agent", "model"]),
        metric=METRICS,
        sensed=st.booleans(),
    )
    def outside(self, writes: list[Write], source: str, metric: str, sensed: bool) -> None:
        """Whoever proposes whatever is answered once: with a trial, or with a refusal and its words."""
        before = len(self.world.answers)
        offer = Offer(source, tuple(writes), Expect(metric, Way.DOWN), "an idea")
        refusal = None if sensed else Refusal("no_metric", "", "a test")
        self.world.feed(ev.Offered(self.world.t, offer, refusal))
        (said,) = self.world.answers[before:]
        assert bool(said.trial) != bool(said.refusal and said.refusal.what)

    @rule(data=st.data(), source=st.sampled_from(["agent", "model"]))
    def withdraw(self, data: st.DataObject, source: str) -> None:
        """Only what it proposed itself."""
        state = self.world.state
        ids = {*state.trials, *(held.trial for held in state.held.values()), "nonsense"}
        trial = data.draw(st.sampled_from(sorted(ids)))
        mine = {t.id for t in state.trials.values() if t.proposal.rule == f"outside.{source}"}
        mine |= {held.trial for held in state.held.values() if held.rule == f"outside.{source}"}
        self.world.feed(ev.Withdrawn(self.world.t, source, trial))
        assert (self.world.answers[-1].refusal is None) == (trial in mine)

    @rule(
        data=st.data(),
        writes=st.lists(st.builds(Write, KNOBS, VALUES), max_size=2),
        metric=METRICS,
        confidence=st.floats(),
    )
    def suggest(self, data: st.DataObject, writes: list[Write], metric: str, confidence: float) -> None:
        """What a model says to any question, asked or not."""
        asked = [m.id for m in self.world.told if isinstance(m, Outlook)]
        outlook = data.draw(st.sampled_from([*asked[-2:], "nonsense"]))
        said = Suggestion(outlook, tuple(writes), metric, "because", confidence)
        self.world.feed(ev.ActorSaid(self.world.t, said))

    @rule(alive=st.booleans(), speculates=st.booleans())
    def actor(self, alive: bool, speculates: bool) -> None:
        self.world.feed(ev.ActorChanged(self.world.t, alive, "test", 0.0, speculates))

    @rule(ok=st.booleans())
    def journal(self, ok: bool) -> None:
        self.world.feed(ev.JournalChanged(self.world.t, ok, "test"))

    @rule(knob=KNOBS, value=st.integers(2001, 2005))
    def outsider(self, knob: str, value: int) -> None:
        self.foreign.add(knob)
        self.world.outsider(knob, value)

    @rule(knobs=st.lists(KNOBS, max_size=2), restore=st.booleans())
    def pause(self, knobs: list[str], restore: bool) -> None:
        self.world.feed(ev.Pause(self.world.t, restore, tuple(knobs)))

    @rule(knobs=st.lists(KNOBS, max_size=2))
    def resume(self, knobs: list[str]) -> None:
        self.world.feed(ev.Resume(self.world.t, tuple(knobs)))

    @rule(knob=KNOBS, refuses=st.booleans())
    def kernel_refuses(self, knob: str, refuses: bool) -> None:
        (self.world.refuse.add if refuses else self.world.refuse.discard)(knob)

    @rule(knob=KNOBS, sticks=st.booleans())
    def kernel_sticks(self, knob: str, sticks: bool) -> None:
        (self.world.stuck.add if sticks else self.world.stuck.discard)(knob)

    @rule(trial=st.sampled_from(["t1", "t2", "t9"]), rule_=st.sampled_from(["grow", "nonsense"]))
    def stray_answers(self, trial: str, rule_: str) -> None:
        """Answers to questions nobody asked change nothing."""
        if trial not in self.world.state.trials:
            self.world.feed(ev.Applied(self.world.t, trial, (), ()))
            self.world.feed(ev.ApplyFailed(self.world.t, trial, "t.plain", 1, "stray"))
            self.world.feed(ev.Reverted(self.world.t, trial, ()))
        self.world.feed(ev.Looked(self.world.t, rule_, {}))

    # --------------------------------------------------------------------- what must hold

    @invariant()
    def a_lease_always_ends(self) -> None:
        for trial in self.world.state.trials.values():
            assert trial.phase is Phase.REVERTING or self.world.t < trial.deadline

    @invariant()
    def nothing_outside_the_envelope_is_commanded(self) -> None:
        limit = self.world.state.setup.policy.limits[0]
        assert limit.low is not None and limit.high is not None and limit.bound_ratio is not None
        for name, value in self.world.written:
            entry = CATALOGUE[name]
            assert isinstance(value, int) and entry.low is not None and entry.high is not None
            if name in self.foreign:  # an outsider's value is where we found it, and goes back as it was
                continue
            assert entry.low <= value <= entry.high
            if name == "t.plain":
                assert limit.low <= value <= limit.high
                assert value <= 100 * limit.bound_ratio

    @invariant()
    def observing_writes_nothing(self) -> None:
        if self.world.state.mode is Mode.OBSERVE:
            assert not self.world.written
            assert not [c for c in self.world.commands if isinstance(c, ev.Apply)]

    @invariant()
    def lossless_leaves_nothing_changed_between_windows(self) -> None:
        if self.world.state.mode is not Mode.LOSSLESS:
            return
        for trial in self.world.state.trials.values():
            if trial.phase is Phase.JUDGING and trial.window is None and not self.world.refuse:
                assert trial.arm is Arm.A

    @invariant()
    def who_waits_for_a_person_rests_at_the_safe_side(self) -> None:
        for trial in self.world.state.trials.values():
            if trial.phase is Phase.WAITING and trial.question and not self.foreign & set(trial.knobs):
                new = side(self.world.state) is Side.NEW and trial.question.verdict
                for write in trial.question.writes if new else trial.before:
                    assert self.world.kernel[write.knob] == write.value

    @invariant()
    def nothing_of_high_risk_is_written_without_a_yes(self) -> None:
        for name, value in self.world.written:
            found = value == FOUND[name] or name in self.foreign
            assert name not in self.risky or found or (name, value) in self.yes

    @invariant()
    def what_needs_a_yes_is_held_with_one_only(self) -> None:
        state = self.world.state
        for held in state.held.values():
            by_rule, catalogue = (held.rule,), state.setup.catalogue
            if needed(state.setup.policy.approval, by_rule, (held.knob,), catalogue):
                assert [n for n in self.world.notes if n.kind == "decided" and n.trial == held.trial]

    @invariant()
    def what_is_changed_is_known(self) -> None:
        """A knob not as it was found is in an open trial, held, or somebody else's."""
        state = self.world.state
        known = set(state.held) | {k for t in state.trials.values() for k in t.knobs} | set(state.foreign)
        known |= self.world.stuck | self.foreign
        for name, value in self.world.kernel.items():
            assert value == FOUND[name] or name in known, (name, value)

    @invariant()
    def nothing_new_is_written_while_paused(self) -> None:
        """Arms that the actor asks for are no news; what a search or a rule would like to try is."""
        new, self.seen = self.world.commands[self.seen :], len(self.world.commands)
        if self.world.state.paused and self.was_paused:
            searching = {t.id for t in self.world.state.trials.values() if t.phase is Phase.CLIMBING}
            assert not [c for c in new if isinstance(c, ev.Apply) and c.trial in searching]
            assert not [n for n in self.world.notes[self.noted :] if n.kind == "proposed"]
        self.was_paused, self.noted = self.world.state.paused, len(self.world.notes)

    @invariant()
    def switches_keep_to_their_budget(self) -> None:
        budget = self.world.state.setup.policy.toggles_per_minute
        assert len([x for x in self.world.state.envelope.toggles if x > self.world.t - 60.0]) <= budget

    @invariant()
    def nobody_waits_for_an_answer_that_came(self) -> None:
        assert not self.world.state.looking and not self.world.state.offers

    @invariant()
    def a_search_has_something_to_wait_for(self) -> None:
        for trial in self.world.state.trials.values():
            assert trial.phase is not Phase.CLIMBING or trial.window is not None

    @invariant()
    def lossless_writes_only_what_was_asked_for(self) -> None:
        if self.world.state.mode is Mode.LOSSLESS:
            applied = [c for c in self.world.commands if isinstance(c, ev.Apply)]
            assert not applied or self.asked
            assert not [n for n in self.world.notes if n.kind == "climbed"]

    @invariant()
    def advice_is_little_and_ends(self) -> None:
        advice = self.world.state.advice
        assert len(advice) <= IN_FORCE and all(one.until <= self.world.t + MOST_S for one in advice)

    @invariant()
    def one_trial_a_knob(self) -> None:
        knobs = [k for t in self.world.state.trials.values() for k in t.knobs]
        assert len(knobs) == len(set(knobs))

    @invariant()
    def refusals_have_codes(self) -> None:
        assert set(self.world.state.refusals) <= set(CODES)

    @rule()
    def sleep_until_due(self) -> None:
        """The loop sleeps until something is due, and then has dealt with it: it never spins."""
        due = next_wake(self.world.state)
        if self.world.state.trials:
            assert due is not None
        if due is not None:
            self.world.t = max(self.world.t, due)
            for _ in range(3):  # what falls due may set the next thing at once, but not for ever
                self.world.feed(ev.Ticked(self.world.t))
            due = next_wake(self.world.state)
            assert due is None or due > self.world.t

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.stuck.clear()
        world.refuse.clear()
        world.feed(ev.Pause(world.t))  # no new questions
        longest = world.state.setup.policy.approval.for_s
        for dt in (
            longest,
            50.0,
            5.0,
            50.0,
            50.0,
        ):  # every lease and every retry is over by then
            world.t += dt
            world.feed(ev.Ticked(world.t))
        assert not world.state.trials
        opened = {n.trial for n in world.notes if n.kind == "proposed"}
        ended = {n.trial for n in world.notes if n.kind in ENDS and n.trial}
        ended |= {t for n in world.notes if n.kind == "reverted" for t in _trials(n.data)}
        assert opened <= ended, f"never ended: {opened - ended}"
        world.feed(ev.Stop(world.t, "the end"))
        for name, value in world.kernel.items():
            assert value == FOUND[name] or name in self.foreign, f"{name} was left at {value}"
        kinds = Measurement | Cancel | Case | Notice | Outlook | ProbeAnswer
        answered = [m for m in world.told if isinstance(m, kinds)]
        assert len(answered) == len(world.told)


def _trials(data: dict[str, object]) -> list[str]:
    trials = data.get("trials", ())
    assert isinstance(trials, tuple)
    return [str(t) for t in trials]


Loop.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestLoop = Loop.TestCase
