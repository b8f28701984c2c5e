"""docs/knobs.md: every entry of the catalogue with all that is known of it, from the catalogue alone.

Pure: no host is asked, so that the page is the same on each. Must not know how a knob is reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tuned_spec.model import UNLIMITED, CouplingKind, Effect, Knob, KnobType

HEAD = """\
# Knobs

Made by `tuned-spec knobs --markdown` from the catalogue (tuned_spec/knobs/catalogue). `tuned-spec knobs`
shows what of it this host has, with live values and owners.

{count} knobs, of {kinds} kinds: {by_kind}.
A device, a cgroup or a task has its own of those marked "one for each"; IPv6 twins of an IPv4 knob are listed
and not counted.

A range is what the kernel enforces, or narrower where it takes values that make no sense; the cap is what the
machine can bear, and narrows it further. *Settle* is thrown away after a write, *dwell* is the least that one
measurement lasts. An entry that was not yet written, read back and put back on any kernel is only observed.
"""

# how far a wrong value carries, when it counts, and in what way partners move
_EFFECTS = {
    Effect.AT_ONCE: "at once",
    Effect.NEW_SOCKETS: "on new sockets",
    Effect.NEW_LISTENERS: "on new listeners",
    Effect.NEW_PROCESSES: "on new processes",
    Effect.NEW_SESSIONS: "on new sessions",
    Effect.NEW_FILES: "on files opened later",
    Effect.SLOWLY: "slowly",
}
_COUPLINGS = {
    CouplingKind.ZEROES: "each sets the other to 0",
    CouplingKind.RESETS: "is set by the kernel when this is written",
    CouplingKind.ORDERED: "is never below this",
}


def distinct(entries: Iterable[str]) -> int:
    """How many knobs these ids are, v6 twins of v4 ones not counted."""
    ids = set(entries)
    return sum(_twin(id) not in ids for id in ids)


def _twin(id: str) -> str:
    """The v4 knob that a v6 one does for the other protocol, "" for a knob that is not of v6."""
    if not id.startswith("net.ipv6."):
        return ""
    return id.replace("net.ipv6.", "net.ipv4.", 1).replace(".ip6frag", ".ipfrag")


def page(entries: Mapping[str, Knob]) -> str:
    """The whole of docs/knobs.md."""
    kinds = Counter(knob.adapter for knob in entries.values())
    by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    parts = [HEAD.format(count=distinct(entries), kinds=len(kinds), by_kind=by_kind)]
    family = ""
    for id in sorted(entries):
        if (here := _family(id)) != family:
            family = here
            parts.append(f"## {family}\n")
        parts.append(_entry(entries[id]))
    return "\n".join(parts)


def _family(id: str) -> str:
    """`net.ipv4` of net.ipv4.tcp_sack, `vm` of vm.swappiness."""
    words = id.split(".")
    return ".".join(words[: 2 if words[0] == "net" else 1])


def _entry(knob: Knob) -> str:
    facts = [f"risk {knob.risk.value}"]
    if knob.per:
        facts.append(f"one for each {knob.per}")
    if knob.scope != "host":
        facts.append("one for each network namespace")
    facts += [
        f"counts {_EFFECTS[knob.effect]}",
        f"settle {knob.settle_s:g} s",
        f"dwell {knob.dwell_s:g} s",
        "arms can be alternated" if knob.alternable else "arms cannot be alternated",
    ]
    lines = [
        f"### {knob.id}\n",
        knob.summary + "\n",
        f"- **{_range(knob)}** {knob.unit}" + (f", at most `{knob.cap}`" if knob.cap else ""),
        "- " + ", ".join(facts),
        f"- kernels: {knob.kernels}; "
        + (f"round trip on {', '.join(knob.tried)}" if knob.tried else "no round trip yet: observed only"),
    ]
    if form := _form(knob):
        lines.append(f"- {form}")
    lines += [f"- with `{c.partner}`: {_COUPLINGS[c.kind]}" for c in knob.coupled]
    if knob.side != "none":
        lines.append(f"- beside: {knob.side}")
    if knob.irreversible_when:
        lines.append(f"- refused: {knob.irreversible_when}")
    lines.append(f"- {knob.adapter} `{knob.target}`; {knob.source}")
    return "\n".join(lines) + "\n"


def _range(knob: Knob) -> str:
    match knob.type:
        case KnobType.CHOICE:
            return " ".join(knob.choices)
        case KnobType.BOOL:
            return "0 or 1"
        case KnobType.INT:
            return _span(knob)
        case KnobType.INTS:
            return f"{' '.join(knob.fields)}, each {_span(knob)}"
    return "any"


def _span(knob: Knob) -> str:
    return f"{knob.low} .. {'no limit' if knob.high == UNLIMITED else knob.high}"


def _form(knob: Knob) -> str:
    """What the kernel makes of a value, where that is not the value."""
    forms = []
    if knob.quantum > 1:
        forms.append(f"rounded down to a multiple of {knob.quantum}")
    if knob.power_of_two:
        forms.append("rounded up to a power of two")
    if knob.max_word:
        forms.append(f"without limit it is `{knob.max_word}`")
    if knob.choices_from:
        forms.append(f"the words on offer are in `{knob.choices_from}`")
    if knob.stateless:
        forms.append("a deed: nothing stays to be read or put back")
    if knob.blocking:
        forms.append("a write may take long, and is done off the loop")
    return "; ".join(forms)
