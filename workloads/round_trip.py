"""Write every knob of the catalogue, read it back, put it back: what this kernel really has.

    python -m workloads.round_trip [--record] [--json OUT] [PATTERN...]

Each entry goes alone through the real adapter and the real ledger, with a journal in a temporary directory:
another legal value is written, what the kernel then shows must be what the adapter foretold, the ledger
restores, and the knob and its partners must show what they showed before. Of an entry that the host has for
each disk, NIC, cgroup or task, one instance that serves nobody is tried: a loop device, a cgroup and a
process are made for it, and what belongs to a network is tried in a network namespace of its own.
TUNED_SPEC_SPARE names idle devices of this host that may be taken as well (`vdb eth1`); the NICs among them
visit that namespace.

What is skipped is printed with its reason; what fails ends with exit status 1. `--record` writes what was
tried into knobs/tried.yaml and what was skipped into tests/knobs/skipped/, both for this kernel.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from tuned_spec.errors import JournalError, KnobError, KnobRefused
from tuned_spec.knobs.catalogue import TRIED, load
from tuned_spec.knobs.files import Adapter, adapters, narrowed
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal, take_lock
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import UNLIMITED, CouplingKind, Frozen, Knob, KnobType, Risk, Value, Write
from workloads.trouble import alone

CHECKOUT = Path(__file__).resolve().parent.parent
SKIPPED = CHECKOUT / "tests/knobs/skipped"
OURS = "tuned-spec-trip"  # the name of whatever is made for the trip
MOST_INSTANCES = 6  # of one entry, until one can be tried
NAMESPACE_S = 600.0
RELEASE = os.uname().release
KERNEL = ".".join(RELEASE.split(".")[:2])  # `6.12`: what tried.yaml goes by


class Trip(Frozen, frozen=True):
    """What came of one entry: `status` is "tried", "skipped" or "failed", `why` the reason of the last two."""

    entry: str
    status: str
    knob: str = ""  # the instance that was taken
    before: str = ""
    written: str = ""
    why: str = ""


# --------------------------------------------------------------------- which value to write


def others(knob: Knob, now: Value) -> list[Value]:
    """Some legal values other than the live one, the nearest first; only near ones where a wrong one
    loses memory."""
    match knob.type, now:
        case KnobType.BOOL, int():
            return [1 - now]
        case KnobType.CHOICE, str():
            return [word for word in knob.choices if word != now]
        case KnobType.WORDS, str():
            return [word for word in now.split() if word != now]
        case KnobType.CPUS, str():
            return [one for one in dict.fromkeys(["0", "1", *re.findall("[0-9]+", now)]) if one != now]
        case KnobType.INT, int():
            return [value for value in _near_and_far(knob, now) if value != now]
        case KnobType.INTS, tuple():
            last = [(*now[:-1], value) for value in _near_and_far(knob, now[-1])]
            first = [(value, *now[1:]) for value in _near_and_far(knob, now[0])]
            return [value for value in dict.fromkeys(last + first + _spread(knob, len(now))) if value != now]
    raise AssertionError(f"{knob.id}: {now!r} is not of type {knob.type}")


def _near_and_far(knob: Knob, now: int) -> list[int]:
    low = 0 if knob.low is None else knob.low
    high = UNLIMITED if knob.high is None else knob.high
    # Beside "max" there is nothing near: any number that the range allows will do.
    near = [now - knob.quantum, now + knob.quantum] if now < UNLIMITED else [min(high, 1 << 30)]
    far = [] if knob.risk is Risk.HIGH else [low, low + knob.quantum, (low + now) // 2, high]
    return [value for value in dict.fromkeys(near + far) if low <= value <= high]


def _spread(knob: Knob, count: int) -> list[tuple[int, ...]]:
    """Rising numbers over the whole range."""
    if knob.low is None or knob.high is None or knob.risk is Risk.HIGH:
        return []
    low, high = knob.low, knob.high
    return [tuple(low + s + (high - low - 2 * s) * i // (count - 1) for i in range(count)) for s in (0, 1)]


def is_off(knob: Knob, value: Value) -> bool:
    """A 0 that the kernel shows while the partner rules, and that cannot be written."""
    return value == 0 and any(coupling.kind is CouplingKind.ZEROES for coupling in knob.coupled)


# ------------------------------------------------------------------------------- one entry


class Road:
    """What a trip needs: the real adapters and ledger, with a journal of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.adapters = adapters()
        self.catalogue = narrowed(load(), self.adapters)
        self._journal = Journal(directory, repair.boot_id())
        self._ledger = Ledger(self.catalogue, self.adapters, self._journal, time.monotonic)

    def close(self) -> None:
        self._journal.close()

    def adapter(self, knob: Knob) -> Adapter:
        return self.adapters[knob.adapter]

    def text(self, id: str) -> str:
        """What a knob shows, brackets and all; "" if it cannot be read."""
        knob = self.catalogue[id]
        try:
            return self.adapter(knob).read_text(knob)
        except KnobError:
            return ""

    def trip(self, entry: str) -> Trip:
        """One entry there and back, by the first of its instances that can be tried."""
        trips = []
        for id in self._concrete(self.catalogue[entry]):
            trips.append(self._one(entry, id))
            if trips[-1].status != "skipped":
                return trips[-1]
        return trips[0] if trips else Trip(entry, "skipped", why=f"absent: no {self.catalogue[entry].per} here")

    def _concrete(self, knob: Knob) -> list[str]:
        return [knob.id]

    def _one(self, entry: str, id: str) -> Trip:
        """One knob there and back. Whatever happens, it is put back, and said if it could not be."""
        knob = self.catalogue[id]
        refusal = self._ledger.reversible(id)
        if refusal:
            return Trip(entry, "skipped", id, why=f"{refusal.code}: {_placeless(refusal.what, knob)}")
        before = {one: self.text(one) for one in (id, *(coupling.partner for coupling in knob.coupled))}
        try:
            trip = self._there(entry, knob)
        except (KnobError, JournalError) as error:
            trip = Trip(entry, "failed", id, before[id], why=str(error))
        left = [f"{o.knob} is {o.status}: {o.why}" for o in self._ledger.restore() if o.status not in BACK]
        left += [f"{one} shows {now!r}, was {was!r}" for one, was in before.items() if (now := self.text(one)) != was]
        if left:
            return Trip(entry, "failed", id, before[id], trip.written, "not put back: " + "; ".join(left))
        return trip

    def _there(self, entry: str, knob: Knob) -> Trip:
        now, before = self._ledger.value(knob.id), self.text(knob.id)
        refused: KnobRefused | None = None
        for value in others(knob, now):
            foretold = self.adapter(knob).canonical(knob, value)
            if foretold == now:
                continue
            try:
                self._ledger.apply(OURS, OURS, (Write(knob.id, value),))
            except KnobRefused as error:
                refused = error
                continue
            shown, written = self._ledger.value(knob.id), self.text(knob.id)
            if shown != foretold:
                why = f"{value!r} was written, {foretold!r} was foretold, the kernel shows {shown!r}"
                return Trip(entry, "failed", knob.id, before, written, why)
            return Trip(entry, "tried", knob.id, before, written)
        if refused:
            return Trip(entry, "failed", knob.id, before, why=f"no value is taken: {refused}")
        return Trip(entry, "skipped", knob.id, before, why=f"no_other_value: this host has only {before}")


BACK = ("restored", "unchanged")


def _placeless(what: str, knob: Knob) -> str:
    """A reason without the name of the instance, which is another one the next time."""
    return what.replace(knob.instance, "*") if knob.instance else what
