"""Several files: who wins, what stays, and where each value is said to be from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.catalogue import CATALOGUE, FACTS, METRICS, uid_of
from tests.policy.test_load import with_rule
from tuned_spec.errors import PolicyError
from tuned_spec.policy.load import Loaded, load


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "etc").mkdir()
    return tmp_path


def merged(etc: Path, *select: str | Path) -> Loaded:
    return load(
        select,
        shipped=etc / "shipped",
        dropins=etc / "etc",
        catalogue=CATALOGUE,
        metrics=METRICS.__contains__,
        uid_of=uid_of,
        facts=FACTS,
    )


def write(etc: Path, name: str, body: str) -> None:
    (etc / name).write_text(body if body.startswith("version") else f"version: 1\n{body}")


def test_later_files_win_key_by_key(etc: Path) -> None:
    write(etc, "shipped/a.yaml", "mode: lossy\nlimits: {vm.swappiness: {range: [10, 60], step: 2x}}\n")
    write(etc, "etc/20-later.yaml", "limits: {vm.swappiness: {range: [20, 40]}}\n")
    write(etc, "etc/10-first.yaml", "mode: observe\nlimits: {vm.swappiness: {range: [1, 2], bound: 3x}}\n")
    result = merged(etc, "a")
    (limit,) = result.policy.limits
    assert (limit.low, limit.high, limit.step_ratio, limit.bound_ratio) == (20, 40, 2.0, 3.0)
    assert result.policy.mode == "observe"
    assert [path.name for path in result.files] == ["a.yaml", "10-first.yaml", "20-later.yaml"]
    assert result.origins["limits.vm.swappiness.range"] == f"{etc}/etc/20-later.yaml:2"
    assert result.origins["limits.vm.swappiness.step"] == f"{etc}/shipped/a.yaml:3"
    assert result.origins["mode"] == f"{etc}/etc/10-first.yaml:2"


def test_a_dropin_of_the_same_name_replaces_the_file_whole(etc: Path) -> None:
    write(etc, "shipped/a.yaml", "mode: lossy\nsettings: {rest: 1m}\n")
    write(etc, "shipped/b.yaml", "mode: lossy\n")
    write(etc, "etc/a.yaml", "settings: {alpha: 2%}\n")
    write(etc, "etc/b.yaml", "mode: lossless\n")  # b is not selected, so neither is what stands in for it
    result = merged(etc, "a")
    assert (result.policy.mode, result.policy.rest_s, result.policy.alpha) == ("observe", 600.0, 0.02)
    assert result.files == (etc / "etc/a.yaml",)
    assert merged(etc, "a", "b").policy.mode == "lossless"


def test_a_path_selects_that_file(etc: Path) -> None:
    write(etc, "mine.yaml", "mode: lossless\n")
    assert merged(etc, etc / "mine.yaml").policy.names == ("mine",)
    assert merged(etc, str(etc / "mine.yaml"), etc / "mine.yaml").policy.mode == "lossless"


def test_a_rule_is_replaced_whole_and_in_place(etc: Path) -> None:
    second = with_rule("net.core.somaxconn: multiply 2", id="two").partition("rules:\n")[2]
    write(etc, "shipped/a.yaml", with_rule(guard="[cpu.busy may rise 5%]") + second)
    write(etc, "etc/site.yaml", with_rule("vm.swappiness: set 99"))
    result = merged(etc, "a")
    assert [rule.id for rule in result.policy.rules] == ["one", "two"]
    assert result.policy.rules[0].do[0].value == 99
    assert not result.policy.rules[0].guard
    assert "rules.one.guard[0]" not in result.origins
    assert result.policy.rules[0].origin == f"{etc}/etc/site.yaml:3"


def test_a_dropin_takes_a_rule_away(etc: Path) -> None:
    write(etc, "shipped/a.yaml", with_rule())
    write(etc, "etc/site.yaml", "disable: [one]\n")
    result = merged(etc, "a")
    assert result.policy.rules == ()
    assert result.origins["disable.one"] == f"{etc}/etc/site.yaml:2"


def test_coupled_knobs_apart_in_two_files_are_found_unless_one_is_disabled(etc: Path) -> None:
    write(etc, "shipped/a.yaml", with_rule("vm.dirty_bytes: set 64MiB"))
    write(etc, "etc/site.yaml", with_rule("vm.dirty_ratio: set 10", id="two"))
    with pytest.raises(PolicyError, match=r"site.yaml:3: rules.two.do: writes vm.dirty_ratio, and rule one"):
        merged(etc, "a")
    write(etc, "etc/site.yaml", with_rule("vm.dirty_ratio: set 10", id="two") + "disable: [one]\n")
    assert [rule.id for rule in merged(etc, "a").policy.rules] == ["two"]


def test_only_the_owner_that_wins_must_exist(etc: Path) -> None:
    write(etc, "shipped/a.yaml", "metrics: {app.x: {owner: gone, stale: 3s}}\n")
    with pytest.raises(PolicyError, match="no user 'gone'"):
        merged(etc, "a")
    write(etc, "etc/site.yaml", "metrics: {app.x: {owner: www-data}}\n")
    (metric,) = merged(etc, "a").policy.metrics
    assert (metric.uid, metric.stale_s) == (33, 3.0)


def test_a_metric_may_be_declared_in_another_file(etc: Path) -> None:
    write(etc, "shipped/a.yaml", with_rule(expect="app.x rises"))
    write(etc, "etc/site.yaml", "metrics: {app.x: {owner: root}}\n")
    assert merged(etc, "a").policy.rules[0].expect.metric == "app.x"


def test_without_any_dropins(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "mode: lossy\n")
    both = [
        load(["a"], shipped=tmp_path, dropins=dropins, catalogue={}, metrics=bool, uid_of=uid_of, facts=FACTS)
        for dropins in (None, tmp_path / "none")
    ]
    assert both[0] == both[1]


def test_a_dropin_may_disable_a_shipped_rule_that_is_not_loaded(etc: Path) -> None:
    write(etc, "shipped/a.yaml", "mode: lossy\n")
    write(etc, "shipped/b.yaml", with_rule("vm.swappiness: set 9", id="of-b"))
    write(etc, "etc/site.yaml", "disable: [of-b]\n")
    assert merged(etc, "a").policy.rules == ()
    assert merged(etc, "b").policy.rules == ()
    write(etc, "etc/site.yaml", "disable: [of-c]\n")
    with pytest.raises(PolicyError, match="no rule 'of-c'"):
        merged(etc, "a")


def test_a_path_comes_without_dropins(etc: Path) -> None:
    write(etc, "mine.yaml", "mode: lossless\n")
    write(etc, "etc/site.yaml", "mode: observe\n")
    assert merged(etc, etc / "mine.yaml").policy.mode == "lossless"
