"""What may stand in a policy: one line of complaint for each mistake, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.test_load import loaded, problems, with_rule

APART = (
    with_rule("vm.dirty_bytes: set 64MiB")
    + with_rule("vm.dirty_ratio: set 10", id="two").partition("rules:\n")[2]
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # knobs and values
        (
            with_rule("vm.swapiness: set 10"),
            "rules.one.do.vm.swapiness: unknown knob; did you mean vm.swappiness?",
        ),
        (
            with_rule("task.nice@exe=*: set 1"),
            "rules.one.do.task.nice@exe=*: 'exe=*' means every task there is; name a program or a cgroup",
        ),
        (with_rule("task.nice@nginx: set 1"), "'nginx' is not exe=GLOB, cgroup=PATH, or both"),
        (with_rule("task.nice@12.345: set 1"), "'12.345' is not exe=GLOB, cgroup=PATH, or both"),
        (with_rule("block.depth@../vda: set 1"), "'../vda' leads out of where disk names are looked up"),
        (with_rule(expect="disk.util@* falls"), "'disk.util@*' is of many, and the rule has no knob of many"),
        (with_rule("vm.swappiness: set 300"), "300 is outside [0, 200]; choose a value inside"),
        (with_rule("vm.swappiness: set many"), "'many' is not a number with a unit"),
        (with_rule("vm.swappiness: set 10 20"), "2 values for one knob; give one"),
        (
            with_rule("vm.swappiness: set 4MiB"),
            "4MiB does not fit: this knob has no unit; write a bare number",
        ),
        (
            with_rule("vm.dirty_bytes: set 2s"),
            "2s does not fit: this knob counts bytes; write a bare number, or like 64KiB",
        ),
        (
            with_rule("vm.dirty_bytes: set 64M"),
            "64M has an unknown unit 'M'; write 64MiB: sizes count in steps of 1024",
        ),
        (with_rule("vm.dirty_bytes: set 64kB"), "64kB has an unknown unit 'kB'; write 64KiB"),
        (with_rule("vm.dirty_bytes: set 64lightyears"), "'64lightyears' is not a number with a unit"),
        (with_rule("vm.min_free_kbytes: set 1500B"), "1500B is not a whole number of kB"),
        (with_rule("vm.swappiness: grow 2"), "'grow 2' is not an action"),
        (with_rule("vm.swappiness: multiply 2x"), "2x has a unit; write the bare number 2"),
        (with_rule("vm.swappiness: multiply 1"), "multiply 1 makes no sense"),
        (with_rule("vm.swappiness: multiply -2"), "multiply -2 makes no sense"),
        (with_rule("vm.swappiness: add 0"), "add 0 does nothing"),
        (with_rule("vm.swappiness: toward 10"), "'toward 10' is not an action"),
        (with_rule("vm.swappiness: toward 10 by 150%"), "150% of the way"),
        (
            with_rule("mm.thp: set allways"),
            "'allways' is not a choice of mm.thp; choose one of always, madvise, never",
        ),
        (with_rule("mm.thp: multiply 2"), "a choice cannot multiply; write `set always or madvise or never`"),
        (with_rule("net.ipv4.tcp_slow_start_after_idle: set 2"), "'2' is not a switch; write on or off"),
        (with_rule("net.ipv4.tcp_rmem: set 4KiB"), "1 value for 3 fields; give min default max"),
        (with_rule('"net.ipv4.tcp_rmem[mx]": set 4KiB'), "has no field 'mx'; did you mean max?"),
        (with_rule('"vm.swappiness[max]": set 4'), "vm.swappiness has no field 'max'; it is one value"),
        (
            with_rule('"net.ipv4.tcp_rmem[max]": set 8MiB, net.ipv4.tcp_rmem: multiply 2'),
            "net.ipv4.tcp_rmem: is written whole and by field; write it once",
        ),
        # coupled knobs
        (
            with_rule("vm.dirty_bytes: set 64MiB, vm.dirty_ratio: set 10"),
            "the kernel zeroes vm.dirty_bytes when vm.dirty_ratio",
        ),
        (
            with_rule("block.nr_requests: set 64, block.scheduler: set bfq"),
            "is undone by block.scheduler, which resets it",
        ),
        (
            APART,
            "writes vm.dirty_ratio, and rule one vm.dirty_bytes: one write zeroes the other; keep one",
        ),
        # conditions
        (with_rule(when="[psi.cpu.some > 20%]"), "no clearing level; say where it is over"),
        (
            with_rule(when="[psi.cpu.some > 20% clear 30%]"),
            "clear 30% is on the wrong side of > 20%; put it below",
        ),
        (with_rule(when="[cpu.blocked < 2 clear 1]"), "clear 1 is on the wrong side of < 2; put it above"),
        (
            with_rule(when="[psi.cpu.some > 20 clear 10]"),
            "20 is out of reach: psi.cpu.some is a share from 0 to 1",
        ),
        (
            with_rule(when="[psi.cpu.some > 20% for 3 clear 10%]"),
            "3 is not a time; write it like 200us, 2s or 10m",
        ),
        (with_rule(when="[psi.cpu.some > 20% for -3s clear 10%]"), "-3s is negative; a time is 0s or more"),
        (with_rule(when="[psi.cpu.some > 2s clear 1s]"), "2s does not fit: this metric counts share"),
        (
            with_rule(when="[psi.cpu.some is high]"),
            "'psi.cpu.some is high' is not a condition; write it like",
        ),
        (
            with_rule(when="[psi.cpu.sum > 20% clear 10%]"),
            "unknown metric 'psi.cpu.sum'; did you mean psi.cpu.some?",
        ),
        (
            with_rule(when="[psi.cpu.some > 20% clear 10% else cpu.blokked > 2 clear 1]"),
            "when[0]: unknown metric 'cpu.blokked'; did you mean cpu.blocked?",
        ),
        (with_rule(when="[]"), "rules.one.when: is an empty list"),
        (with_rule(do="").replace("do: {}", "do: [x]"), "rules.one.do: is not a mapping"),
        (with_rule(do=" "), "rules.one.do: does nothing"),
        # the rest of a rule
        (with_rule(reason=""), "rules.one.reason: is missing; say in one sentence"),
        (with_rule(source=""), "rules.one.source: is missing; say where the idea is from"),
        (with_rule(expect=""), "rules.one.expect: is missing; say which metric must move"),
        (with_rule(expect="cpu.busy drops"), "'cpu.busy drops' is not an expectation"),
        (
            with_rule(expect="app.p95_ms falls by 5%"),
            "'app.p95_ms' has no owner; say who reports it: `metrics: {app.p95_ms:",
        ),
        (with_rule(expect="cpu.busy falls by 5"), "5 is not a percentage; write it like 5%"),
        (with_rule(guard="[cpu.busy may explode 5%]"), "'cpu.busy may explode 5%' is not a guard"),
        (with_rule(guard="[cpu.blocked@x may rise 5%]"), "'cpu.blocked@x' is no metric; it has no such"),
        (with_rule(guard="[cpu.bussy@cpu0 may rise 5%]"), "unknown metric 'cpu.bussy@cpu0'; did you mean"),
        (with_rule(lease="4s"), "rules.one.lease: holds 0 pairs of windows of"),
        (with_rule(lease="0s"), "rules.one.lease: leaves no time to judge"),
        (with_rule(cooldown="-1s"), "-1s is negative"),
        (with_rule(confidence="120%"), "120% is above 100%"),
        (with_rule(colour="red"), "rules.one.colour: unknown key"),
        (with_rule(id="[a]"), "rules[0].id: is not one value"),
        (with_rule(id="''"), "rules[0].id: has no value"),
        (with_rule(id="a b"), "rules[0].id: is not a rule's name"),
        (
            with_rule() + with_rule().partition("rules:\n")[2],
            "a second rule of that id, the first is in line 3",
        ),
        # limits
        (
            "version: 1\nlimits: {vm.swappiness: {range: [0, 300]}}",
            "a policy narrows the catalogue's range, never widens it",
        ),
        ("version: 1\nlimits: {vm.swappiness: {range: [60, 10]}}", "low 60 is above high 10; swap them"),
        ("version: 1\nlimits: {vm.swappiness: {range: [60]}}", "is not two values; a range is [low, high]"),
        ("version: 1\nlimits: {vm.swappiness: {step: 1x}}", "1x leaves no room; write a factor above 1"),
        ("version: 1\nlimits: {vm.swappiness: {bound: 4}}", "4 is not a factor; write it like 2x"),
        ("version: 1\nlimits: {vm.swappiness: {step: 0}}", "a step of 0; write a step above 0"),
        (
            "version: 1\nlimits: {vm.swappiness: {choices: [a]}}",
            "a knob of type int has no choices; use range",
        ),
        ("version: 1\nlimits: {mm.thp: {range: [1, 2]}}", "a choice has no range; use choices"),
        ("version: 1\nlimits: {mm.thp: {choices: [sometimes]}}", "'sometimes' is not a choice of mm.thp"),
        # metrics, cgroups, disable
        (
            "version: 1\nmetrics: {app.x: {owner: nobody-here}}",
            "no user 'nobody-here' on this host; create it, or name",
        ),
        (
            "version: 1\nmetrics: {app.x: {stale: 3s}}",
            "metrics.app.x: has no owner; say which user's samples count",
        ),
        ("version: 1\nmetrics: {cpu.busy: {owner: root}}", "is not an application metric"),
        ("version: 1\ncgroups: [../../etc]", "'../../etc' is not a path below the cgroup root"),
        ("version: 1\ndisable: [one]", "disable: no rule 'one'"),
        ("version: 1\nsettings: {max_pairs: 1.5}", "settings.max_pairs: 1.5 is not a whole number"),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, text: str, said: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1, found
    assert said in found[0]


@pytest.mark.parametrize(
    ("do", "value"),
    [
        ("vm.dirty_bytes: set 64MiB", 64 << 20),
        ("vm.dirty_bytes: set 1.5MiB", 3 << 19),
        ("vm.dirty_bytes: set 70000", 70000),
        ("vm.min_free_kbytes: set 64MiB", 65536),
        ("vm.min_free_kbytes: set 65536", 65536),
        ("net.mem: set 1MiB", 256),
        ("vm.dirty_writeback_centisecs: set 5s", 500),
        ("vm.dirty_writeback_centisecs: set 1m", 6000),
        ("kernel.poll: set 200us", 200_000),
        ("kernel.poll: set 200µs", 200_000),
        ("vm.dirty_ratio: set 10%", 10),
        ("net.ipv4.tcp_slow_start_after_idle: set off", 0),
        ("net.ipv4.tcp_rmem: set 4KiB 128KiB 6MiB", (4096, 131072, 6 << 20)),
    ],
)
def test_values_come_in_the_knobs_own_unit(tmp_path: Path, do: str, value: object) -> None:
    (rule,) = loaded(tmp_path, with_rule(do)).policy.rules
    assert rule.do[0].value == value


def test_a_reset_partner_may_follow_in_the_same_rule(tmp_path: Path) -> None:
    loaded(tmp_path, with_rule("block.scheduler: set bfq, block.nr_requests: set 64"))


def test_metric_levels_take_the_unit_in_the_metrics_name(tmp_path: Path) -> None:
    text = with_rule(when="[mem.dirty_bytes > 64MiB clear 1MiB, app.p95_ms > 2s clear 500ms]")
    (rule,) = loaded(tmp_path, text + "metrics: {app.p95_ms: {owner: '33'}}\n").policy.rules
    assert [(c.level, c.clear) for c in rule.when] == [(64 << 20, 1 << 20), (2000.0, 500.0)]
