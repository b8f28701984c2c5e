"""The review as a flow: who is asked when, what is asked back, and what comes of it under each setting."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
import pytest

from tests.actor.cases import KNOB, Window, allowed, case
from tests.actor.reviews import Session, Speaker, says
from tuned_spec.actor import review
from tuned_spec.actor.flow import Consult, Reply
from tuned_spec.actor.record import MOST_RECORD
from tuned_spec.actor.review import Settings
from tuned_spec.actor.weigh import Keep
from tuned_spec.model import Arm, Case, Measure, Past, Verdict, VerdictKind, Write

ROOMY = case(allowed=allowed(100, 100_000), lease_s=400.0, review_s=180.0)
# With a value further on the trial would try that one, too; here the model is to be the only one with ideas.
NARROW = case(allowed=allowed(2000, 3000), lease_s=400.0, review_s=180.0, before=(Write(KNOB.id, 2001),))


def levels(of: Callable[[int], float]) -> Window:
    """Windows that show what the knob's value makes of the metric, nearly without noise."""
    wobble = random.Random(5)

    def window(measure: Measure) -> dict[str, tuple[float, ...]]:
        value = {Arm.A: 3000, Arm.B: 2000}.get(measure.arm)
        number = measure.writes[0].value if value is None else value
        assert isinstance(number, int)
        return {"app.p95_ms": tuple(of(number) * wobble.uniform(0.99, 1.01) for _ in range(4))}

    return window


HELPS = levels(lambda value: 10.0 if value >= 3000 else 5.0 if value > 200 else 20.0)
HARMS = levels(lambda value: 10.0 if value >= 3000 else 20.0)
NOTHING = levels(lambda value: 10.0)


def verdict(kind: str, value: object = None, **more: object) -> str:
    knob: dict[str, object] = {"verdict": kind}
    if value is not None:
        knob["value"] = value
    return json.dumps({"knobs": {KNOB.id: knob}, "reason": "as I see it", "confidence": 0.7, **more})


def run(window: Window, speak: Speaker, keep: Keep = Keep.BOTH, one: Case = ROOMY, **more: object) -> Session:
    settings = Settings(keep=keep, **more)  # type: ignore[arg-type]
    return Session(review.judge(one, random.Random(1), settings), window, speak)


def outcome(session: Session) -> Verdict:
    assert session.verdict is not None
    return session.verdict


def test_kept_only_when_both_agree() -> None:
    agreed = run(HELPS, says(verdict("confirm")))
    assert outcome(agreed).kind is not VerdictKind.REJECT
    assert outcome(agreed).by == "trial and model"
    assert set(outcome(agreed).opinions) == {"trial", "model"}
    refused = run(HELPS, says(verdict("reject")))
    assert outcome(refused).kind is VerdictKind.REJECT
    assert outcome(refused).by == "model"
    assert "as I see it" in outcome(refused).reason


@pytest.mark.parametrize("keep", [Keep.BOTH, Keep.EVIDENCE])
def test_what_the_trial_rejects_needs_no_call(keep: Keep) -> None:
    session = run(HARMS, says(verdict("confirm")), keep)
    assert outcome(session).kind is VerdictKind.REJECT
    assert not session.consults and not session.records


def test_no_opinion_counts_against_a_harm_that_was_shown() -> None:
    session = run(HARMS, says(verdict("confirm")), Keep.MODEL)
    assert outcome(session).kind is VerdictKind.REJECT
    assert "no opinion counts" in outcome(session).reason
    assert not session.consults


def test_the_model_may_decide_where_the_trial_shows_nothing() -> None:
    kept = run(NOTHING, says(verdict("confirm")), Keep.MODEL)
    assert outcome(kept).kind is VerdictKind.CONFIRM
    assert outcome(kept).by == "model"
    assert "not shown by the trial" in outcome(kept).reason


def test_under_evidence_the_word_is_only_on_record() -> None:
    session = run(HELPS, says(verdict("reject")), Keep.EVIDENCE)
    assert outcome(session).kind is not VerdictKind.REJECT
    assert outcome(session).opinions["model"].startswith("reject")


def test_under_evidence_silence_leaves_the_trials_verdict() -> None:
    def fails(_: Consult) -> Reply:
        return Reply(error="429 for too long")

    session = run(HELPS, fails, Keep.EVIDENCE)
    assert outcome(session).kind is not VerdictKind.REJECT
    assert "429" in outcome(session).opinions["model"]


def test_else_silence_is_silence() -> None:
    for speak in (says("I am afraid I cannot do that."), lambda _: Reply(error="the endpoint is gone")):
        for keep in (Keep.BOTH, Keep.MODEL):
            session = run(HELPS, speak, keep)
            assert session.verdict is None and session.silence


def test_each_exchange_is_recorded_also_one_that_failed() -> None:
    records = run(HELPS, says("no", verdict("confirm"))).records
    assert [r.outcome.split(" ")[0].rstrip(":") for r in records] == ["unusable", "confirm"]
    assert records[1].exchange[0] == "no" and "cannot be used" in records[1].exchange[1]
    assert all(len(msgspec.json.encode(r)) <= MOST_RECORD for r in records)


def test_probes_are_asked_answered_and_counted() -> None:
    asks = json.dumps({"probes": ["memory", "top_processes cpu"]})
    session = run(HELPS, says(asks, asks, verdict("confirm")), probes=3)
    assert [p.name for p in session.probes] == ["memory", "top_processes"]
    assert session.probes[1].args == {"by": "cpu"}
    assert [r.outcome[:8] for r in session.records] == ["asks mem", "unusable", "confirm "]
    assert len({*(p.seq for p in session.probes), *(m.seq for m in session.measures)}) == len(
        session.probes
    ) + len(session.measures)


def test_a_model_that_never_stops_asking_is_silent() -> None:
    session = run(HELPS, says('{"probes":["memory"]}'), probes=100)
    assert "no verdict" in session.silence or "could not be used" in session.silence
    assert len(session.consults) <= review.MOST_CALLS


def test_the_models_own_value_is_measured_and_kept_if_as_good() -> None:
    session = run(HELPS, says(verdict("overwrite", 300)))
    tried = [m.writes[0].value for m in session.measures if m.arm is Arm.C]
    assert 300 in tried
    assert (outcome(session).kind, outcome(session).writes) == (
        VerdictKind.OVERWRITE,
        (Write(KNOB.id, 300),),
    )


def test_a_value_that_did_worse_is_not_kept_and_the_model_is_asked_again() -> None:
    again = run(HELPS, says(verdict("overwrite", 150), verdict("confirm")))
    assert outcome(again).kind is not VerdictKind.REJECT
    assert Write(KNOB.id, 150) not in outcome(again).writes
    assert "was not shown to be as good" in again.consults[1].said[-1].text
    gone = run(HELPS, says(verdict("overwrite", 150), verdict("reject")))
    assert outcome(gone).kind is VerdictKind.REJECT


SAME = msgspec.structs.replace(ROOMY, allowed=allowed(2000, 3000))  # the trial has nothing further to try


def past(n: int, **more: object) -> Past:
    facts: dict[str, object] = {
        "writes": (Write(KNOB.id, 2000),),
        "fate": "confirmed",
        "age_s": 3600.0 * n,
        "distance": 0.3,
        "by": "trial and model",
    }
    return Past(trial=f"t{n}", rule="slow", **{**facts, **more})  # type: ignore[arg-type]


def told(*before: Past) -> Case:
    return msgspec.structs.replace(SAME, past=before)


def test_what_was_judged_often_and_lately_is_not_asked_again() -> None:
    session = run(HELPS, says(verdict("reject")), one=told(past(2), past(1)))
    assert not session.consults
    assert outcome(session).kind is not VerdictKind.REJECT
    assert "as judged 2 times before, last t1" in outcome(session).reason
    assert outcome(session).by == "trial and memory"


@pytest.mark.parametrize(
    "before",
    [
        (past(1),),  # once is not often
        (past(1), past(2, age_s=8 * 86_400.0)),
        (past(1), past(2, distance=1.5)),
        (past(1), past(2, distance=None)),
        (past(1), past(2, by="trial")),
        (past(1), past(2, by="trial and memory")),
        (past(1), past(2, writes=(Write(KNOB.id, 2001),))),
        (past(1), past(2), past(3, fate="rejected")),  # it was of two minds
        (past(1, fate="rejected"), past(2, fate="rejected")),  # and the trial shows the opposite
    ],
)
def test_memory_that_is_old_far_or_of_two_minds_does_not_do(before: tuple[Past, ...]) -> None:
    assert run(HELPS, says(verdict("confirm")), one=told(*before)).consults


def test_memory_can_be_switched_off() -> None:
    assert run(HELPS, says(verdict("confirm")), one=told(past(1), past(2)), often=0).consults


def test_a_knob_that_cannot_be_alternated_may_be_kept_on_the_models_word_with_the_weaker_claim() -> None:
    slow = msgspec.structs.replace(ROOMY, alternable=False, history={"app.p95_ms": (10.0,) * 30})
    session = run(HELPS, says(verdict("confirm")), Keep.MODEL, slow)
    assert outcome(session).kind is VerdictKind.CONFIRM
    assert outcome(session).claim == "before_after"
    assert "before and after only" in outcome(session).reason
    assert "a weaker claim" in session.consults[0].said[0].text
    assert outcome(run(HELPS, says(verdict("confirm")), one=slow)).kind is VerdictKind.REJECT


def test_a_huge_conversation_fits_its_record() -> None:
    asks = json.dumps({"probes": ["memory", "sockets", "disks", "kernel_log"]})
    settings = Settings(probes=30)
    flow = review.judge(ROOMY, random.Random(1), settings)
    session = Session(
        flow, HELPS, says(asks, asks, asks, "x" * 200_000, asks, verdict("confirm")), "é\n" * 3000
    )
    assert session.verdict is not None
    assert max(len(msgspec.json.encode(r)) for r in session.records) <= MOST_RECORD


def test_secrets_are_not_in_what_is_asked_nor_in_what_is_recorded() -> None:
    secret = "AKIA" + "ABCDEFGHIJKLMNOP"
    leak = f"worker --password=hunter2 {secret}"
    one = msgspec.structs.replace(ROOMY, reason=leak)
    flow = review.judge(one, random.Random(1), Settings())
    session = Session(flow, HELPS, says('{"probes":["kernel_log"]}', f"{leak}!", verdict("confirm")), leak)
    heard = str(session.consults) + str(session.records)
    assert "hunter2" not in heard and secret not in heard
    assert "***" in heard
