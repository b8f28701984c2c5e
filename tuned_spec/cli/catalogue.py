"""The catalogue as the commands see it: one knob by name, its value here, in words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tuned_spec.cli import show
from tuned_spec.errors import KnobError, UsageError
from tuned_spec.knobs.adapters import Adapter, Availability, adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.model import UNLIMITED, Frozen, Knob, Value


class Live(Frozen, frozen=True):
    """What this host shows of a knob: `value` None where it cannot be read, `why` says the reason."""

    value: Value | None
    availability: Availability
    why: str = ""


class Host:
    """The catalogue and the adapters below one root."""

    def __init__(self, root: Path) -> None:
        self.adapters: Mapping[str, Adapter] = adapters(root)
        self.knobs = Catalogue(load(), self.adapters)

    def knob(self, name: str) -> Knob:
        """By id, or spelt as a path (`vm/swappiness`, `/proc/sys/vm/swappiness`)."""
        entry, at, instance = name.removeprefix("/proc/sys/").partition("@")
        plain = entry.replace("/", ".") + at + instance
        if plain in self.knobs:
            return self.knobs[plain]
        raise UsageError(unknown(name, self.knobs))

    def here(self, entry: Knob) -> list[Knob]:
        """The knobs that this host has of an entry; the entry itself where it has none, or is one."""
        return [self.knobs[f"{entry.id}@{name}"] for name in self.knobs.instances(entry.id)] or [entry]

    def live(self, knob: Knob) -> Live:
        adapter = self.adapters[knob.adapter]
        availability = adapter.probe(knob)
        try:
            return Live(adapter.parse(knob, adapter.read_text(knob)), availability, availability.why)
        except (KnobError, ValueError) as error:
            return Live(None, availability, availability.why or str(error))


def unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    tail = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, names, 3, 0.6) or [n for n in names if tail and tail in n][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "`tuned-spec knobs` lists all"
    return f"{name}: not in the catalogue; {hint}"


def bounds(knob: Knob) -> str:
    """The range or the choices in words."""
    if knob.choices:
        return " ".join(knob.choices)
    if knob.type == "bool":
        return "0 or 1"
    if knob.low is None and knob.high is None:
        return "any"
    low, high = ("" if b is None else str(b) for b in (knob.low, knob.high))
    return f"{low} .. {'no limit' if knob.high == UNLIMITED else high}"


def unit(knob: Knob) -> str:
    """What stands behind a number of it, a blank before it; "" where values are words."""
    plain = knob.unit.partition(" (")[0]
    return "" if knob.choices or knob.type == "bool" or plain in ("", "-", "none") else f" {plain}"


def text(value: Value | None) -> str:
    return "-" if value is None else show.value(value)
