"""`propose` and `plan` as typed: what is understood, what is said, how they end."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.place import SWAPPINESS, Place
from tests.cli.test_json import section
from tests.cli.test_running import daemon, until  # noqa: F401 (a fixture)
from tuned_spec.cli import propose
from tuned_spec.cli.catalogue import Host
from tuned_spec.errors import UsageError
from tuned_spec.ledger.history import read
from tuned_spec.model import Write
from tuned_spec.sense.gauges import send

IDEA = ["--expect", "cpu.busy", "--way", "down", "--reason", "a test"]


@pytest.mark.parametrize(
    ("words", "writes"),
    [
        (["vm.swappiness=10"], [Write("vm.swappiness", 10)]),
        (["vm/swappiness=10"], [Write("vm.swappiness", 10)]),
        (["vm.dirty_expire_centisecs=5s"], [Write("vm.dirty_expire_centisecs", 500)]),
        (
            ["vm.swappiness=10", "vm.page-cluster=0"],
            [Write("vm.swappiness", 10), Write("vm.page-cluster", 0)],
        ),
        (["net.ipv4.tcp_rmem=4KiB 128KiB 6MiB"], [Write("net.ipv4.tcp_rmem", (4096, 131072, 6291456))]),
        (["net.ipv4.tcp_rmem[max]=8MiB"], [Write("net.ipv4.tcp_rmem", (4096, 131072, 8388608))]),
        (
            ["net.ipv4.tcp_rmem[max]=8MiB", "net.ipv4.tcp_rmem[min]=8KiB"],
            [Write("net.ipv4.tcp_rmem", (8192, 131072, 8388608))],
        ),
    ],
)
def test_values_are_written_as_a_policy_writes_them(
    place: Place, words: list[str], writes: list[Write]
) -> None:
    for name, text in (("vm.page-cluster", "3\n"), ("net.ipv4.tcp_rmem", "4096\t131072\t6291456\n")):
        place.sysctl(name).parent.mkdir(parents=True, exist_ok=True)
        place.sysctl(name).write_text(text)
    assert list(propose.writes(words, Host(place.root), place.root)) == writes


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("vm.swappiness", "write KNOB=VALUE"),
        ("vm.swappiness=", "write KNOB=VALUE"),
        ("vm.swapiness=1", "did you mean vm.swappiness"),
        ("vm.swappiness=lots", "is not a number"),
        ("vm.swappiness=201", "outside [0, 200]"),
        ("vm.swappiness=10 only raise", "write KNOB=VALUE"),
        ("vm.swappiness=64KiB", "does not fit"),
        ("vm.swappiness[max]=1", "no such field"),
        ("net.ipv4.tcp_rmem=1", "3 fields"),
        ("net.ipv4.tcp_rmem[max]=8MiB", "its other fields cannot be read"),
        ("block.read_ahead_kb=128", "one for each disk"),
        ("block.read_ahead_kb@*=128", "the name of many"),
        ("block.read_ahead_kb@../..=128", "leads out of"),
        ("net.ipv4.tcp_congestion_control=fast\x1b[2J", "net.ipv4.tcp_congestion_control"),
        ("=", "write KNOB=VALUE"),
        ("", "write KNOB=VALUE"),
    ],
)
def test_what_is_wrong_with_a_change_is_said(place: Place, word: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("[", r"\[")) as caught:
        propose.writes([word], Host(place.root), place.root)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--min-effect", "5"], "--min-effect"),
        (["--guard", "cpu.busy must fall"], "is not a guard"),
        (["--confidence", "sure"], "--confidence"),
        (["--reason", "\x1b[2J"], "--reason"),
        (["--reason", "\udcff"], "--reason"),
    ],
)
def test_wrong_flags_are_named(place: Place, more: list[str], said: str) -> None:
    done = place.tell("propose", "vm.swappiness=10", *IDEA, *more)
    assert done.returncode == 2 and said in done.stderr, done


def test_without_a_daemon_nothing_is_proposed(place: Place) -> None:
    done = place.tell("propose", "vm.swappiness=10", *IDEA)
    assert done.returncode == 6 and "no daemon runs" in done.stderr
    found = place.json("propose", "vm.swappiness=10", *IDEA)
    assert (found["ok"], found["refusal"]) == (False, None)
    documented(found, "propose")


@pytest.mark.usefixtures("daemon")
def test_a_proposal_and_its_refusals(place: Place) -> None:
    done = place.tell(
        "propose", f"{SWAPPINESS}=50", "--expect", "app.p95_ms", "--way", "down", "--reason", "x"
    )
    assert done.returncode == 1 and "silent" in done.stderr, "nobody reports the metric yet"
    done = place.tell(
        "propose", f"{SWAPPINESS}=50", "--expect", "tcp.nonsense", "--way", "up", "--reason", "x"
    )
    assert done.returncode == 1 and "no_metric" in done.stderr
    (place.root / "proc/stat").write_text(Path("/proc/stat").read_text())
    found = place.json("propose", f"{SWAPPINESS}=60", *IDEA)
    assert found["refusal"]["code"] == "no_change"
    documented(found, "propose")
    send(place.run / "metrics.sock", "p95_ms", 1.0)
    found = place.json(
        "propose", f"{SWAPPINESS}=50", "--expect", "app.p95_ms", "--way", "down", "--reason", "x"
    )
    assert (found["ok"], found["rule"], found["knobs"]) == (True, "outside.cli", [SWAPPINESS])
    documented(found, "propose")
    until(lambda: [e for e in read(place.state, trial=found["trial"]) if e.kind == "applied"])
    (applied,) = (e for e in read(place.state, trial=found["trial"]) if e.kind == "applied")
    assert applied.data["after"] == [{"knob": SWAPPINESS, "value": 50}]
    done = place.tell("propose", f"{SWAPPINESS}=40", *IDEA)
    assert done.returncode == 1 and "knob_busy" in done.stderr
    codes = {e.data["code"] for e in read(place.state, kinds=("refused",))}
    assert codes == {"silent", "no_metric", "no_change", "knob_busy"}, "each is on record"
    assert "outside.cli" in place.tell("why", SWAPPINESS).stdout
    place.tell("restore")
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"


@pytest.mark.usefixtures("daemon")
def test_waiting_ends_with_the_trial(place: Place) -> None:
    """Taken back by its owner, the trial is over, and the command says so by its exit code."""
    send(place.run / "metrics.sock", "p95_ms", 1.0)
    words = ["--expect", "app.p95_ms", "--way", "down", "--reason", "x"]
    waiting = subprocess.Popen(
        place.argv("propose", f"{SWAPPINESS}=50", *words, "--wait"), stdout=subprocess.PIPE, text=True
    )
    until(lambda: any(e.kind == "applied" for e in read(place.state)))
    place.tell("restore")
    said, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == propose.WENT_BACK and "not kept" in said


def test_the_plan_of_a_policy_that_nobody_runs(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(
        "version: 1\nmode: lossy\nrules:\n"
        + rule("soon", "cpu.busy > 0% for 10m clear 0%", f"{SWAPPINESS}: set 10")
        + rule("never", "cpu.busy > 100% clear 99%", f"{SWAPPINESS}: multiply 2")
        + rule("nowhere", "cpu.busy > 0% clear 0%", "vm.page-cluster: set 1")
    )
    (place.root / "proc/stat").write_text(Path("/proc/stat").read_text())
    found = place.json("plan", str(policy))
    documented(found, "plan")
    steps = {step["id"]: step for step in found["steps"]}
    assert found["by"] == "here" and found["mode"] == "lossy" and found["policy"] == ["mine"]
    assert steps["nowhere"]["stand"] == "inert" and "vm.page-cluster" in steps["nowhere"]["what"]
    assert steps["soon"]["before"] == [{"knob": SWAPPINESS, "value": 60}]
    assert steps["soon"]["writes"] == [{"knob": SWAPPINESS, "value": 10}]
    assert steps["never"]["writes"] == [{"knob": SWAPPINESS, "value": 120}]
    for step in found["steps"]:
        documented(step, "plan")
        for condition in step.get("when", []):
            documented(condition, "plan")
    told = place.tell("plan", str(policy)).stdout
    assert f"{SWAPPINESS} 60 -> 10" in told and "no daemon was asked" in told
    assert place.sysctl(SWAPPINESS).read_text() == "60\n", "nothing is done"
    assert not place.run.exists() and not place.state.exists()


def test_a_policy_with_problems_has_no_plan(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "bad.yaml"
    policy.write_text("version: 1\nrules: nonsense\n")
    done = place.tell("plan", str(policy))
    assert done.returncode == 3 and "bad.yaml:2" in done.stdout
    assert place.json("plan", str(policy))["problems"]


@pytest.mark.usefixtures("daemon")
def test_the_plan_of_the_running_daemon_is_for_everybody(place: Place) -> None:
    found = place.json("plan")
    (step,) = found["steps"]
    assert (found["by"], step["id"], step["stand"]) == ("daemon", "guess", "waits")
    send(place.run / "metrics.sock", "p95_ms", 7.0)
    until(lambda: value_of(place) == 7.0)
    told = place.tell("plan").stdout
    assert "app.p95_ms 7 of > 10" in told and "by the running daemon" in told


def value_of(place: Place) -> float | None:
    (step,) = place.json("plan")["steps"]
    found: float | None = step["when"][0].get("value")
    return found


def rule(name: str, when: str, do: str) -> str:
    return (
        f"  - id: {name}\n    reason: a test\n    source: none\n    when: [{when}]\n    do: {{{do}}}\n"
        "    expect: cpu.busy falls by 5%\n"
    )


def documented(document: dict[str, Any], command: str) -> None:
    for key in document:
        assert f"`{key}`" in section(command), key
