"""`approval`: what may stand there, what several files of it come to, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.test_load import loaded, problems, with_rule
from tests.policy.test_merge import etc, merged, write  # noqa: F401 (a fixture)
from tuned_spec.model import Approval, Asking, Risk, Side
from tuned_spec.policy.load import BUILT_IN


def approval(tmp: Path, text: str) -> Approval:
    return loaded(tmp, f"version: 1\napproval: {text}\n").policy.approval


def test_nobody_is_asked_unless_a_file_says_so(tmp_path: Path) -> None:
    result = loaded(tmp_path, "version: 1\n")
    assert result.policy.approval == Approval() and result.policy.approval.risk is None
    assert (result.texts["approval.for"], result.origins["approval.for"]) == ("4h", BUILT_IN)
    assert approval(tmp_path, "{for: 4h}") == Approval(), "what is said to be built in is"


def test_every_key(tmp_path: Path) -> None:
    text = "{risk: medium, knobs: [vm.*, net.core.somaxconn], ask: before_trial, wait_at: new, for: 90m}"
    assert approval(tmp_path, text) == Approval(
        Risk.MEDIUM, ("vm.*", "net.core.somaxconn"), (), Asking.BEFORE_TRIAL, Side.NEW, 5400.0
    )


@pytest.mark.parametrize(
    ("text", "risk"),
    [("required", Risk.LOW), ("{risk: low}", Risk.LOW), ("{risk: high}", Risk.HIGH), ("{risk: none}", None)],
)
def test_for_the_whole_policy_or_a_class(tmp_path: Path, text: str, risk: Risk | None) -> None:
    assert approval(tmp_path, text) == Approval(risk)


@pytest.mark.parametrize("seconds", ["10s", "168h"])
def test_the_longest_and_the_shortest_patience(tmp_path: Path, seconds: str) -> None:
    assert approval(tmp_path, f"{{for: {seconds}}}").for_s in (10.0, 7 * 86_400.0)


@pytest.mark.parametrize("glob", ["vm.*", "vm.swappiness", "*.thp", "block.*", "task.nice", "task.*@exe=*"])
def test_globs_mean_knobs(tmp_path: Path, glob: str) -> None:
    assert approval(tmp_path, f"{{knobs: ['{glob}']}}").knobs == (glob,)


CLIMB = """
climbs:
  - id: search
    reason: r
    source: s
    over: {vm.swappiness: [0, 100]}
    expect: cpu.busy falls
    approval: required
"""


def test_a_rule_and_a_search_of_their_own(tmp_path: Path) -> None:
    assert loaded(tmp_path, with_rule(approval="required") + CLIMB).policy.approval.rules == ("one", "search")


def test_a_rule_that_is_replaced_or_disabled_takes_its_wish_along(etc: Path) -> None:  # noqa: F811
    write(etc, "shipped/a.yaml", with_rule(approval="required") + CLIMB)
    assert merged(etc, "a").policy.approval.rules == ("one", "search")
    write(etc, "etc/site.yaml", with_rule() + "disable: [search]\n")
    assert merged(etc, "a").policy.approval.rules == ()


def test_later_files_win_key_by_key(etc: Path) -> None:  # noqa: F811
    write(etc, "shipped/a.yaml", "approval: {risk: medium, knobs: [vm.*], ask: before_trial, for: 1h}\n")
    write(etc, "etc/site.yaml", "approval: {risk: none, knobs: [mm.thp], for: 2h}\n")
    result = merged(etc, "a")
    assert result.policy.approval == Approval(None, ("mm.thp",), (), Asking.BEFORE_TRIAL, Side.OLD, 7200.0)
    assert result.origins["approval.ask"] == f"{etc}/shipped/a.yaml:2"
    assert result.origins["approval.knobs"] == f"{etc}/etc/site.yaml:2"
    assert result.texts["approval.knobs"] == "[mm.thp]"
    write(etc, "etc/site.yaml", "approval: required\n")
    assert merged(etc, "a").policy.approval.risk is Risk.LOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", "approval.risk: 'yes' is not known; write `approval: required`, or delete the key"),
        ("[vm.*]", "approval: is not a mapping; write `key: value` lines below it"),
        ("{risks: low}", "approval.risks: unknown key; did you mean risk?"),
        ("{risk: big}", "approval.risk: 'big' is not a class of risk; choose none, low, medium, high"),
        ("{ask: never}", "approval.ask: 'never' is not known; choose after_trial or before_trial"),
        ("{wait_at: here}", "approval.wait_at: 'here' is not known; choose old or new"),
        ("{for: 9s}", "approval.for: 9s is outside 10s to 168h; choose a time inside"),
        ("{for: 169h}", "approval.for: 169h is outside 10s to 168h"),
        ("{for: ever}", "approval.for: 'ever' is not a number with a unit"),
        ("{knobs: vm.*}", "approval.knobs: is not a list"),
        ("{knobs: []}", "approval.knobs: is an empty list; write one `- ` line for each entry"),
        ("{knobs: [vm.swapiness]}", "'vm.swapiness' means no knob; did you mean vm.swappiness?"),
        ("{knobs: [nothing.*]}", "'nothing.*' means no knob; `tuned-spec knobs` lists them"),
        ("{knobs: [vm.swappiness@a]}", "means no knob: there is one vm.swappiness on the host"),
        ("{knobs: [[vm.*]]}", "approval.knobs[0]: is not one value"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = problems(tmp_path, f"version: 1\napproval: {text}\n")
    assert problem.startswith("p.yaml:2: approval") and said in problem


def test_a_mistake_in_a_rule(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, with_rule(approval="always"))
    assert "rules.one.approval: 'always' is not known; write `approval: required`" in problem
