"""What may stand in a policy file, what several of them come to, and the checks across them.

Must not know directories, the host's state, or who runs the policy. A later file wins key by key: a setting,
a metric's owner, one field of a limit; a rule of the same id is replaced whole, in its place; `disable` takes
rules away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tuned_spec.knobs.caps import Facts
from tuned_spec.model import CouplingKind, Knob, MetricOwner, Mode, Policy
from tuned_spec.policy import document, units
from tuned_spec.policy.approval import Approvals
from tuned_spec.policy.climbs import Climbs
from tuned_spec.policy.document import Node, shown
from tuned_spec.policy.limits import Limits
from tuned_spec.policy.rules import Draft, Rules
from tuned_spec.policy.suggest import Suggests
from tuned_spec.policy.units import Misfit
from tuned_spec.speculate.templates import is_glob

APP_METRIC = r"app\.[A-Za-z_][A-Za-z0-9_.-]{0,63}"

TOP = (
    "version",
    "mode",
    "settings",
    "cgroups",
    "metrics",
    "limits",
    "approval",
    "disable",
    "rules",
    "climbs",
    "suggest",
)
METRIC = ("owner", "stale")

# key in the file -> (field of Policy, how to read it, lowest, highest)
SETTINGS: dict[str, tuple[str, Callable[[str], float], str, str]] = {
    "changes_per_minute": ("changes_per_minute", units.whole, "1", "600"),
    "toggles_per_minute": ("toggles_per_minute", units.whole, "2", "6000"),
    "rest": ("rest_s", units.seconds, "0s", "168h"),
    "alpha": ("alpha", units.share, "0.01%", "50%"),
    "ahead": ("ahead", units.count_or_off, "off", "8"),
    "ahead_depth": ("ahead_depth", units.whole, "1", "4"),
    "ahead_price": ("ahead_price", units.share, "0%", "100%"),
    "max_pairs": ("max_pairs", units.whole, "2", "10000"),
}


class Merge(Limits, Approvals, Rules, Climbs, Suggests):
    """What the files read so far come to, and what was wrong with them."""

    def __init__(
        self,
        catalogue: Mapping[str, Knob],
        metrics: Callable[[str], bool],
        uid_of: Callable[[str], int],
        sensed: Mapping[str, str],
        facts: Facts,
    ) -> None:
        super().__init__(catalogue, facts)
        self.known_metric, self.uid_of, self.sensed = metrics, uid_of, sensed
        self.mode = Mode.OBSERVE
        self.settings: dict[str, float] = {}
        self.cgroups: dict[str, None] = {}
        self.owners: dict[str, MetricOwner] = {}
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
            "approval": self.read_approval,
            "disable": self.read_disable,
            "rules": self.read_rules,
            "climbs": self.read_climbs,
            "suggest": self.read_suggest,
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

    def read_disable(self, node: Node) -> None:
        for number, item in enumerate(self.items(node, "disable")):
            if (name := self.text(item, f"disable[{number}]")) is not None:
                self.disabled[name] = (self.file, item.line)
                self.place(f"disable.{shown(name)[1:-1]}", item.line, name)

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
            self.check_globs(draft)
        for file, line, key, metric in (*self.climb_metrics, *self.suggest_metrics):
            self.file = file
            if wrong := self.wrong_metric(metric):
                self.problem(line, key, *wrong)
            elif is_glob(metric):
                self.problem(line, key, f"{shown(metric)} has a glob", "one instance is heard here: name it")
        self.check_apart()
        self.inherit()
        policy = Policy(
            names=names,
            mode=self.mode,
            rules=tuple(draft.rule for draft in self.drafts.values() if draft.rule),
            climbs=tuple(self.climbs.values()),
            suggest=self.suggest,
            limits=tuple(self.limits.values()),
            metrics=tuple(self.owners.values()),
            cgroups=tuple(self.cgroups),
            approval=msgspec.structs.replace(self.approval, rules=self.asking_rules()),
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
        if name in self.sensed:
            why = "it has no such instances" if at else f"say which: {name}@INSTANCE"
            return f"{shown(metric)} is no metric", f"{why}; docs/metrics.md lists what is sensed"
        hint = self.close(name, self.sensed) or "docs/metrics.md lists what is sensed"
        return f"unknown metric {shown(metric)}", hint

    def check_globs(self, draft: Draft) -> None:
        """A rule is made once for each instance that its knobs' globs mean; all its globs are that one."""
        kinds = sorted({self.catalogue[name].per for name in draft.knobs if is_glob(name)})
        if len(kinds) > 1:
            what = f"has globs over {' and '.join(f'each {per}' for per in kinds)}"
            self.problem(draft.line, f"{draft.key}.do", what, "one rule for each kind: split it")
        for line, key, metric in draft.metrics:
            name = metric.partition("@")[0]
            if not is_glob(metric) or self.sensed.get(name, "") in kinds:
                continue
            what = f"{shown(metric)} is of many, and the rule has no knob of many"
            if kinds:
                what = f"{shown(metric)} is not of each {kinds[0]}, as the rule's knobs are"
            self.problem(line, key, what, f"write one's name behind the @, or {name} for all")

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
