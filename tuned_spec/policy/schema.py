"""JSON Schema of a policy file, for editors: completion, hover texts, red lines while typing.

Made from the same tables and patterns that `merge` reads by. It knows shapes only; what the catalogue and the
host say (knobs, ranges, metrics, users) is for `tuned-spec check`. `python -m tuned_spec.policy.schema`
prints policies/schema.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuned_spec.model import Asking, Mode, Side
from tuned_spec.policy import approval, climbs, grammar, limits, merge, rules, suggest, targets, units

Schema = dict[str, Any]

# A bare number is a number to YAML, one with a unit is text.
_AMOUNT: Schema = {"type": ["string", "number"], "pattern": f"^{units.QUANTITY}$"}
# What a knob is to hold: an amount, or an expression over facts of the host, whose words `check` knows.
_VALUE: Schema = {
    "type": ["string", "number"],
    "pattern": r"^[-+0-9A-Za-zµ%_.,()*/ ]+$",
    "examples": ["64KiB", "25% of ram"],
}
_WORDS: Schema = {"type": "string", "minLength": 1}


def _sentence(pattern: str, example: str) -> Schema:
    return {"type": "string", "pattern": f"^{pattern}$", "examples": [example]}


def _several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def _keyed(keys: Sequence[str], described: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": {key: described[key] for key in keys},
        "required": list(required),
        "additionalProperties": False,
    }


def _named(pattern: str, value: Schema) -> Schema:
    return {"type": "object", "patternProperties": {f"^{pattern}$": value}, "additionalProperties": False}


def _said(schema: Schema, description: str) -> Schema:
    return {"description": description, **schema}


_CONDITION = _sentence(
    grammar.CONDITION, "psi.cpu.some > 20% for 3s clear 10% else cpu.blocked > 4 for 3s clear 2"
)
_KNOB = r"[a-z][A-Za-z0-9_.-]*(?:@[^\s\[\]]+)?"

_RULE = {
    "id": _said(
        {"type": "string", "pattern": f"^{targets.NAME}$"}, "Its name in `why`, `history` and `disable`."
    ),
    "reason": _said(_WORDS, "One sentence: why this should help."),
    "source": _said(_WORDS, "Where the idea is from."),
    "when": _said(_several(_CONDITION), "All must hold: METRIC > LEVEL for TIME clear LEVEL [else ...]."),
    "do": _said(
        _named(rf"{_KNOB}(\[[a-z_]+\])?", _sentence(grammar.ACTION, "multiply 2")),
        "One transaction, in this order; KNOB[FIELD] is one number of several.",
    ),
    "expect": _said(
        _sentence(grammar.EXPECT, "app.p95_ms falls by 5%"), "What must move for the change to be kept."
    ),
    "guard": _said(
        _several(_sentence(grammar.GUARD, "tcp.retrans_share may rise 10%")),
        "What must not get worse by more.",
    ),
    "cooldown": _said(_AMOUNT, "Least time between two changes by this rule (60s)."),
    "settle": _said(_AMOUNT, "Thrown away after each switch of arms (what the knobs need)."),
    "dwell": _said(_AMOUNT, "Measured after that, each time (what the knobs and metrics need)."),
    "lease": _said(_AMOUNT, "Without a verdict by then the change is taken back (what a trial takes)."),
    "confidence": _said(_AMOUNT, "How sure the author is (50%)."),
    "approval": _said({"const": approval.REQUIRED}, "A person must say yes to it."),
}
_CLIMB = {
    **{key: _RULE[key] for key in ("id", "reason", "source", "guard", "settle", "dwell", "confidence")},
    "over": _said(
        _named(rf"{_KNOB}(\[[a-z_]+\])?", {**_several(_VALUE), "minItems": 2, "maxItems": 2}),
        "One to four numbers, each with the range to search, inside the catalogue's.",
    ),
    "expect": _said(
        _sentence(grammar.EXPECT, "app.p95_ms falls by 5%"),
        "What to search the best of; with less than this to gain the search rests.",
    ),
    "every": _said(_AMOUNT, "One move a window of this length (1s)."),
    "step": _said(_AMOUNT, "One move changes a number by at most this factor (4x)."),
    "recheck": _said(_AMOUNT, "At rest: how often it asks itself whether what it knows is too old (60s)."),
    "approval": _said({"const": approval.REQUIRED}, "A person must say yes to it."),
}
_SUGGEST = {
    "knobs": _said(
        _several({"type": "string", "pattern": r"^[a-z*][A-Za-z0-9_.*?-]*(?:@\S+)?$", "examples": ["vm.*"]}),
        "What it may propose changes of: names, or globs over entries and instances.",
    ),
    "expect": _said(
        _several(_sentence(grammar.EXPECT, "app.p95_ms falls by 5%")), "By one of these each is judged."
    ),
    "guard": _RULE["guard"],
    "every": _said(_AMOUNT, "How often it is asked, while nothing of it is on trial (60s)."),
}
_LIMIT = {
    "range": _said(
        {**_several(_VALUE), "minItems": 2, "maxItems": 2}, "[low, high], inside the catalogue's."
    ),
    "choices": _said(_several(_WORDS), "The words that may be written."),
    "step": _said(
        {"type": ["string", "number"], "examples": ["2x", "64KiB", "2x or 64KiB"]},
        "One change moves it by at most this factor or amount; of two the wider counts.",
    ),
    "bound": _said(_AMOUNT, "Never further than this factor from the original value."),
    "cooldown": _said(_AMOUNT, "Least time between two changes of this knob."),
}
_REQUIRED: Schema = {"const": approval.REQUIRED}
_APPROVAL = {
    "risk": _said({"enum": list(approval.RISKS)}, "Knobs of this class and above; low: every knob (none)."),
    "knobs": _said(_several(_WORDS), "And these: knobs, entries, or globs over them."),
    "ask": _said(
        {"enum": list(Asking)}, "With a trial's evidence, or before anything is written (after_trial)."
    ),
    "wait_at": _said({"enum": list(Side)}, "What the host has while a person is asked (old)."),
    "for": _said(_AMOUNT, "No answer by then is a no: 10s to 168h (4h)."),
}
_METRIC = {
    "owner": _said({"type": ["string", "integer"]}, "The one user (or uid) whose samples count."),
    "stale": _said(_AMOUNT, "A sample older than this is unknown (10s)."),
}
_SETTINGS = {
    "changes_per_minute": _said(_AMOUNT, "Changes of the whole daemon (6)."),
    "toggles_per_minute": _said(_AMOUNT, "Switches between a trial's arms (120)."),
    "rest": _said(_AMOUNT, "A rejected guess rests this long, twice as long each time (10m)."),
    "alpha": _said(_AMOUNT, "The most that a change without effect may be confirmed (5%)."),
    "ahead": _said(_AMOUNT, "Lossless: so many of the actor's next probes are run ahead, or off (2)."),
    "ahead_depth": _said(_AMOUNT, "And of what may follow those, so many deep (2)."),
    "ahead_price": _said(_AMOUNT, "Seconds of waiting that a second of probing may cost (20%)."),
    "max_pairs": _said(_AMOUNT, "A trial that has not decided by then rejects (24)."),
}
_TOP = {
    "version": _said({"const": 1}, "The format of this file."),
    "mode": _said(
        {"enum": list(Mode)},
        "observe: nothing is written; lossless: what the actor asks for; lossy: written first, judged after.",
    ),
    "settings": _said(_keyed(tuple(merge.SETTINGS), _SETTINGS), "Budgets and error rates."),
    "cgroups": _said(_several(_WORDS), "Control groups whose pressure is sensed, below the cgroup root."),
    "metrics": _said(
        _named(merge.APP_METRIC, _keyed(merge.METRIC, _METRIC)),
        "What programs report, and who may.",
    ),
    "limits": _said(_named(_KNOB, _keyed(limits.LIMIT, _LIMIT)), "Narrows what may be written to a knob."),
    "approval": _said(
        {"anyOf": [_REQUIRED, _keyed(approval.APPROVAL, _APPROVAL)]},
        "Which changes a person must say yes to; `required`: all.",
    ),
    "disable": _said(_several(_WORDS), "Rules of other files that are taken away."),
    "rules": _said(
        {
            "type": "array",
            "items": _keyed((*rules.RULE_REQUIRED, *rules.RULE_OPTIONAL), _RULE, rules.RULE_REQUIRED),
        },
        "The guesses.",
    ),
    "climbs": _said(
        {
            "type": "array",
            "items": _keyed((*climbs.CLIMB_REQUIRED, *climbs.CLIMB_OPTIONAL), _CLIMB, climbs.CLIMB_REQUIRED),
        },
        "Searches: the best setting of a few numbers while the workload runs.",
    ),
    "suggest": _said(
        _keyed((*suggest.SUGGEST_REQUIRED, *suggest.SUGGEST_OPTIONAL), _SUGGEST, suggest.SUGGEST_REQUIRED),
        "A model that speculates: what it may propose.",
    ),
}


def schema() -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tuned-spec policy",
        **_keyed(merge.TOP, _TOP, ("version",)),
    }


def text() -> str:
    """What policies/schema.json holds."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
