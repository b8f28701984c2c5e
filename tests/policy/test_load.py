from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.catalogue import CATALOGUE, FACTS, METRICS, uid_of
from tuned_spec.errors import PolicyError
from tuned_spec.model import Action, Condition, Expect, Guard, Mode, Op, Rule, Way
from tuned_spec.policy.load import BUILT_IN, Loaded, load
from tuned_spec.policy.merge import SETTINGS

RULE = """\
version: 1
mode: lossy
settings: {changes_per_minute: 3, rest: 5m, alpha: 1%}
cgroups: [system.slice/nginx.service]
metrics:
  app.p95_ms: {owner: www-data, stale: 30s}
limits:
  net.core.somaxconn: {range: [128, 32768], step: 2x or 64, bound: 4x, cooldown: 1m}
  mm.thp: {choices: [madvise, never]}
rules:
  - id: backlog
    reason: The accept queue overflows.
    source: ip-sysctl.rst
    when:
      - tcp.listen_overflows_per_s > 0 for 2s clear 0
      - psi.cpu.some > 20% for 500ms clear 10% else cpu.blocked > 4 for 3s clear 2
    do:
      net.core.somaxconn: multiply 2
      net.ipv4.tcp_rmem[max]: toward 16MiB by 50%
      vm.dirty_writeback_centisecs: add -1s
      mm.thp: set madvise
    expect: app.p95_ms falls by 10%
    guard:
      - tcp.retrans_share may rise 5%
      - cgroup.psi.cpu.some@system.slice/nginx.service may rise 10%
    cooldown: 30s
    lease: 3m
    confidence: 70%
"""


def read(tmp: Path, select: str | Path = "p", dropins: Path | None = None) -> Loaded:
    return load(
        [select],
        shipped=tmp,
        dropins=dropins,
        catalogue=CATALOGUE,
        metrics=METRICS.__contains__,
        uid_of=uid_of,
        sensed=dict.fromkeys(METRICS, ""),
        facts=FACTS,
    )


def loaded(tmp: Path, text: str) -> Loaded:
    (tmp / "p.yaml").write_text(text)
    return read(tmp)


def problems(tmp: Path, text: str | bytes) -> list[str]:
    """What is said of one file, without the directory's name."""
    data = text.encode() if isinstance(text, str) else text
    (tmp / "p.yaml").write_bytes(data)
    with pytest.raises(PolicyError) as caught:
        read(tmp)
    return [str(problem).replace(f"{tmp}/", "") for problem in caught.value.problems]


def with_rule(do: str = "vm.swappiness: set 10", **other: str) -> str:
    keys = {
        "id": "one",
        "reason": "r",
        "source": "s",
        "when": "[psi.cpu.some > 20% clear 10%]",
        "do": f"{{{do}}}",
        "expect": "cpu.busy falls",
    } | other
    return (
        "version: 1\nrules:\n  - "
        + "\n    ".join(f"{key}: {value}" for key, value in keys.items() if value)
        + "\n"
    )


def test_a_whole_policy(tmp_path: Path) -> None:
    policy = loaded(tmp_path, RULE).policy
    assert policy.names == ("p",)
    assert (policy.mode, policy.changes_per_minute, policy.rest_s, policy.alpha) == (
        Mode.LOSSY,
        3,
        300.0,
        0.01,
    )
    assert policy.toggles_per_minute == 120
    assert policy.cgroups == ("system.slice/nginx.service",)
    assert [(m.name, m.uid, m.stale_s) for m in policy.metrics] == [("app.p95_ms", 33, 30.0)]
    somaxconn, thp = policy.limits
    assert (somaxconn.low, somaxconn.high, somaxconn.step_ratio, somaxconn.step_abs) == (128, 32768, 2.0, 64)
    assert (somaxconn.bound_ratio, somaxconn.cooldown_s) == (4.0, 60.0)
    assert somaxconn.origin == f"{tmp_path}/p.yaml:8"
    assert thp.choices == ("madvise", "never")
    assert policy.rules == (
        Rule(
            id="backlog",
            reason="The accept queue overflows.",
            source="ip-sysctl.rst",
            when=(
                Condition("tcp.listen_overflows_per_s", ">", 0, 0, 2.0),
                Condition("psi.cpu.some", ">", 0.2, 0.1, 0.5, Condition("cpu.blocked", ">", 4, 2, 3.0)),
            ),
            do=(
                Action("net.core.somaxconn", Op.MULTIPLY, 2.0),
                Action("net.ipv4.tcp_rmem", Op.TOWARD, 16 << 20, 0.5, field=2),
                Action("vm.dirty_writeback_centisecs", Op.ADD, -100),
                Action("mm.thp", Op.SET, "madvise"),
            ),
            expect=Expect("app.p95_ms", Way.DOWN, 0.1),
            guard=(
                Guard("tcp.retrans_share", Way.DOWN, 0.05),
                Guard("cgroup.psi.cpu.some@system.slice/nginx.service", Way.DOWN, 0.1),
            ),
            cooldown_s=30.0,
            lease_s=180.0,
            confidence=0.7,
            origin=f"{tmp_path}/p.yaml:11",
        ),
    )


def test_origins_name_the_line_of_each_value_and_what_is_built_in(tmp_path: Path) -> None:
    result = loaded(tmp_path, RULE)
    at = f"{tmp_path}/p.yaml"
    assert result.origins["mode"] == f"{at}:2"
    assert result.origins["settings.rest"] == f"{at}:3"
    assert result.origins["settings.max_pairs"] == BUILT_IN
    assert (result.texts["settings.max_pairs"], result.texts["settings.alpha"]) == ("24", "1%")
    assert result.origins["metrics.app.p95_ms.owner"] == f"{at}:6"
    assert result.origins["limits.net.core.somaxconn.range"] == f"{at}:8"
    assert result.texts["limits.net.core.somaxconn.range"] == "[128, 32768]"
    assert result.origins["rules.backlog.when[1]"] == f"{at}:16"
    assert result.texts["rules.backlog.do.net.ipv4.tcp_rmem[max]"] == "toward 16MiB by 50%"
    assert list(result.origins) == list(result.texts)
    assert list(result.texts)[: 1 + len(SETTINGS)] == ["mode", *(f"settings.{name}" for name in SETTINGS)]
    bare = loaded(tmp_path, "version: 1\n")
    assert bare.texts == {
        "mode": "observe",
        "settings.changes_per_minute": "6",
        "settings.toggles_per_minute": "120",
        "settings.rest": "600s",
        "settings.alpha": "5%",
        "settings.ahead": "2",
        "settings.ahead_depth": "2",
        "settings.ahead_price": "20%",
        "settings.max_pairs": "24",
        "approval.risk": "none",
        "approval.ask": "after_trial",
        "approval.wait_at": "old",
        "approval.for": "4h",
    }
    assert set(bare.origins.values()) == {BUILT_IN}


def test_every_problem_of_every_file_at_once(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (tmp_path / "p.yaml").write_text(
        "version: 1\nmoed: lossy\nmode: fast\nlimits:\n  vm.swapiness: {step: 2x}\n"
    )
    (local / "90-site.yaml").write_text("version: 1\nsettings:\n  rest: 10\n  alpha: 70%\n")
    with pytest.raises(PolicyError) as caught:
        read(tmp_path, dropins=local)
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [
        "local/90-site.yaml:3: settings.rest: 10 is not a time; write it like 200us, 2s or 10m",
        "local/90-site.yaml:4: settings.alpha: 70% is outside 0.01% to 50%; choose a value inside",
        "p.yaml:2: moed: unknown key; did you mean mode?",
        "p.yaml:3: mode: 'fast' is not a mode; choose observe, lossless, lossy",
        "p.yaml:5: limits.vm.swapiness: unknown knob; did you mean vm.swappiness?",
    ]


def test_a_broken_rule_still_takes_part_in_the_checks_across_rules(tmp_path: Path) -> None:
    one = with_rule("vm.dirty_bytes: set 64MB", source="", when="[psi.cpu.sum > 20% clear 10%, x]")
    two = with_rule("vm.dirty_ratio: set 10", id="two", lease="soon").partition("rules:\n")[2]
    assert [said.removeprefix("p.yaml:") for said in problems(tmp_path, one + two)] == [
        "3: rules.one.source: is missing; say where the idea is from",
        "5: rules.one.when[1]: 'x' is not a condition; write it like `psi.cpu.some > 20% for 3s clear 10%`",
        "5: rules.one.when[0]: unknown metric 'psi.cpu.sum'; did you mean psi.cpu.some?",
        "6: rules.one.do.vm.dirty_bytes: 64MB has an unknown unit 'MB'; "
        "write 64MiB: sizes count in steps of 1024",
        "8: rules.two.do: writes vm.dirty_ratio, and rule one vm.dirty_bytes: one write zeroes the other; "
        "keep one of the two",
        "14: rules.two.lease: 'soon' is not a number with a unit; write it like 64KiB, 200us, 2s, 5% or 2x",
    ]


def test_a_metric_with_a_mistake_is_no_unknown_metric(tmp_path: Path) -> None:
    text = with_rule(expect="app.x falls") + "metrics: {app.x: {owner: root, stale: 3}}\n"
    assert problems(tmp_path, text) == [
        "p.yaml:9: metrics.app.x.stale: 3 is not a time; write it like 200us, 2s or 10m"
    ]
