"""Values computed from facts of the host, globs, and limits of one instance."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.policy.catalogue import CATALOGUE, FACTS, METRICS, uid_of
from tests.policy.test_load import loaded, problems, with_rule
from tuned_spec.errors import PolicyError
from tuned_spec.knobs.caps import Facts
from tuned_spec.model import Knob, KnobType, Limit
from tuned_spec.policy import grammar
from tuned_spec.policy.load import Loaded, load
from tuned_spec.policy.units import Misfit, computed

MIB, GIB = 1 << 20, 1 << 30


def on(tmp: Path, text: str, facts: Facts) -> Loaded:
    (tmp / "p.yaml").write_text(text)
    return load(
        ["p"],
        shipped=tmp,
        dropins=None,
        catalogue=CATALOGUE,
        metrics=METRICS.__contains__,
        uid_of=uid_of,
        facts=facts,
    )


@pytest.mark.parametrize(
    ("do", "value"),
    [
        ("vm.dirty_bytes: set 1% of ram", (16 * GIB // 100) // 4096 * 4096),
        ("vm.dirty_bytes: 'set max(line_rate * 100ms, 4MiB)'", 4 * MIB),
        ("vm.dirty_bytes: set 64 * ram", 1 << 40),  # brought down to the catalogue's range
        ("vm.min_free_kbytes: set 64MiB * cpus", 256 * 1024),
        ("vm.swappiness: set 10 * cpus only raise", 40),
        ("vm.swappiness: set cpus", 4),
        ("vm.dirty_writeback_centisecs: set 250ms * cpus", 100),
        ("net.mem: set 25% of ram", 4 * GIB // 4096),
        ('"net.ipv4.tcp_rmem[max]": toward 1% of ram by 50%', 16 * GIB // 100),
        ("net.ipv4.tcp_rmem: set 4KiB (cpus * 64KiB) (1% of ram)", (4096, 4 * 65536, 16 * GIB // 100)),
    ],
)
def test_a_value_is_computed(tmp_path: Path, do: str, value: object) -> None:
    (rule,) = loaded(tmp_path, with_rule(do)).policy.rules
    assert rule.do[0].value == value


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (
            "vm.dirty_bytes: set line_rate * 100ms",
            "p.yaml:7: rules.one.do.vm.dirty_bytes: line_rate * 100ms needs line_rate, which this host does "
            "not tell; write max(line_rate * 100ms, FALLBACK)",
        ),
        ("vm.dirty_bytes: set 25% of rom", "neither a number nor a fact"),
        ("vm.dirty_bytes: set 25% of", "a number or a fact is missing at the end"),
        ("vm.dirty_bytes: set ram / 0", "ram / 0 has no value here"),
        (f"vm.dirty_bytes: set {'(' * 40}ram{')' * 40}", "more than 16 brackets; write it simpler"),
        ("mm.thp: set 25% of ram", "3 values for one knob"),
        ("net.ipv4.tcp_rmem: set 4KiB 1% of ram", "4 values for 3 fields"),
    ],
)
def test_what_cannot_be_computed_is_said(tmp_path: Path, do: str, said: str) -> None:
    (only,) = problems(tmp_path, with_rule(do))
    assert said in only


def test_ranges_of_limits_and_searches_are_computed(tmp_path: Path) -> None:
    text = """\
version: 1
limits: {vm.dirty_bytes: {range: [64MiB, "max(10% of ram, 128MiB)"]}}
climbs:
  - {id: c, reason: r, source: s, over: {vm.swappiness: [1, 2 * cpus]}, expect: cpu.busy falls by 5%}
"""
    policy = on(tmp_path, text, FACTS).policy
    assert (policy.limits[0].low, policy.limits[0].high) == (64 * MIB, 16 * GIB // 10 // 4096 * 4096)
    assert policy.climbs[0].spans[0].high == 8
    small = on(tmp_path, text, {**FACTS, "ram": 512.0 * MIB, "cpus": 1.0}).policy
    assert small.limits[0].high == 128 * MIB


def test_a_range_that_has_no_room_on_this_host_is_a_problem(tmp_path: Path) -> None:
    (only,) = problems(tmp_path, "version: 1\nlimits: {vm.swappiness: {range: [20, 2 * cpus]}}")
    assert "p.yaml:2: limits.vm.swappiness.range: low 20 is above high 2 * cpus" in only


def test_pages_are_counted_only_where_their_size_is_known(tmp_path: Path) -> None:
    with pytest.raises(Misfit, match="size is not known"):
        computed("25% of ram", "pages", {"ram": 1.0})


def with_search(over: str) -> str:
    return f"""\
version: 1
climbs:
  - id: one
    reason: r
    source: s
    over: {{{over}}}
    expect: cpu.busy falls by 5%
"""


# ------------------------------------------------------------------------ many instances


class Templates(dict[str, Knob]):
    """The catalogue with `block.*` of each disk and `nic.len` of each NIC."""

    def __init__(self) -> None:
        super().__init__(CATALOGUE)
        for name in ("block.scheduler", "block.nr_requests"):
            self[name] = msgspec.structs.replace(CATALOGUE[name], per="disk", coupled=())
        self["nic.len"] = msgspec.structs.replace(CATALOGUE["vm.swappiness"], id="nic.len", per="nic")
        self["task.nice"] = msgspec.structs.replace(CATALOGUE["vm.swappiness"], id="task.nice", per="task")
        for instance in ("exe=a*,cgroup=b.slice", "cgroup=b.slice/*", "sleep", "*"):
            id = f"task.nice@{instance}"
            self[id] = msgspec.structs.replace(self["task.nice"], id=id, instance=instance)
        for name in [name for name, knob in self.items() if knob.per and knob.per != "task"]:
            for instance in ("*", "sd*", "vda"):
                id = f"{name}@{instance}"
                self[id] = msgspec.structs.replace(self[name], id=id, instance=instance)


def with_templates(tmp: Path, text: str) -> Loaded:
    (tmp / "p.yaml").write_text(text)
    names = {*METRICS, "disk.util@*", "disk.util@vda"}
    return load(
        ["p"],
        shipped=tmp,
        dropins=None,
        catalogue=Templates(),
        metrics=names.__contains__,
        uid_of=uid_of,
        facts=FACTS,
        sensed={"disk.util": "disk"},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            with_rule(when="[disk.util@* > 0.5 clear 0.2]"),
            "p.yaml:6: rules.one.when[0]: 'disk.util@*' is of many, and the rule has no knob of many; write "
            "one's name behind the @, or disk.util for all",
        ),
        (
            with_rule('"nic.len@*": set 10', when="[disk.util@* > 0.5 clear 0.2]"),
            "'disk.util@*' is not of each nic, as the rule's knobs are; write one's name",
        ),
        (
            with_rule('"block.nr_requests@*": set 64, "nic.len@*": set 10'),
            "has globs over each disk and each nic; one rule for each kind: split it",
        ),
        (
            'version: 1\nlimits: {"block.nr_requests@sd*": {cooldown: 1m}}',
            "has a glob; write block.nr_requests for all of them, or one's name behind the @",
        ),
        (with_rule("block.nr_requests: set 64"), "one for each disk; write block.nr_requests@NAME, or"),
        (
            with_rule("task.nice: set 5"),
            "there is one for each task; write task.nice@exe=NAME, task.nice@cgroup=",
        ),
        (
            with_rule("task.nice@sleep: set 5"),
            "'sleep' is not exe=GLOB, cgroup=PATH, or both joined by a comma",
        ),
        (
            with_rule('"task.nice@*": set 5'),
            "'*' is not exe=GLOB, cgroup=PATH, or both joined by a comma; write",
        ),
        (
            with_search('"task.nice@cgroup=b.slice/*": [0, 9]'),
            "cgroup= is a path and takes no glob; name the cgroup itself: all below it is meant",
        ),
        (
            with_search("block.nr_requests: [4, 8]"),
            "there is one for each disk; write block.nr_requests@NAME\n",
        ),
        (with_search('"block.nr_requests@*": [4, 8]'), "a search is for one instance: name it"),
    ],
)
def test_globs_that_cannot_be_bound(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        with_templates(tmp_path, text)
    (only,) = caught.value.problems
    assert said in f"{only}\n".replace(f"{tmp_path}/", "")


def test_tasks_are_named_by_a_selector_which_may_have_a_glob_in_it(tmp_path: Path) -> None:
    policy = with_templates(tmp_path, with_rule('"task.nice@exe=a*,cgroup=b.slice": set 5')).policy
    assert [action.knob for action in policy.rules[0].do] == ["task.nice@exe=a*,cgroup=b.slice"]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("", "over: searches over nothing; name one to 4"),
        (
            "vm.swappiness: [0, 9], vm.dirty_ratio: [0, 9], kernel.poll: [0, 9], net.mem: [0, 9], "
            "vm.dirty_writeback_centisecs: [0, 9]",
            "over: has 5 numbers; name one to 4",
        ),
        ("mm.thp: [never, always]", "over.mm.thp: a choice has no range to search; use a rule"),
        ("net.ipv4.tcp_slow_start_after_idle: [0, 1]", "a switch has no range to search; use a rule"),
        ("vm.swappiness: 10", "over.vm.swappiness: is not two values; a range is [low, high]"),
        ("vm.swappiness: [1, 2, 3]", "over.vm.swappiness: is not two values; a range is [low, high]"),
        ("vm.swappiness: [1, [2]]", "over.vm.swappiness: is not one value; write it on this line"),
        ("vm.swappiness: [9, 1]", "low 9 is not below high 1; leave room to search"),
        ("vm.swappiness: [0, 900]", "900 is outside [0, 200]; a policy narrows"),
        ("net.ipv4.tcp_rmem: [4KiB, 8KiB]", "is not one number; pick one: net.ipv4.tcp_rmem[min], net"),
        ('"net.ipv4.tcp_rmem[mx]": [4KiB, 8KiB]', "is not one number; pick one: net.ipv4.tcp_rmem[min], net"),
        ('"vm.swappiness[max]": [0, 9]', "is not one number; delete the [...]"),
    ],
)
def test_what_cannot_be_searched_is_said_once(tmp_path: Path, over: str, said: str) -> None:
    (problem,) = problems(tmp_path, with_search(over))
    assert said in problem


def test_the_limit_of_one_instance_inherits_from_its_entry(tmp_path: Path) -> None:
    text = """\
version: 1
limits:
  block.nr_requests@vda: {range: [32, 128]}
  block.nr_requests: {range: [16, 512], step: 2x, cooldown: 1m}
"""
    limits = {limit.knob: limit for limit in with_templates(tmp_path, text).policy.limits}
    path = tmp_path / "p.yaml"
    assert limits["block.nr_requests@vda"] == Limit(
        "block.nr_requests@vda", 32, 128, step_ratio=2.0, cooldown_s=60.0, origin=f"{path}:3"
    )
    assert limits["block.nr_requests"].high == 512


# ------------------------------------------------------------------- what a machine can bear

MASK = Knob("net.mask", "sysctl", "net/mask", KnobType.CPUMASK, "cpu mask", "for tests", "tests")


@pytest.mark.parametrize(("word", "value"), [("all", "0-3"), ("0,2-3", "0,2-3"), ("0-0", "0")])
def test_a_set_of_cpus(word: str, value: str) -> None:
    assert grammar.action(MASK, None, f"set {word}", FACTS).value == value


@pytest.mark.parametrize("word", ["any", "3-", "0x3"])
def test_what_is_no_set_of_cpus(word: str) -> None:
    with pytest.raises(Misfit, match=r"is not a set of CPUs; write it like 0-3,5, or all"):
        grammar.action(MASK, None, f"set {word}", FACTS)


def test_a_number_that_only_this_machine_cannot_bear_is_brought_down() -> None:
    """The same policy is for small hosts and large ones; without a cap it would be a slip of the author's."""
    capped = msgspec.structs.replace(CATALOGUE["vm.dirty_bytes"], cap="10% of ram", high=64 * MIB)
    assert grammar.number(capped, "1GiB", FACTS) == 64 * MIB
    with pytest.raises(Misfit, match="outside"):
        grammar.number(msgspec.structs.replace(capped, cap=""), "1GiB", FACTS)
