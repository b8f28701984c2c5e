"""The loop's one brain: `step(state, event) -> (state, commands)`, pure and total.

It decides what is guessed, allowed, tried, measured, kept and put back; it never touches the host, and
knows no time but the one an event carries. What holds whatever comes, in whichever order:

- nothing is commanded that the envelope has not allowed;
- an applied change is provisional and has a deadline, after which it goes back, verdict or none;
- an open trial ends confirmed, overwritten, reverted or foreign;
- in `observe` nothing is written, in `lossless` only what the actor asked for.
"""

from __future__ import annotations

from typing import assert_never

from tuned_spec.engine.events import (
    ActorChanged,
    ActorSaid,
    Applied,
    ApplyFailed,
    Command,
    Decided,
    Event,
    ForeignFound,
    JournalChanged,
    Looked,
    Observed,
    Offered,
    Pause,
    Planned,
    Probed,
    Resume,
    Reverted,
    Stop,
    Ticked,
    Withdrawn,
)
from tuned_spec.engine.probing import next_look
from tuned_spec.engine.state import Phase, State
from tuned_spec.engine.suggesting import Suggesting
from tuned_spec.speculate import rules as speculator

LEDGER_DID = (Applied, ApplyFailed, Reverted, ForeignFound)


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """What the engine makes of one event. Never raises; an event that no longer fits changes nothing."""
    turn = Suggesting(state, event.t)
    if isinstance(event, LEDGER_DID):
        turn.deed()
    match event:
        case Observed():
            turn.observed(event)
        case Ticked():
            turn.ticked()
        case Looked():
            turn.looked(event)
        case Applied():
            turn.applied(event)
        case ApplyFailed():
            turn.apply_failed(event)
        case Reverted():
            turn.reverted(event)
        case ForeignFound():
            turn.foreign_found(event)
        case ActorSaid():
            turn.actor_said(event.message)
        case Probed():
            turn.probed(event)
        case ActorChanged():
            turn.actor_changed(event)
        case JournalChanged():
            turn.journal_changed(event)
        case Pause():
            turn.pause(event)
        case Resume():
            turn.resume(event)
        case Planned():
            turn.planned(event)
        case Offered():
            turn.offered(event)
        case Withdrawn():
            turn.withdrawn(event)
        case Decided():
            turn.decided(event)
        case Stop():
            turn.stop(event)
        case _:
            assert_never(event)
    turn.time_passes()
    turn.look_ahead()
    return turn.state, tuple(turn.commands)


def next_wake(state: State) -> float | None:
    """When something falls due although nothing happens: the loop may sleep until then."""
    due = [speculator.next_check(state.rules, state.t)]
    for trial in state.trials.values():
        due.append(trial.retry_at if trial.phase is Phase.REVERTING else trial.deadline)
        if trial.window and trial.phase in (Phase.JUDGING, Phase.CLIMBING):
            due.append(trial.window.closes if trial.window.opened else trial.window.opens)
        due.append(trial.rest_due)
    due.append(next_look(state))
    return min((t for t in due if t is not None), default=None)
