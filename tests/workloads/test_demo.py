"""The demo: its words and shades from a history, and the whole of it with loads deaf to the knobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.workloads.test_loads import descendants, wait_until_gone
from tuned_spec.ledger.history import Entry
from workloads import story
from workloads.story import BULK, judgement, shades, states

OLD, NEW, BETTER = "4096 16384 4194304", "4096 16384 65536", "4096 16384 131072"


def entry(t: float, kind: str, trial: str = "1", **data: object) -> Entry:
    return Entry(int(t), t, "", t, kind, trial, BULK.rule, (BULK.knob,), data)


def tones(trace: list[tuple[float, str]], entries: list[Entry], killed: float | None) -> list[str]:
    drawn = shades(trace, states(BULK.knob, entries, killed), 100.0)
    assert all(start < end for start, end, _, _ in drawn)
    return [tone for _, _, _, tone in drawn]


def test_a_killed_trial_is_left_behind_and_never_in_force() -> None:
    trace = [(0.0, OLD), (10.1, NEW), (12.0, OLD), (14.0, NEW), (30.0, OLD)]
    assert tones(trace, [entry(10, "proposed")], 20.0) == ["a", "b", "a", "b", "left"]


def test_a_confirmed_value_is_in_force_until_the_kill() -> None:
    trace = [(0.0, OLD), (10.1, NEW), (12.0, OLD), (14.0, BETTER), (40.0, OLD)]
    entries = [entry(10, "proposed"), entry(16, "overwritten")]
    assert tones(trace, entries, 30.0) == ["a", "b", "a", "c", "held", "left"]
    assert tones(trace, entries, None) == ["a", "b", "a", "c", "held"]


def test_a_rejected_trial_leaves_no_shade() -> None:
    trace = [(0.0, OLD), (10.1, NEW), (20.1, OLD)]
    entries = [entry(10, "proposed"), entry(20, "reverted", outcomes=[])]
    assert tones(trace, entries, 50.0) == ["a", "b"]


def test_what_somebody_else_wrote_is_theirs() -> None:
    trace = [(0.0, OLD), (10.1, NEW), (20.0, "1 2 3")]
    assert tones(trace, [entry(10, "proposed"), entry(20, "foreign")], None) == ["a", "b", "theirs"]


def test_a_verdict_says_why() -> None:
    verdict = {"kind": "reject", "reason": "the judge's words", "effect": 0.07, "low": -0.1, "high": 0.2}
    assert judgement(verdict, 0.25).startswith("rejected: no gain of 25% shown (7% better")
    assert judgement({**verdict, "effect": -0.6, "high": -0.4}, 0.25).startswith("rejected: 60% worse")
    assert judgement({**verdict, "effect": -0.99, "high": None}, 0.25).startswith("rejected: 99% worse")
    still = judgement({**verdict, "effect": -0.001, "low": None, "high": None, "pairs": 5}, 0.25)
    assert still == "rejected: no gain of 25% shown (no difference in 5 pairs)"
    assert judgement({**verdict, "effect": 0.5}, 0.25) == "rejected: the judge's words"
    assert judgement({**verdict, "guards": {"m": "worse: 2x"}}, 0.25) == "rejected: the judge's words"
    found = {**verdict, "kind": "overwrite", "effect": 0.79, "writes": [{"knob": "k", "value": 262144}]}
    told = judgement(found, 0.2, "1048576", "95% less")
    assert told.startswith("confirmed, 1048576: 79% better")
    assert told.endswith("; 262144 is still better, 95% less in all")


def test_a_knob_that_needed_no_write_is_said_to_be_there_already() -> None:
    outcome = {"knob": BULK.knob, "original": OLD, "found": OLD, "status": "unchanged", "why": ""}
    said = story.tell(entry(20, "reverted", outcomes=[outcome]), [BULK], [])
    assert said is not None and said.text == f"{BULK.knob} already at {OLD}"


def private(*words: str) -> list[str]:
    """The demo in a network namespace of its own: its knobs are not the host's."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to write knobs")
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare (util-linux) and ip (iproute2)")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode != 0:
        pytest.skip("this container may not make network namespaces")
    command = 'ip link set lo up; exec "$@"'
    return ["unshare", "-n", "sh", "-c", command, "sh", sys.executable, "-m", "workloads.demo", *words]


@pytest.mark.kernel
@pytest.mark.slow
def test_nothing_is_confirmed_where_nothing_has_an_effect(tmp_path: Path) -> None:
    done = subprocess.run(
        private("--null", "--out", str(tmp_path)), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "demo.json").read_text())
    kinds = {entry["kind"] for entry in facts["history"]}
    assert {"proposed", "verdict", "reverted"} <= kinds
    assert not kinds & {"confirmed", "overwritten"}
    assert facts["touched"]
    assert all(was == now for was, now in facts["touched"].values())
    times = [said["t"] for said in facts["story"]]
    assert times == sorted(times)
    page = (tmp_path / "demo.html").read_text()
    assert "confirmed, in force" not in page


@pytest.mark.kernel
def test_the_daemon_goes_with_a_killed_demo(tmp_path: Path) -> None:
    command = private("--null", "--out", str(tmp_path))
    # What a killed demo cannot remove goes with this directory; tmp_path is too long for a socket's name.
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": place}
        ) as demo,
    ):
        assert demo.stdout is not None
        while "-- as it is" not in (line := demo.stdout.readline()):
            assert line, "the demo ended early"
        end = time.monotonic() + 10
        while len(children := descendants(demo.pid)) < 2:  # the daemon and a load
            assert time.monotonic() < end
            time.sleep(0.02)
        demo.send_signal(signal.SIGKILL)
        demo.wait(10)
        wait_until_gone(children)
