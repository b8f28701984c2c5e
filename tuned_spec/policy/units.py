"""Human quantities: `4MiB`, `200us`, `10m`, `5%`, `2x`, into a knob's, a metric's or the loop's own unit.

A bare number is in the unit of the thing it is for. Sizes are binary only; `4k`, `4kB` and `4MB` are refused,
because half the world reads them as 1000 and the kernel's own "kB" is 1024. What a knob is to hold may be
computed from facts of the host, `25% of ram` (knobs/caps.py has the words). Must not know YAML or rules.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from tuned_spec.knobs import caps
from tuned_spec.knobs.caps import Facts

# Digits are bounded: a quantity is a number that a kernel could hold, not a way to burn memory.
NUMBER = r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,12})?"
QUANTITY = NUMBER + r"[A-Za-zµ%]{0,6}"
MOST_BRACKETS = 16  # of one expression: its reader goes one call deeper with each
_QUANTITY = re.compile(f"({NUMBER})([A-Za-zµ%]{{0,6}})")

# suffix -> (dimension, how many bytes, seconds or ones)
_SUFFIXES: dict[str, tuple[str, Fraction]] = {
    "B": ("size", Fraction(1)),
    "KiB": ("size", Fraction(1 << 10)),
    "MiB": ("size", Fraction(1 << 20)),
    "GiB": ("size", Fraction(1 << 30)),
    "TiB": ("size", Fraction(1 << 40)),
    "ns": ("time", Fraction(1, 10**9)),
    "us": ("time", Fraction(1, 10**6)),
    "µs": ("time", Fraction(1, 10**6)),
    "ms": ("time", Fraction(1, 1000)),
    "s": ("time", Fraction(1)),
    "m": ("time", Fraction(60)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
    "%": ("share", Fraction(1, 100)),
    "x": ("factor", Fraction(1)),
}

# a knob's or metric's unit -> (dimension, how many bytes, seconds or ones it is); "pages" needs the page size
_UNITS: dict[str, tuple[str, Fraction]] = {
    "bytes": ("size", Fraction(1)),
    "kB": ("size", Fraction(1024)),
    "KiB": ("size", Fraction(1024)),
    "MiB": ("size", Fraction(1 << 20)),
    "sectors": ("size", Fraction(512)),
    "ns": ("time", Fraction(1, 10**9)),
    "us": ("time", Fraction(1, 10**6)),
    "ms": ("time", Fraction(1, 1000)),
    "centisecs": ("time", Fraction(1, 100)),
    "1/100 s": ("time", Fraction(1, 100)),
    "s": ("time", Fraction(1)),
    "minutes": ("time", Fraction(60)),
    "percent": ("share", Fraction(1, 100)),
    "share": ("share", Fraction(1)),
}

_EXAMPLE = {"size": "64KiB or 4MiB", "time": "200us, 2s or 10m", "share": "5%", "factor": "2x"}
_CPU_SHARES = frozenset(
    f"cpu.{name}" for name in ("busy", "user", "system", "softirq", "iowait", "steal", "idle")
)
_QUANTILE = re.compile(r"\.p\d\d$")


class Misfit(ValueError):
    """A quantity that cannot be what it should be. `what` and `hint` are for the user."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}; {hint}")
        self.what, self.hint = what, hint


def _split(text: str) -> tuple[Fraction, str]:
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise Misfit(f"{text[:60]!a} is not a number with a unit", "write it like 64KiB, 200us, 2s, 5% or 2x")
    number, suffix = Fraction(found[1]), found[2]
    if suffix and suffix not in _SUFFIXES:
        if suffix[0] in "kKmMgGtT":
            size = suffix[0].upper()
            hint = f"write {found[1]}{size}iB: sizes count in steps of 1024"
        else:
            hint = "units are B KiB MiB GiB TiB, ns us ms s m h, % and x"
        raise Misfit(f"{text} has an unknown unit {suffix!a}", hint)
    return number, suffix


def _of(text: str, dimension: str, what: str) -> Fraction:
    """A quantity that must carry a suffix of `dimension`."""
    number, suffix = _split(text)
    if not suffix or _SUFFIXES[suffix][0] != dimension:
        raise Misfit(f"{text} is not {what}", f"write it like {_EXAMPLE[dimension]}")
    return number * _SUFFIXES[suffix][1]


def seconds(text: str) -> float:
    """`200us`, `2s`, `10m`; never negative."""
    value = _of(text, "time", "a time")
    if value < 0:
        raise Misfit(f"{text} is negative", "a time is 0s or more")
    return float(value)


def share(text: str) -> float:
    """`5%` -> 0.05; never negative."""
    value = _of(text, "share", "a percentage")
    if value < 0:
        raise Misfit(f"{text} is negative", "write the size of it, the words say which way")
    return float(value)


def factor(text: str) -> float:
    """`2x` -> 2.0; more than 1."""
    value = _of(text, "factor", "a factor")
    if value <= 1:
        raise Misfit(f"{text} leaves no room", "write a factor above 1, like 2x")
    return float(value)


def plain(text: str) -> float:
    """A number without a unit."""
    number, suffix = _split(text)
    if suffix:
        raise Misfit(f"{text} has a unit", f"write the bare number {text.removesuffix(suffix)}")
    return float(number)


def whole(text: str) -> int:
    value = plain(text)
    if not value.is_integer():
        raise Misfit(f"{text} is not a whole number", f"write {round(value)}")
    return int(value)


def count_or_off(text: str) -> int:
    return 0 if text == "off" else whole(text)


def _unit(unit: str, facts: Facts) -> tuple[str, Fraction]:
    """Dimension, and how many bytes, seconds or ones it is."""
    if unit != "pages":
        return _UNITS.get(unit, ("", Fraction(1)))
    if "page" not in facts:
        raise Misfit("counts pages, and their size is not known here", "write a bare number of pages")
    return "size", Fraction(facts["page"])


def _convert(text: str, unit: str, facts: Facts, owner: str) -> Fraction:
    number, suffix = _split(text)
    if not suffix:
        return number
    dimension, ones = _unit(unit, facts)
    theirs, scale = _SUFFIXES[suffix]
    if theirs != dimension:
        counts = f"counts {unit}" if unit else "has no unit"
        example = f", or like {_EXAMPLE[dimension]}" if dimension else ""
        raise Misfit(f"{text} does not fit: {owner} {counts}", f"write a bare number{example}")
    return number * scale / ones


def is_computed(text: str) -> bool:
    """Whether it is an expression over facts of the host, and no plain quantity."""
    return text in caps.FACTS or text[:1] == "(" or bool(re.search(r"[-+*/( ]", text[1:]))


def computed(text: str, unit: str, facts: Facts) -> int:
    """What an expression comes to here, in the knob's own unit, rounded down."""
    if text.count("(") > MOST_BRACKETS:
        raise Misfit(f"more than {MOST_BRACKETS} brackets", "write it simpler")
    try:
        value = caps.evaluate(text, facts)
    except ValueError as error:
        raise Misfit(str(error), "write it like `25% of ram` or `max(line_rate * 100ms, 4MiB)`") from None
    if value is None or not math.isfinite(value):
        missing = [fact for fact in caps.FACTS if fact not in facts and re.search(rf"\b{fact}\b", text)]
        why = (
            f"needs {' and '.join(missing)}, which this host does not tell"
            if missing
            else "has no value here"
        )
        raise Misfit(f"{text} {why}", f"write max({text}, FALLBACK)")
    return math.floor(Fraction(value) / _unit(unit, facts)[1])


def for_knob(text: str, unit: str, facts: Facts) -> int:
    """A quantity in the knob's own unit."""
    value = _convert(text, unit, facts, "this knob")
    if value.denominator != 1:
        raise Misfit(
            f"{text} is not a whole number of {unit or 'ones'}", f"write {round(value)}, in the knob's unit"
        )
    return int(value)


def metric_unit(name: str) -> str:
    """A metric's unit, from its name alone: the names are made so that they say it."""
    name = _QUANTILE.sub("", name.partition("@")[0])
    if name.startswith(("psi.", "cgroup.psi.")) or name in _CPU_SHARES or name == "disk.util":
        return "share"
    # Without its end a rate shows what it counts: `read_bytes_per_s` takes sizes, `drops_per_s` bare numbers.
    unit = name.removesuffix("_per_s").rpartition("_")[2]
    if unit == "pct":
        return "percent"
    return unit if unit in ("ms", "us", "ns", "s", "bytes", "share") else ""


def for_metric(text: str, name: str) -> float:
    """A level of the metric in the metric's own unit; a share lies between 0 and 1."""
    unit = metric_unit(name)
    value = _convert(text, unit, {}, "this metric")
    if unit == "share" and not 0 <= value <= 1:
        raise Misfit(
            f"{text} is out of reach: {name} is a share from 0 to 1", "write it in percent, like 20%"
        )
    return float(value)
