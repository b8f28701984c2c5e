"""What this machine can bear: small expressions over facts of the host, `25% of ram`, `line_rate * 100ms`.

Owns the expressions and what a cap does to a knob's range. Pure: the facts come as a mapping (see facts.py)
and must not be looked up here. Policies compute values with the same words.

    sum      := product (("+" | "-") product)*
    product  := factor (("*" | "/" | "of") factor)*        `of` is `*`: 25% of ram
    factor   := NUMBER[UNIT] | FACT | "(" sum ")" | ("min" | "max") "(" sum ("," sum)* ")"

Sizes come out in bytes, times in seconds, shares as 0..1, everything else as a plain number. A fact that this
host does not tell (no link is up) makes what it is in unknown; `min` and `max` go by the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ..model import Knob

Facts = Mapping[str, float]

# fact -> what it is; the last two are of one disk, of one CPU frequency policy
FACTS = {
    "ram": "memory in bytes",
    "cpus": "CPUs that are online",
    "nodes": "NUMA nodes",
    "page": "a page in bytes",
    "huge_page": "a huge page of the default size, in bytes",
    "line_rate": "what the fastest link can carry, in bytes a second",
    "disk_request": "the largest request that the disk takes, in bytes",
    "cpu_max_khz": "the highest frequency of the CPUs, in kHz",
}
_UNITS = {
    "": 1.0,
    "%": 0.01,
    "B": 1.0,
    "KiB": 1024.0,
    "MiB": 1024.0**2,
    "GiB": 1024.0**3,
    "TiB": 1024.0**4,
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
}
# a knob's unit -> how many bytes one is; a knob of another unit takes the plain number
_SIZES: dict[str, Callable[[Facts], float | None]] = {
    "KiB": lambda facts: 1024,
    "MiB": lambda facts: 1024**2,
    "pages": lambda facts: facts.get("page"),
}
_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)([A-Za-z]+|%)?|([a-z_]+)|([-+*/(),]))")


def evaluate(text: str, facts: Facts) -> float | None:
    """The value, or None where it rests on a fact not known here. ValueError says what is wrong in `text`."""
    return _Reader(text, facts).whole()


def check(text: str) -> None:
    """ValueError if `text` is no expression, whatever the host."""
    evaluate(text, dict.fromkeys(FACTS, 1.0))


def capped(knob: Knob, facts: Facts) -> Knob:
    """The knob with `high` brought down to its cap, never below `low`; as it is where that is not known."""
    if not knob.cap or knob.low is None or knob.high is None:
        return knob
    value = evaluate(knob.cap, facts)
    one = _SIZES[knob.unit](facts) if knob.unit in _SIZES else 1.0
    if value is None or not one:
        return knob
    high = int(value / one)
    high = max(knob.low, min(knob.high, high - high % knob.quantum))
    return knob if high == knob.high else msgspec.structs.replace(knob, high=high)


# ------------------------------------------------------------------------------- the reader


class _Reader:
    """Reads and computes in one go, left to right."""

    def __init__(self, text: str, facts: Facts) -> None:
        self._text, self._facts, self._at = text, facts, 0
        self._tokens: list[tuple[str, str, str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(f"{text!r}: {text[at:].strip()[:20]!r} is neither number, fact nor operator")
            self._tokens.append(tuple(part or "" for part in found.groups()))  # type: ignore[arg-type]
            at = found.end()

    def whole(self) -> float | None:
        value = self._sum()
        if self._at < len(self._tokens):
            raise ValueError(f"{self._text!r}: {self._word()!r} is left over")
        return value

    def _word(self) -> str:
        """The token ahead, "" at the end."""
        return "".join(self._tokens[self._at]) if self._at < len(self._tokens) else ""

    def _take(self, *words: str) -> str:
        """Steps over the token ahead if it is one of `words`."""
        word = self._word()
        if word not in words:
            return ""
        self._at += 1
        return word

    def _must(self, word: str) -> None:
        if not self._take(word):
            raise ValueError(f"{self._text!r}: {word!r} is missing before {self._word() or 'the end'!r}")

    def _sum(self) -> float | None:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = None if value is None or other is None else value + (other if sign == "+" else -other)
        return value

    def _product(self) -> float | None:
        value = self._factor()
        while sign := self._take("*", "/", "of"):
            other = self._factor()
            if value is None or other is None or (sign == "/" and other == 0):
                value = None
            else:
                value = value / other if sign == "/" else value * other
        return value

    def _factor(self) -> float | None:
        if self._take("("):
            value = self._sum()
            self._must(")")
            return value
        if name := self._take("min", "max"):
            return self._choice(min if name == "min" else max)
        if self._at == len(self._tokens):
            raise ValueError(f"{self._text!r}: a number or a fact is missing at the end")
        number, unit, fact, _ = self._tokens[self._at]
        if number and unit in _UNITS:
            self._at += 1
            return float(number) * _UNITS[unit]
        if fact in FACTS:
            self._at += 1
            return self._facts.get(fact)
        raise ValueError(
            f"{self._text!r}: {self._word()!r} is neither a number nor a fact; units are"
            f" {' '.join(filter(None, _UNITS))}, facts are {' '.join(FACTS)}"
        )

    def _choice(self, of: Callable[[Sequence[float]], float]) -> float | None:
        self._must("(")
        values = [self._sum()]
        while self._take(","):
            values.append(self._sum())
        self._must(")")
        known = [value for value in values if value is not None]
        return of(known) if known else None
