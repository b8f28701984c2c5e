"""What people are told of the state: the questions that wait for them, and `status`. Decides nothing."""

from __future__ import annotations

import msgspec

from tuned_spec.engine.state import Question, State, Trial, concerned, is_pending, side
from tuned_spec.model import (
    Asking,
    Mode,
    Move,
    Notice,
    RestRule,
    Side,
)
from tuned_spec.speculate import advice
from tuned_spec.speculate.selection import hit_rate


def notice(state: State, trial: Trial, question: Question, event: str, what: str) -> Notice:
    """What a person is told of it."""
    verdict, pending = question.verdict, event == "pending"
    old = {write.knob: write.value for write in trial.before}
    names = ("effect", "low", "high", "e_value", "pairs", "confidence")
    found = {name: getattr(verdict, name) for name in names} if verdict else {}
    return Notice(
        event=event,
        trial=trial.id,
        rule=trial.proposal.rule,
        moves=tuple(Move(w.knob, old[w.knob], w.value) for w in question.writes if w.knob in old),
        reason=trial.proposal.reason,
        what=what,
        asked=Asking.AFTER_TRIAL if verdict else Asking.BEFORE_TRIAL,
        waits_at=side(state) if verdict else Side.OLD,
        by=verdict.by if verdict else "",
        claim=verdict.claim if verdict else "",
        figures={name: float(value) for name, value in found.items() if value is not None},
        left_s=round(max(0.0, trial.deadline - state.t), 1) if pending else 0.0,
        approve=f"sudo tuned-spec approve {trial.id}{state.where}" if pending else "",
        reject=f"sudo tuned-spec reject {trial.id}{state.where}" if pending else "",
    )


def question_of(state: State, trial: Trial, question: Question) -> str:
    """In words."""
    if question.verdict is not None:
        return f"may it be kept? {question.verdict.reason}"
    if (climb := state.setup.climb(trial.proposal.rule)) is None:
        return "may it be tried? Nothing is written before"
    room = ", ".join(f"{span.knob} between {span.low} and {span.high}" for span in climb.spans)
    return f"may a search move {room}? Nothing is written before"


def pending(state: State) -> tuple[Notice, ...]:
    """The questions that wait for a person, the one that ends first at the top."""
    return tuple(
        notice(state, trial, trial.question, "pending", question_of(state, trial, trial.question))
        for trial in sorted(state.trials.values(), key=lambda trial: trial.deadline)
        if is_pending(trial) and trial.question
    )


def find_pending(state: State, word: str) -> Notice | str:
    """The question that `word` means (a trial's id, its beginning or its number), or why it means none."""
    questions = pending(state)
    alike = [q for q in questions if word and q.trial.startswith(word)]
    numbered = [q for q in questions if q.trial.removeprefix(state.prefix) == word]
    found = [q for q in questions if q.trial == word] or numbered or alike
    if len(found) == 1:
        return found[0]
    if found:
        return f"{word!a} may be {' or '.join(question.trial for question in found)}; write more of it"
    if trial := state.trials.get(word):
        return f"{word} is open ({trial.phase.value}), but nobody is asked about it"
    number = word.removeprefix(state.prefix)
    if word.startswith(state.prefix) and number.isdecimal() and 0 < int(number[:9]) <= state.started:
        return f"{word} is over; `tuned-spec history --trial {word}` says how it ended"
    return f"{word[:60]!a} is no question that waits for an answer"


def describe(state: State, t: float) -> dict[str, object]:
    """The engine's part of `tuned-spec status`, as JSON types."""
    hits, usual = hit_rate(state.learned.record), state.learned.watched.usual
    since = state.learned.watched.since if state.learned.watched.recent else None
    return {
        "mode": state.mode.value,
        "policy": list(state.setup.policy.names),
        "paused": state.paused,
        "alpha": state.setup.policy.alpha,
        "pending": [
            {name: value for name, value in said.items() if name not in ("type", "event")}
            for said in msgspec.to_builtins(pending(msgspec.structs.replace(state, t=t)))
        ],
        "open": [
            {
                "trial": trial.id,
                "rule": trial.proposal.rule,
                "knobs": {w.knob: w.value for w in trial.after or trial.proposal.writes},
                "state": trial.phase.value,
                "arm": trial.arm.value,
                "pairs": trial.measured // 2,
                "deadline_in_s": round(trial.deadline - t, 1),
                "next": list(state.prepared.get(trial.id, ())),
            }
            for trial in state.trials.values()
        ],
        "held": [
            {
                "knob": held.knob,
                "original": state.originals.get(held.knob),
                "value": held.value,
                "trial": held.trial,
                "rule": held.rule,
                "since_s": round(t - held.since, 1),
            }
            for held in state.held.values()
        ],
        "foreign": [
            {"knob": name, "ours": f.ours, "found": f.found, "writer": f.writer}
            for name, f in state.foreign.items()
        ],
        "ahead": {
            "k": state.setup.policy.ahead if state.mode is Mode.LOSSLESS else 0,
            **msgspec.structs.asdict(state.probing.tally),
        },
        "advice": [
            {
                "what": advice.words(one.item),
                "reason": one.item.reason,
                "rule": one.item.rule if isinstance(one.item, RestRule) else "",
                "knobs": list(concerned(state, one.item)),
                "by": one.by,
                "trial": one.trial,
                "left_s": round(one.until - t, 1),
                "holds": one.holds(usual, t),
            }
            for one in state.advice
            if t < one.until
        ],
        "guesses": {"judged": hits.proposed, "confirmed": hits.confirmed},
        "workload": {"age_s": None if since is None else round(t - since, 1), "known": state.learned.tried},
        "refusals": state.refusals,
        "metrics": {name: values[-1] for name, values in sorted(state.latest.items())},
    }
