"""The catalogue: what is known about each knob, from YAML files shipped with the package.

Owns the format and its strictness. A file is a mapping from a knob's id to the fields of
`model.Knob`; every mistake of every file is reported at once, with its line. Must not know of the
host: whether a knob is present, and what it holds, is the adapters' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ..errors import CatalogueError, Problem
from ..model import Coupling, CouplingKind, Effect, Knob, KnobType
from . import caps
from .adapters import KINDS, is_inside

SHIPPED = Path(__file__).parent / "catalogue"
TRIED = Path(__file__).parent / "tried.yaml"  # kernel -> entries; written by the round trip
_NOT_WRITTEN = {"id", "instance", "tried"}  # the key, the host's, the list's
SCOPES = ("host", "netns")

# The C parser takes a fifth of the time; PyYAML may be built without it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FIELDS = {field.name: field for field in msgspec.structs.fields(Knob)}
_REQUIRED = [name for name, field in _FIELDS.items() if field.required and name != "id"] + ["kernels", "side"]
_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_-]+)+")


class _Entry(msgspec.Struct):
    """One entry while it is checked: the knob, where it is, and where each of its keys is."""

    knob: Knob
    file: str
    lines: dict[str, int]  # key -> line; "" is the entry itself

    def problem(self, key: str, what: str, hint: str = "") -> Problem:
        line = self.lines.get(key, self.lines[""])
        return Problem(self.file, line, f"{self.knob.id}.{key}" if key else self.knob.id, what, hint)


def load(directory: Path | None = None, tried: Path = TRIED) -> dict[str, Knob]:
    """Every knob by its id, from all *.yaml of `directory` (default: the shipped ones).

    `tried` lists the entries that were tried on each kernel. CatalogueError lists every problem as
    `file:line: id.key: what; what to do`.
    """
    directory = directory or SHIPPED
    problems: list[Problem] = []
    entries: dict[str, _Entry] = {}
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise CatalogueError(f"{directory}: no catalogue file (*.yaml); reinstall the package")
    for file in files:
        for entry in _read(file, problems):
            id = entry.knob.id
            if id in entries:
                first = entries[id]
                problems.append(
                    entry.problem("", f"is already defined at {first.file}:{first.lines['']}", "remove one")
                )
            else:
                entries[id] = entry
    for entry in entries.values():
        problems += _check(entry)
        problems += _check_coupling(entry, entries)
    problems += _check_targets(entries)
    if problems:
        problems.sort(key=lambda problem: (problem.file, problem.line))
        raise CatalogueError("\n".join(str(problem) for problem in problems))
    kernels = kernels_of(tried)
    return {
        id: msgspec.structs.replace(entry.knob, tried=kernels.get(id, ())) for id, entry in entries.items()
    }


def kernels_of(tried: Path = TRIED) -> dict[str, tuple[str, ...]]:
    """Entry -> the kernels (`6.12`) on which it was written, read back and put back, oldest first.

    CatalogueError for a file that is not such a list; {} if there is none.
    """
    if not tried.exists():
        return {}
    try:
        lists = msgspec.convert(yaml.load(tried.read_text(), _Loader) or {}, dict[str, list[str]])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        again = "write it anew: python -m workloads.round_trip --record"
        raise CatalogueError(f"{tried}: {str(error).splitlines()[0]}; {again}") from error
    kernels: dict[str, tuple[str, ...]] = {}
    for kernel, ids in lists.items():
        for id in ids:
            kernels[id] = (*kernels.get(id, ()), kernel)
    return kernels


# ------------------------------------------------------------------------ YAML -> entries


def _read(file: Path, problems: list[Problem]) -> Iterator[_Entry]:
    name = str(file)
    try:
        loader = _Loader(file.read_text())
        try:
            top = loader.get_single_node()
            if not isinstance(top, yaml.MappingNode):
                problems.append(
                    Problem(name, 1, "(file)", "is not a mapping", "write `id:` and its fields below")
                )
                return
            for key, node in top.value:
                if entry := _entry(name, key, node, loader, problems):
                    yield entry
        finally:
            loader.dispose()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(name, 1, "(file)", str(error)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problems.append(Problem(name, line, "(file)", str(getattr(error, "problem", None) or error)))


def _entry(file: str, key: Any, node: Any, loader: Any, problems: list[Problem]) -> _Entry | None:
    """One knob, or None with the reasons in `problems`. Each field is checked, so that all are told."""
    id = str(key.value)
    lines = {"": key.start_mark.line + 1}
    before = len(problems)

    def wrong(field: str, what: str, hint: str = "") -> None:
        problems.append(
            Problem(file, lines.get(field, lines[""]), f"{id}.{field}" if field else id, what, hint)
        )

    if not isinstance(node, yaml.MappingNode):
        wrong("", "is not a mapping", "write the fields of the knob below it")
        return None
    values: dict[str, Any] = {"id": id}
    for field_key, field_node in node.value:
        field = str(field_key.value)
        if field in lines:
            wrong(field, f"is given twice, here and at line {field_key.start_mark.line + 1}", "remove one")
            continue
        lines[field] = field_key.start_mark.line + 1
        if field not in _FIELDS or field in _NOT_WRITTEN:
            wrong(
                field,
                "is not a field of a knob",
                f"fields are {', '.join(sorted(set(_FIELDS) - _NOT_WRITTEN))}",
            )
            continue
        try:
            values[field] = msgspec.convert(
                loader.construct_object(field_node, deep=True), _FIELDS[field].type
            )
        except (msgspec.ValidationError, yaml.YAMLError) as error:
            wrong(field, str(error).splitlines()[0])
    for field in _REQUIRED:
        if field not in lines:
            wrong(field, "is missing", "every knob needs it")
    if len(problems) > before:
        return None
    return _Entry(Knob(**values), file, lines)


# ----------------------------------------------------------------------------- the checks


def _check(entry: _Entry) -> Iterator[Problem]:
    knob, wrong = entry.knob, entry.problem
    numeric = knob.type in (KnobType.INT, KnobType.INTS)
    if not _ID.fullmatch(knob.id):
        yield wrong("", "is not an id", "use lower-case words joined by dots: vm.swappiness")
    if knob.adapter not in KINDS:
        yield wrong("adapter", f"no adapter {knob.adapter!r}", f"use one of {', '.join(KINDS)}")
    for key, target in (("target", knob.target), ("choices_from", knob.choices_from)):
        if (key == "target" or target) and not is_inside(target):
            yield wrong(key, f"{target!r} leaves the adapter's directory", "give a plain relative path")
    for key in ("unit", "summary", "source", "kernels", "side"):
        if not getattr(knob, key).strip():
            yield wrong(key, "is empty", "say it in one line")
    if knob.scope not in SCOPES:
        yield wrong("scope", f"no scope {knob.scope!r}", f"use one of {', '.join(SCOPES)}")
    if numeric and (knob.low is None or knob.high is None):
        yield wrong("low" if knob.low is None else "high", "is missing", "a number needs both bounds")
    if not numeric and not (knob.low is None and knob.high is None):
        yield wrong("low", f"has no meaning for type {knob.type}", "remove low and high")
    if knob.cap:
        try:
            caps.check(knob.cap)
        except ValueError as error:
            yield wrong("cap", str(error))
        if not numeric:
            yield wrong("cap", f"has no meaning for type {knob.type}", "remove it")
    if knob.low is not None and knob.high is not None and knob.low > knob.high:
        yield wrong("low", f"{knob.low} is above high {knob.high}", "swap them")
    if (knob.type is KnobType.INTS) != bool(knob.fields):
        yield wrong("fields", "names the numbers of type ints, and only of those")
    if (knob.type is KnobType.CHOICE) != bool(knob.choices):
        yield wrong("choices", "lists the words of type choice, and only of those")
    if len(set(knob.choices)) != len(knob.choices):
        yield wrong("choices", "has a word twice", "remove one")
    if knob.choices_from and knob.type is not KnobType.CHOICE:
        yield wrong("choices_from", f"has no meaning for type {knob.type}", "remove it")
    if knob.quantum < 1 or (knob.quantum > 1 and knob.type is not KnobType.INT):
        yield wrong(
            "quantum", f"{knob.quantum} is not a step of type {knob.type}", "1 or more, type int only"
        )
    if knob.settle_s < 0 or knob.dwell_s <= 0:
        yield wrong(
            "settle_s" if knob.settle_s < 0 else "dwell_s", "is not a duration", "seconds, dwell above 0"
        )
    if knob.effect is Effect.SLOWLY and knob.alternable:
        yield wrong("alternable", "must be false: a slow effect carries over between arms")


def _check_coupling(entry: _Entry, entries: dict[str, _Entry]) -> Iterator[Problem]:
    id = entry.knob.id
    for coupling in entry.knob.coupled:
        partner = entries.get(coupling.partner)
        if partner is None or coupling.partner == id:
            yield entry.problem("coupled", f"{coupling.partner!r} is not another knob of the catalogue")
            continue
        back = Coupling(partner=id, kind=coupling.kind) in partner.knob.coupled
        match coupling.kind:
            case CouplingKind.ZEROES if not back:
                yield entry.problem(
                    "coupled",
                    f"zeroes {coupling.partner}, which does not name it",
                    f"add {{partner: {id}, kind: zeroes}} at {partner.file}:{partner.lines['']}",
                )
            case CouplingKind.ORDERED if back:
                yield entry.problem("coupled", f"and {coupling.partner} are each ordered below the other")


def _check_targets(entries: dict[str, _Entry]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], _Entry] = {}
    for entry in entries.values():
        place = (entry.knob.adapter, entry.knob.target)
        if (first := seen.setdefault(place, entry)) is not entry:
            yield entry.problem("target", f"is the same file as {first.knob.id}", "one file is one knob")
