"""What may stand in a policy file, what several of them come to, and the checks across them.

Must not know directories, the host's state, or who runs the policy. A later file wins key by key: a setting,
a metric's owner, one field of a limit; a rule of the same id is replaced whole, in its place; `disable` takes
rules away.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from tuned_spec import windows
from tuned_spec.knobs.instances import misnamed
from tuned_spec.model import (
    Action,
    Climb,
    Condition,
    CouplingKind,
    Knob,
    KnobType,
    Limit,
    MetricOwner,
    Mode,
    Policy,
    Rule,
    Span,
    entry_of,
)
from tuned_spec.policy import document, grammar, units
from tuned_spec.policy.document import Node, Table, Text, shown
from tuned_spec.policy.reader import Reader
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.templates import is_glob, is_template

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of a policy or rule
APP_METRIC = r"app\.[A-Za-z_][A-Za-z0-9_.-]{0,63}"

TOP = ("version", "mode", "settings", "cgroups", "metrics", "limits", "disable", "rules", "climbs")
RULE_REQUIRED = ("id", "reason", "source", "when", "do", "expect")
RULE_OPTIONAL = ("guard", "cooldown", "settle", "dwell", "lease", "confidence")
CLIMB_REQUIRED = ("id", "reason", "source", "over", "expect")
CLIMB_OPTIONAL = ("guard", "every", "step", "recheck", "settle", "dwell", "confidence")
MOST_SPANS = 4  # numbers that one search moves: more are not found under noise
LIMIT = ("range", "choices", "step", "bound", "cooldown")
METRIC = ("owner", "stale")

# key in the file -> (field of Policy, how to read it, lowest, highest)
SETTINGS: dict[str, tuple[str, Callable[[str], float], str, str]] = {
    "changes_per_minute": ("changes_per_minute", units.whole, "1", "600"),
    "toggles_per_minute": ("toggles_per_minute", units.whole, "2", "6000"),
    "rest": ("rest_s", units.seconds, "0s", "168h"),
    "alpha": ("alpha", units.share, "0.01%", "50%"),
    "max_pairs": ("max_pairs", units.whole, "2", "10000"),
}

_WHY_REQUIRED = {
    "id": "name the rule: it is what `why` and `history` say",
    "reason": "say in one sentence why this should help",
    "source": "say where the idea is from",
    "when": "say when to make this guess, like `- psi.cpu.some > 20% for 3s clear 10%`",
    "do": "say what to write, like `net.core.somaxconn: multiply 2`",
    "expect": "say which metric must move for the change to be kept, like `app.p95_ms falls by 5%`",
    "over": "say what to search over, like `{vm.swappiness: [0, 100]}`",
}


class _Draft(msgspec.Struct):
    """A rule as far as it was understood: a broken one takes part in the checks across files too."""

    file: str
    line: int
    metrics: list[tuple[int, str, str]] = []  # line, key, metric
    knobs: tuple[str, ...] = ()
    rule: Rule | None = None


class Merge(Reader):
    """What the files read so far come to, and what was wrong with them."""

    def __init__(
        self,
        catalogue: Mapping[str, Knob],
        metrics: Callable[[str], bool],
        uid_of: Callable[[str], int],
        metric_names: tuple[str, ...],
        page_size: int,
    ) -> None:
        super().__init__()
        self.catalogue, self.known_metric, self.uid_of = catalogue, metrics, uid_of
        self.metric_names, self.page_size = metric_names, page_size
        self.mode = Mode.OBSERVE
        self.settings: dict[str, float] = {}
        self.cgroups: dict[str, None] = {}
        self.owners: dict[str, MetricOwner] = {}
        self.limits: dict[str, Limit] = {}
        self.drafts: dict[str, _Draft] = {}  # by rule id
        self.climbs: dict[str, Climb] = {}
        self.climb_metrics: list[tuple[str, int, str, str]] = []  # file, line, key, metric
        self.disabled: dict[str, tuple[str, int]] = {}
        self.elsewhere: frozenset[str] = frozenset()  # rules of shipped policies that are not loaded now

    # -------------------------------------------------------------------------- files

    def add(self, path: Path) -> None:
        self.file = str(path)
        node = document.read(path, self.problem)
        if node is None:
            if not self.said[self.file]:
                self.problem(1, "file", "is empty", "write at least `version: 1`")
            return
        top = self.table(node, "file")
        if top is None:
            return
        parts = self.known(top, "", TOP)
        if "version" not in parts:
            self.problem(1, "version", "is missing", "write `version: 1`")
        elif (version := self.text(parts["version"], "version")) not in (None, "1"):
            self.problem(
                parts["version"].line, "version", f"{shown(version or '')} is not known", "write `version: 1`"
            )
        read: dict[str, Callable[[Node], None]] = {
            "mode": self.read_mode,
            "settings": self.read_settings,
            "cgroups": self.read_cgroups,
            "metrics": self.read_metrics,
            "limits": self.read_limits,
            "disable": self.read_disable,
            "rules": self.read_rules,
            "climbs": self.read_climbs,
        }
        for key, reader in read.items():
            if key in parts:
                reader(parts[key])

    def read_mode(self, node: Node) -> None:
        word = self.text(node, "mode")
        if word is None:
            return
        if word not in list(Mode):
            self.problem(node.line, "mode", f"{shown(word)} is not a mode", f"choose {', '.join(Mode)}")
            return
        self.mode = Mode(word)
        self.place("mode", node.line, word)

    def read_settings(self, node: Node) -> None:
        if (table := self.table(node, "settings")) is None:
            return
        for name, value in self.known(table, "settings.", tuple(SETTINGS)).items():
            key = f"settings.{name}"
            if (text := self.text(value, key)) is None:
                continue
            field, read, low, high = SETTINGS[name]
            try:
                number = read(text)
            except Misfit as error:
                self.problem(value.line, key, error.what, error.hint)
                continue
            if not read(low) <= number <= read(high):
                self.problem(value.line, key, f"{text} is outside {low} to {high}", "choose a value inside")
                continue
            self.settings[field] = number
            self.place(key, value.line, text)

    def read_cgroups(self, node: Node) -> None:
        for number, item in enumerate(self.items(node, "cgroups")):
            if (text := self.text(item, f"cgroups[{number}]")) is None:
                continue
            path = text.strip("/")
            if {"", ".", ".."} & set(path.split("/")) or not path.isprintable() or " " in path:
                what = f"{shown(text)} is not a path below the cgroup root"
                self.problem(
                    item.line, f"cgroups[{number}]", what, "write it like system.slice/nginx.service"
                )
                continue
            self.cgroups[path] = None
            self.place(f"cgroups.{path}", item.line, text)

    def read_metrics(self, node: Node) -> None:
        if (table := self.table(node, "metrics")) is None:
            return
        for name, value in table.entries.items():
            key, line = f"metrics.{shown(name)[1:-1]}", table.lines[name]
            if not re.fullmatch(APP_METRIC, name):
                hint = "only what programs report has an owner; such a name begins with app., like app.p95_ms"
                self.problem(line, key, "is not an application metric", hint)
                continue
            old = self.owners.get(name) or MetricOwner(name, 0)
            # Known from here on, whatever else is wrong with it: rules that use it are not to blame.
            self.owners[name] = msgspec.structs.replace(old, origin=f"{self.file}:{line}")
            if (entry := self.table(value, key)) is None:
                continue
            parts = self.known(entry, f"{key}.", METRIC)
            user = self.one(parts, key, "owner", str)
            stale_s = self.one(parts, key, "stale", units.seconds)
            if "owner" not in parts and f"{key}.owner" not in self.places:
                self.problem(line, key, "has no owner", "say which user's samples count: `owner: www-data`")
            self.owners[name] = MetricOwner(
                name,
                old.uid if user is None else self.uid(user),
                old.stale_s if stale_s is None else stale_s,
                f"{self.file}:{line}",
            )

    def uid(self, user: str) -> int:
        """-1 for a user that is not there: only the owner that wins the merge is a problem."""
        if re.fullmatch("[0-9]{1,9}", user):
            return int(user)
        try:
            return self.uid_of(user)
        except KeyError:
            return -1

    # -------------------------------------------------------------------------- limits

    def knob(self, name: str, line: int, key: str) -> Knob | None:
        if (knob := self.catalogue.get(name)) is None:
            plain, at, _ = name.partition("@")
            hint = self.close(plain, self.catalogue) or "`tuned-spec knobs` lists them"
            if at and plain in self.catalogue:
                hint = f"write {plain}: there is one on the host"
            self.problem(line, key, "unknown knob", hint)
        return knob

    def one_knob(self, name: str, line: int, key: str) -> Knob | None:
        """A knob that can be written: of a template, the one of an instance, or of each that a glob means."""
        knob = self.knob(name, line, key)
        if knob is not None and knob.per and not knob.instance:
            hint = f"write {name}@NAME, or {name}@* for each of them"
            self.problem(line, key, f"there is one for each {knob.per}", hint)
            return None
        if knob is not None and (what := misnamed(knob)):
            hint = f"`tuned-spec knobs {entry_of(name)}` lists those that are here"
            self.problem(line, key, what, "write exe=NAME or cgroup=PATH" if knob.per == "task" else hint)
            return None
        return knob

    def read_limits(self, node: Node) -> None:
        if (table := self.table(node, "limits")) is None:
            return
        for name, value in table.entries.items():
            key, line = f"limits.{shown(name)[1:-1]}", table.lines[name]
            knob, entry = self.knob(name, line, key), self.table(value, key)
            if entry is None:
                continue
            parts = self.known(entry, f"{key}.", LIMIT)
            if knob is None:
                continue
            limit = self.limits.get(name) or Limit(name)
            for field, part in parts.items():
                try:
                    limit = self.limit(limit, knob, field, part, f"{key}.{field}")
                except Misfit as error:
                    self.problem(part.line, f"{key}.{field}", error.what, error.hint)
            self.limits[name] = msgspec.structs.replace(limit, origin=f"{self.file}:{line}")

    def limit(self, limit: Limit, knob: Knob, field: str, node: Node, key: str) -> Limit:
        number = knob.type in (KnobType.INT, KnobType.INTS)
        if field in ("range", "step", "bound") and not number:
            raise Misfit(f"a {knob.type} has no {field}", "use choices" if knob.choices else "delete it")
        if field == "choices" and knob.type is not KnobType.CHOICE:
            raise Misfit(f"a knob of type {knob.type} has no choices", "use range")
        change: dict[str, object]
        if field in ("range", "choices"):
            words = [self.text(item, key) for item in self.items(node, key)]
            given = [word for word in words if word is not None]
            if not given or len(given) < len(words):
                return limit
            text = f"[{', '.join(given)}]"
            if field == "choices":
                change = {"choices": tuple(grammar.choice(knob, word) for word in given)}
            elif len(given) != 2:
                raise Misfit("is not two values", "a range is [low, high]")
            else:
                low, high = (self.narrower(knob, word) for word in given)
                if low > high:
                    raise Misfit(f"low {given[0]} is above high {given[1]}", "swap them")
                change = {"low": low, "high": high}
        else:
            if (word := self.text(node, key)) is None:
                return limit
            text = word
            if field == "step":
                change = self.step(knob, word)
            elif field == "bound":
                change = {"bound_ratio": units.factor(word)}
            else:
                change = {"cooldown_s": units.seconds(word)}
        self.place(key, node.line, text)
        return msgspec.structs.replace(limit, **change)

    def narrower(self, knob: Knob, word: str) -> int:
        try:
            return grammar.number(knob, word, self.page_size)
        except Misfit as error:
            if "outside" in error.what:
                raise Misfit(error.what, "a policy narrows the catalogue's range, never widens it") from None
            raise

    def step(self, knob: Knob, text: str) -> dict[str, object]:
        """`2x`, `64KiB`, or `2x or 64KiB` (the wider one counts)."""
        found: dict[str, object] = {"step_ratio": None, "step_abs": None}
        for word in text.split(" or "):
            if word.endswith("x"):
                found["step_ratio"] = units.factor(word)
            elif (amount := units.for_knob(word.strip(), knob.unit, self.page_size)) > 0:
                found["step_abs"] = amount
            else:
                raise Misfit(f"a step of {word}", "write a step above 0")
        return found

    def read_disable(self, node: Node) -> None:
        for number, item in enumerate(self.items(node, "disable")):
            if (name := self.text(item, f"disable[{number}]")) is not None:
                self.disabled[name] = (self.file, item.line)
                self.place(f"disable.{shown(name)[1:-1]}", item.line, name)

    # --------------------------------------------------------------------------- rules

    def read_rules(self, node: Node) -> None:
        seen: dict[str, int] = {}
        for number, item in enumerate(self.items(node, "rules")):
            key = f"rules[{number}]"
            if (table := self.table(item, key)) is None:
                continue
            name = f"{self.file} {key}"  # of a rule without a good id of its own
            match table.entries.get("id"):
                case Text(line, text) if re.fullmatch(NAME, text):
                    key, name = f"rules.{text}", text
                    if first := seen.get(text):
                        what = f"a second rule of that id, the first is in line {first}"
                        self.problem(line, key, what, "rename one")
                        continue
                    seen[text] = line
                case Text(line, text) if text.strip():
                    self.problem(line, f"{key}.id", "is not a rule's name", "letters, digits, - _ and . only")
            if name in self.drafts:
                self.forget(f"{key}.")  # what the rule that this one replaces has written
            self.drafts[name] = self.read_rule(table, key)

    def read_rule(self, table: Table, key: str) -> _Draft:
        before = self.said[self.file]
        draft = _Draft(self.file, table.line)
        parts = self.known(table, f"{key}.", RULE_REQUIRED + RULE_OPTIONAL)
        for name in RULE_REQUIRED:
            if name not in parts:
                self.problem(table.line, f"{key}.{name}", "is missing", _WHY_REQUIRED[name])
        words = {name: self.one(parts, key, name, str) or "" for name in ("id", "reason", "source")}
        when = self.many(parts, key, "when", grammar.condition)
        do = self.read_do(parts["do"], f"{key}.do", draft) if "do" in parts else ()
        expect = self.one(parts, key, "expect", grammar.expect)
        guards = self.many(parts, key, "guard", grammar.guard)
        times = {
            "cooldown_s": self.one(parts, key, "cooldown", units.seconds),
            "settle_s": self.one(parts, key, "settle", units.seconds),
            "dwell_s": self.one(parts, key, "dwell", _some_time),
            "lease_s": self.one(parts, key, "lease", _some_time),
            "confidence": self.one(parts, key, "confidence", _confidence),
        }
        used = [(label, metric) for label, condition in when.items() for metric in _names(condition)]
        used += [("expect", expect.metric)] if expect else []
        used += [(label, guard.metric) for label, guard in guards.items()]
        draft.metrics = [(self.places[f"{key}.{part}"][1], f"{key}.{part}", metric) for part, metric in used]
        if self.said[self.file] == before and expect is not None:
            rule = Rule(
                id=words["id"],
                when=tuple(when.values()),
                do=do,
                expect=expect,
                reason=words["reason"],
                source=words["source"],
                guard=tuple(guards.values()),
                origin=f"{self.file}:{table.line}",
            )
            given = {name: value for name, value in times.items() if value is not None}
            draft.rule = msgspec.structs.replace(rule, **given)
            self.check_lease(draft.rule, key)
        return draft

    def check_lease(self, rule: Rule, key: str) -> None:
        """A lease that holds too few pairs of windows could only ever run out."""
        timing = windows.of(rule, self.catalogue)
        if rule.lease_s is None or timing.pairs >= windows.LEAST_PAIRS:
            return
        need = math.ceil(timing.lease_for(windows.LEAST_PAIRS))
        what = (
            f"holds {timing.pairs} pairs of windows of {timing.pair_s:.3g} s; "
            f"a verdict takes {windows.LEAST_PAIRS} at least"
        )
        line = self.places[f"{key}.lease"][1]
        self.problem(line, f"{key}.lease", what, f"leave it out, or write {need}s or more")

    def read_climbs(self, node: Node) -> None:
        for number, item in enumerate(self.items(node, "climbs")):
            if (table := self.table(item, f"climbs[{number}]")) is None:
                continue
            match table.entries.get("id"):
                case Text(_, text) if re.fullmatch(NAME, text):
                    key = f"climbs.{text}"
                    self.forget(f"{key}.")
                    if (climb := self.read_climb(table, key)) is not None:
                        self.climbs[text] = climb
                case _:
                    hint = "letters, digits, - _ and . only"
                    self.problem(table.line, f"climbs[{number}].id", "is not a search's name", hint)

    def read_climb(self, table: Table, key: str) -> Climb | None:
        before = self.said[self.file]
        parts = self.known(table, f"{key}.", CLIMB_REQUIRED + CLIMB_OPTIONAL)
        for name in CLIMB_REQUIRED:
            if name not in parts:
                self.problem(table.line, f"{key}.{name}", "is missing", _WHY_REQUIRED[name])
        words = {name: self.one(parts, key, name, str) or "" for name in ("id", "reason", "source")}
        spans = self.read_over(parts["over"], f"{key}.over") if "over" in parts else ()
        expect = self.one(parts, key, "expect", grammar.expect)
        guards = self.many(parts, key, "guard", grammar.guard)
        given = {
            "every_s": self.one(parts, key, "every", _some_time),
            "step": self.one(parts, key, "step", units.factor),
            "recheck_s": self.one(parts, key, "recheck", _some_time),
            "settle_s": self.one(parts, key, "settle", units.seconds),
            "dwell_s": self.one(parts, key, "dwell", _some_time),
            "confidence": self.one(parts, key, "confidence", _confidence),
        }
        if self.said[self.file] != before or expect is None:
            return None
        metrics = [("expect", expect.metric), *((label, guard.metric) for label, guard in guards.items())]
        for part, metric in metrics:
            line = self.places[f"{key}.{part}"][1]
            self.climb_metrics.append((self.file, line, f"{key}.{part}", metric))
        climb = Climb(
            id=words["id"],
            spans=spans,
            expect=expect,
            reason=words["reason"],
            source=words["source"],
            guard=tuple(guards.values()),
            origin=f"{self.file}:{table.line}",
        )
        known = {name: value for name, value in given.items() if value is not None}
        return msgspec.structs.replace(climb, **known)

    def read_over(self, node: Node, key: str) -> tuple[Span, ...]:
        """The numbers to search over, each with its range inside the catalogue's."""
        if (table := self.table(node, key)) is None:
            return ()
        found: list[Span] = []
        for target, value in table.entries.items():
            line, label = table.lines[target], f"{key}.{shown(target)[1:-1]}"
            name, bracket, tail = target.partition("[")
            if (knob := self.one_knob(name, line, label)) is None:
                continue
            if knob.type not in (KnobType.INT, KnobType.INTS):
                self.problem(line, label, f"a {knob.type} has no range to search", "use a rule")
                continue
            field = knob.fields.index(tail[:-1]) if bracket and tail[:-1] in knob.fields else None
            if (knob.type is KnobType.INTS) != (field is not None):
                fields = f"pick one: {', '.join(f'{name}[{f}]' for f in knob.fields)}"
                self.problem(line, label, "is not one number", fields if knob.fields else "delete the [...]")
                continue
            words = [self.text(item, label) for item in self.items(value, label)]
            given = [word for word in words if word is not None]
            if len(given) != 2:
                self.problem(line, label, "is not two values", "a range is [low, high]")
                continue
            try:
                low, high = (self.narrower(knob, word) for word in given)
                if low >= high:
                    raise Misfit(f"low {given[0]} is not below high {given[1]}", "leave room to search")
            except Misfit as error:
                self.problem(line, label, error.what, error.hint)
                continue
            self.place(label, line, f"[{given[0]}, {given[1]}]")
            found.append(Span(knob.id, low, high, field, knob.quantum))
        if not found or len(found) > MOST_SPANS:
            what = f"has {len(found)} numbers" if found else "searches over nothing"
            self.problem(table.line, key, what, f"one to {MOST_SPANS}")
        if any(is_glob(span.knob) for span in found):
            self.problem(table.line, key, "has a glob", "a search is for one instance: name it")
        return tuple(found)

    def read_do(self, node: Node, key: str, draft: _Draft) -> tuple[Action, ...]:
        if (table := self.table(node, key)) is None:
            return ()
        if not table.entries:
            self.problem(table.line, key, "does nothing", "write `KNOB: multiply 2` or the like")
        found: list[Action] = []
        for target, value in table.entries.items():
            line, label = table.lines[target], f"{key}.{shown(target)[1:-1]}"
            name, bracket, tail = target.partition("[")
            text = self.text(value, label)
            if (knob := self.one_knob(name, line, label)) is None or text is None:
                continue
            field: int | None = None
            if bracket:
                if (field_name := tail.removesuffix("]")) not in knob.fields:
                    fields = (
                        f"fields are {', '.join(knob.fields)}"
                        if knob.fields
                        else "it is one value: delete the [...]"
                    )
                    hint = self.close(field_name, knob.fields) or fields
                    self.problem(line, label, f"{knob.id} has no field {shown(field_name)}", hint)
                    continue
                field = knob.fields.index(field_name)
            read = functools.partial(grammar.action, knob, field, text, self.page_size)
            if (action := self.understood(value.line, label, text, read)) is None:
                continue
            if any(other.knob == name and (other.field is None or field is None) for other in found):
                self.problem(line, label, "is written whole and by field", "write it once")
            found.append(action)
        lines = {target.partition("[")[0]: line for target, line in table.lines.items()}
        draft.knobs = tuple(name for name in lines if name in self.catalogue)
        self.check_partners(draft.knobs, lines, key)
        return tuple(found)

    def check_partners(self, order: tuple[str, ...], lines: Mapping[str, int], key: str) -> None:
        """Coupled knobs within one transaction."""
        for first, second, kind in self.coupled(order):
            if kind is CouplingKind.ZEROES:
                what = f"the kernel zeroes {first} when {second} is written"
                self.problem(lines[second], f"{key}.{second}", what, "write one of the two")
            elif order.index(first) > order.index(second):
                what = f"is undone by {first}, which resets it"
                self.problem(lines[second], f"{key}.{second}", what, f"write {first} first")

    def coupled(self, knobs: Iterable[str]) -> list[tuple[str, str, CouplingKind]]:
        """(knob, partner, how) for every pair among `knobs` of which one write changes the other."""
        among = set(knobs)
        found: dict[frozenset[str], tuple[str, str, CouplingKind]] = {}
        for name in sorted(among):
            for coupling in self.catalogue[name].coupled:
                if coupling.partner in among and coupling.kind is not CouplingKind.ORDERED:
                    found.setdefault(
                        frozenset((name, coupling.partner)), (name, coupling.partner, coupling.kind)
                    )
        return list(found.values())

    # ----------------------------------------------------------------- across the files

    def finish(self, names: tuple[str, ...]) -> Policy:
        """The checks across files, and the result; it counts only if there are no problems."""
        for name, (file, line) in self.disabled.items():
            if self.drafts.pop(name, None):
                self.forget(f"rules.{name}.")
            elif self.climbs.pop(name, None):
                self.forget(f"climbs.{name}.")
            elif name not in self.elsewhere:
                self.file = file
                self.problem(line, "disable", f"no rule {shown(name)}", self.close(name, self.drafts))
        for owner in self.owners.values():
            if owner.uid < 0:
                key = f"metrics.{owner.name}.owner"
                what = f"no user {shown(self.texts[key])} on this host"
                self.file, line = self.places[key]
                self.problem(line, key, what, "create it, or name another in a drop-in")
        for draft in self.drafts.values():
            self.file = draft.file
            for line, key, metric in draft.metrics:
                if wrong := self.wrong_metric(metric):
                    self.problem(line, key, *wrong)
                elif is_glob(metric) and draft.rule and not is_template(draft.rule):
                    what = f"{shown(metric)} has a glob, and no knob of the rule has one"
                    self.problem(line, key, what, "name the instance")
        for file, line, key, metric in self.climb_metrics:
            self.file = file
            if wrong := self.wrong_metric(metric):
                self.problem(line, key, *wrong)
            elif is_glob(metric):
                self.problem(line, key, f"{shown(metric)} has a glob", "a search hears one instance: name it")
        self.check_apart()
        policy = Policy(
            names=names,
            mode=self.mode,
            rules=tuple(draft.rule for draft in self.drafts.values() if draft.rule),
            climbs=tuple(self.climbs.values()),
            limits=tuple(self.limits.values()),
            metrics=tuple(self.owners.values()),
            cgroups=tuple(self.cgroups),
        )
        return msgspec.structs.replace(policy, **self.settings)

    def wrong_metric(self, metric: str) -> tuple[str, str] | None:
        if metric.startswith("app."):
            if metric in self.owners:
                return None
            declare = f"say who reports it: `metrics: {{{metric}: {{owner: USER}}}}`"
            return f"{shown(metric)} has no owner", self.close(metric, self.owners) or declare
        if self.known_metric(metric):
            return None
        name, at, _ = metric.partition("@")
        if name in self.metric_names:
            why = "it has no such instances" if at else f"say which: {name}@INSTANCE"
            return f"{shown(metric)} is no metric", f"{why}; docs/metrics.md lists what is sensed"
        hint = self.close(name, self.metric_names) or "docs/metrics.md lists what is sensed"
        return f"unknown metric {shown(metric)}", hint

    def check_apart(self) -> None:
        """Coupled knobs in different rules would undo each other behind the judge's back."""
        writers: dict[str, list[str]] = {}
        for name, draft in self.drafts.items():
            for knob in draft.knobs:
                writers.setdefault(knob, []).append(name)
        for first, second, kind in self.coupled(writers):
            if lone := set(writers[first]) ^ set(writers[second]):
                later = [name for name in self.drafts if name in lone][-1]
                mine, other = (first, second) if later in writers[first] else (second, first)
                what = f"writes {mine}, and rule {writers[other][0]} {other}: one write {kind} the other"
                hint = "keep one of the two" if kind is CouplingKind.ZEROES else "write both in one rule"
                draft = self.drafts[later]
                self.file = draft.file
                self.problem(draft.line, f"rules.{later}.do", what, hint)


def _names(condition: Condition) -> list[str]:
    rest = _names(condition.fallback) if condition.fallback else []
    return [condition.metric, *rest]


def _some_time(text: str) -> float:
    if (seconds := units.seconds(text)) == 0:
        raise Misfit("leaves no time to judge", "write a time like 2s or 5m")
    return seconds


def _confidence(text: str) -> float:
    if (confidence := units.share(text)) > 1:
        raise Misfit(f"{text} is above 100%", "write 50% for a guess")
    return confidence
