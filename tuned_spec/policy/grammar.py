"""The four short sentences of a rule: condition, action, expectation, guard.

    when:    psi.cpu.some > 20% for 3s clear 10% else cpu.blocked > 4 for 3s clear 2
    do:      net.ipv4.tcp_rmem[max]: multiply 2        (also: set 4MiB, add 64KiB, toward 10 by 50%)
             net.core.somaxconn: set 4096 only raise   (only lower: a value that is past it is left alone)
             net.ipv4.tcp_rmem: set 4KiB 128KiB (1% of ram)   (computed from facts of the host)
    expect:  app.p95_ms falls by 5%
    guard:   tcp.retrans_share may rise 10%

Owns their wording (the JSON Schema is made from the same patterns) and their meaning in model.py's nouns.
Must not know files, lines or merging: words come one blank apart, and a sentence that is wrong raises
`units.Misfit`.
"""

from __future__ import annotations

import re

from tuned_spec.knobs import text
from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Action, Condition, Expect, Guard, Knob, KnobType, Op, Value, Way
from tuned_spec.policy import units
from tuned_spec.policy.units import QUANTITY, Misfit

_METRIC = r"[A-Za-z]\S*"
_CLAUSE = rf"({_METRIC}) ([<>]) ({QUANTITY})(?: for ({QUANTITY}))? clear ({QUANTITY})"
CONDITION = rf"{_CLAUSE}(?: else {_CLAUSE})*"
ONLY = {"raise": Way.UP, "lower": Way.DOWN}
_SET = r"set \S+(?: \S+)*?(?: only (?:raise|lower))?"
_TOWARD = rf"toward \S+(?: \S+)*? by {QUANTITY}"
ACTION = rf"(?:{_SET}|multiply {QUANTITY}|add {QUANTITY}|{_TOWARD})"
EXPECT = rf"({_METRIC}) (falls|rises)(?: by ({QUANTITY}))?"
GUARD = rf"({_METRIC}) may (rise|fall) ({QUANTITY})"

_CONDITION_LIKE = "write it like `psi.cpu.some > 20% for 3s clear 10%`"
_ACTION_LIKE = "write `set VALUE`, `multiply 2`, `add 64KiB` or `toward VALUE by 50%`"
_MAX_ELSE = 4
_SWITCH = {"0": 0, "off": 0, "1": 1, "on": 1}


def condition(text: str) -> Condition:
    """One condition with its fallbacks, first choice outermost."""
    clauses = text.split(" else ")
    if len(clauses) > _MAX_ELSE:
        raise Misfit(f"more than {_MAX_ELSE} metrics in one condition", "keep the best ones")
    found: Condition | None = None
    for clause in reversed(clauses):
        found = _clause(clause, found)
    assert found is not None  # str.split gives at least one
    return found


def _clause(text: str, fallback: Condition | None) -> Condition:
    match = re.fullmatch(_CLAUSE, text)
    if not match:
        if " clear " not in text and re.fullmatch(_CLAUSE, f"{text} clear 0"):
            raise Misfit(
                "no clearing level", "say where it is over: `... clear LEVEL`, on the quiet side of the level"
            )
        raise Misfit(f"{text[:60]!a} is not a condition", _CONDITION_LIKE)
    metric, op, level_text, for_text, clear_text = match.groups()
    level, clear = units.for_metric(level_text, metric), units.for_metric(clear_text, metric)
    if (clear > level) if op == ">" else (clear < level):
        side = "below" if op == ">" else "above"
        raise Misfit(
            f"clear {clear_text} is on the wrong side of {op} {level_text}", f"put it {side} or at the level"
        )
    return Condition(metric, op, level, clear, units.seconds(for_text) if for_text else 0.0, fallback)


def expect(text: str) -> Expect:
    match = re.fullmatch(EXPECT, text)
    if not match:
        raise Misfit(f"{text[:60]!a} is not an expectation", "write it like `app.p95_ms falls by 5%`")
    metric, verb, effect = match.groups()
    way = Way.DOWN if verb == "falls" else Way.UP
    return Expect(metric, way, units.share(effect)) if effect else Expect(metric, way)


def guard(text: str) -> Guard:
    match = re.fullmatch(GUARD, text)
    if not match:
        raise Misfit(f"{text[:60]!a} is not a guard", "write it like `tcp.retrans_share may rise 10%`")
    metric, verb, margin = match.groups()
    return Guard(metric, Way.DOWN if verb == "rise" else Way.UP, units.share(margin))


def action(knob: Knob, field: int | None, text: str, facts: Facts) -> Action:
    """What one line of `do` does to `knob`; values are inside the catalogue's range."""
    word, *rest = text.split() or [""]
    number = knob.type in (KnobType.INT, KnobType.INTS)
    if word == Op.SET and rest:
        only = ONLY.get(rest[-1]) if rest[-2:-1] == ["only"] else None
        if only is not None and not number:
            raise Misfit(f"a {knob.type} is not raised or lowered", f"delete `only {rest[-1]}`")
        words = rest if only is None else rest[:-2]
        if "only" in words:
            raise Misfit(f"{text[:60]!a} is not an action", "write `only raise` or `only lower` at the end")
        return Action(knob.id, Op.SET, _value(knob, field, words, facts), field=field, only=only)
    if word in list(Op) and not number:
        raise Misfit(
            f"a {knob.type} cannot {word}", f"write `set {' or '.join(knob.choices) or 'on or off'}`"
        )
    match word, rest:
        case "multiply", [by]:
            ratio = units.plain(by)
            if ratio < 0 or ratio == 1:
                raise Misfit(f"multiply {by} makes no sense", "a factor above 1 grows, below 1 shrinks")
            return Action(knob.id, Op.MULTIPLY, ratio, field=field)
        case "add", [by]:
            amount = units.for_knob(by, knob.unit, facts)
            if amount == 0:
                raise Misfit("add 0 does nothing", "delete the line")
            return Action(knob.id, Op.ADD, amount, field=field)
        case "toward", [*target, "by", step_text] if target:
            step = units.share(step_text)
            if not 0 < step <= 1:
                raise Misfit(f"{step_text} of the way", "write a step above 0% and up to 100%")
            return Action(knob.id, Op.TOWARD, _value(knob, field, target, facts), step, field)
    raise Misfit(f"{text[:60]!a} is not an action", _ACTION_LIKE)


def _value(knob: Knob, field: int | None, words: list[str], facts: Facts) -> Value:
    """The words after `set` or `toward` as the knob's value (of one field, if `field` is given)."""
    if knob.type is KnobType.INTS and field is None:
        numbers = _grouped(words)
        if len(numbers) != len(knob.fields):
            example = f"or pick one: `{knob.id}[{knob.fields[-1]}]`" if knob.fields else ""
            what = f"{len(numbers)} value{'s' * (len(numbers) != 1)} for {len(knob.fields)} fields"
            raise Misfit(what, f"give {' '.join(knob.fields)} {example}".strip())
        return tuple(number(knob, word, facts) for word in numbers)
    if len(words) != 1 and (
        knob.type not in (KnobType.INT, KnobType.INTS) or all(re.fullmatch(QUANTITY, word) for word in words)
    ):
        raise Misfit(f"{len(words)} values for one knob", "give one")
    match knob.type:
        case KnobType.CHOICE:
            return choice(knob, words[0])
        case KnobType.BOOL:
            if words[0] not in _SWITCH:
                raise Misfit(f"{words[0][:60]!a} is not a switch", "write on or off")
            return _SWITCH[words[0]]
        case KnobType.INT | KnobType.INTS:
            return number(knob, " ".join(words), facts)
        case KnobType.CPUS | KnobType.CPUMASK:
            return cpus(knob, words[0], facts)
        case _:
            raise Misfit(f"a knob of type {knob.type} is not for rules", "delete the line")


def _grouped(words: list[str]) -> list[str]:
    """One text a value: what stands in brackets is one."""
    found: list[str] = []
    depth = 0
    for word in words:
        if depth > 0:
            found[-1] += f" {word}"
        else:
            found.append(word)
        depth += word.count("(") - word.count(")")
    return found


def number(knob: Knob, text: str, facts: Facts) -> int:
    """A number in the knob's unit, inside the catalogue's range.

    One that is computed, or that only this machine cannot bear (`cap`), is brought inside: the same policy is
    for small hosts and large ones.
    """
    if units.is_computed(text):
        value = units.computed(text, knob.unit, facts)
        value = value if knob.high is None else min(value, knob.high)
        value = value if knob.low is None else max(value, knob.low)
        return value - value % knob.quantum
    value = units.for_knob(text, knob.unit, facts)
    if knob.cap and knob.high is not None:
        value = min(value, knob.high)
    if not (knob.low is None or knob.low <= value) or not (knob.high is None or value <= knob.high):
        raise Misfit(
            f"{text} is outside {span(knob.low, knob.high)} {knob.unit}".rstrip(), "choose a value inside"
        )
    return value


def cpus(knob: Knob, word: str, facts: Facts) -> str:
    """A set of CPUs, `0-3,5`; `all` is those of this host."""
    if word == "all" and "cpus" not in facts:
        raise Misfit("how many CPUs there are is not known here", "write them like 0-3")
    try:
        listed = f"0-{facts['cpus'] - 1:g}" if word == "all" else word
        return str(text.canonical(knob, listed))
    except ValueError:
        raise Misfit(f"{word[:60]!a} is not a set of CPUs", "write it like 0-3,5, or all") from None


def span(low: int | None, high: int | None) -> str:
    return f"[{'any' if low is None else low}, {'any' if high is None else high}]"


def choice(knob: Knob, word: str) -> str:
    if knob.choices and word not in knob.choices:  # none named: the kernel alone knows them
        raise Misfit(
            f"{word[:60]!a} is not a choice of {knob.id}", f"choose one of {', '.join(knob.choices)}"
        )
    return word
