"""Answers to the probes that only the daemon knows: metrics as sensed, knobs, what is changed.

Owns their form. Must not know who asks; reads the host through the ledger only. What is `exact` (see
`probes.names`) holds no time and no age, so that it is the same until the ledger's next deed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from tuned_spec.engine.state import State
from tuned_spec.errors import KnobError
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Knob
from tuned_spec.probes.answer import ERROR_LIMIT, Unanswered, answer, figure
from tuned_spec.probes.redact import plain, starred
from tuned_spec.sense.metrics import find

HISTORY = 60  # values of a metric
_OURS = ("adapter", "target", "tried", "choices_from")  # of an entry: nothing that helps a judge


def metric_history(args: Mapping[str, str], state: State, ledger: Ledger) -> str:
    """`args`: metric. Oldest first."""
    name = args["metric"]
    values = state.latest.get(name)
    if not values:
        near = ", ".join(n for n in sorted(state.latest) if n.split(".")[0] == name.split(".")[0])
        near = near or ", ".join(sorted(state.latest))
        raise Unanswered(f"metric_history: {name} is not sensed here now; these are: {near}"[:ERROR_LIMIT])
    metric = find(name)
    facts: dict[str, object] = {"metric": name}
    if metric:
        facts |= {"unit": metric.unit, "doc": metric.doc} | (
            {"better": metric.better} if metric.better else {}
        )
    return answer(facts | {"oldest_first": [figure(value) for value in values[-HISTORY:]]})


def knob(args: Mapping[str, str], state: State, ledger: Ledger) -> str:
    """`args`: knob."""
    name = args["knob"]
    try:
        entry = state.setup.catalogue[name]
    except (KeyError, KnobError):
        raise Unanswered(f"knob: {name} is not in the catalogue") from None
    facts: dict[str, object] = {"entry": _entry(entry)}
    try:
        facts["value"] = ledger.value(name)
    except KnobError as error:
        facts["unreadable"] = str(error)[:ERROR_LIMIT]
    if foreign := state.foreign.get(name):
        facts["held_by"] = f"somebody else: {starred(plain(foreign.writer))}"
    elif held := state.held.get(name):
        facts["held_by"] = f"tuned-spec, confirmed in {held.trial}"
    else:
        trial = next((t.id for t in state.trials.values() if name in t.knobs), "")
        facts["held_by"] = f"tuned-spec, on trial in {trial}" if trial else "nobody: as tuned-spec found it"
    if (original := ledger.original(name)) is not None:
        facts["original"] = original
    return answer(facts)


def _entry(entry: Knob) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(entry)
    return {name: value for name, value in facts.items() if name not in _OURS}


def changes(args: Mapping[str, str], state: State, ledger: Ledger) -> str:
    """What is open, held, and left to others."""
    rows: dict[str, list[object]] = {
        "on_trial": [
            {
                "trial": trial.id,
                "rule": trial.proposal.rule,
                "before": {w.knob: w.value for w in trial.before},
                "after": {w.knob: w.value for w in trial.after or trial.proposal.writes},
                "metric": trial.proposal.expect.metric,
            }
            for trial in state.trials.values()
        ],
        "held": [
            {
                "knob": held.knob,
                "value": held.value,
                "original": state.originals.get(held.knob),
                "trial": held.trial,
                "rule": held.rule,
            }
            for held in state.held.values()
        ],
        "written_by_others": [
            {"knob": name, "ours": f.ours, "theirs": f.found, "writer": starred(plain(f.writer))}
            for name, f in state.foreign.items()
        ],
    }
    return answer({"mode": state.mode.value}, rows)


# name -> from its arguments the answer, or Unanswered
KNOWN: dict[str, Callable[[Mapping[str, str], State, Ledger], str]] = {
    "metric_history": metric_history,
    "knob": knob,
    "changes": changes,
}
