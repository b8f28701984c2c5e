"""What all commands share (errors, pipes, colours, widths, imports), and the smaller commands."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.place import DIRTY, STOP, SWAPPINESS, Place, environment
from tuned_spec.cli import COMMANDS, show
from tuned_spec.errors import UsageError

MANY = "\n".join(f'note("fault", what="number {n} {"x" * 60}")' for n in range(300))
LOOKING = ["status", "history", "knobs", "doctor", "check"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(place: Place, command: str) -> None:
    done = place.tell(command, "--help")
    assert done.returncode == 0 and "--json" in done.stdout


def test_no_command_is_a_usage_error() -> None:
    done = subprocess.run([sys.executable, "-m", "tuned_spec"], capture_output=True, text=True)
    assert done.returncode == 2 and "COMMAND" in done.stderr


@pytest.mark.parametrize("command", LOOKING)
def test_lines_fit_on_a_terminal(place: Place, command: str) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    said = on_terminal(place.argv(command), NO_COLOR="1", COLUMNS="132").decode()
    # A command to be copied is never broken, and paths may be long.
    lines = [line for line in said.splitlines() if str(place.run.parent) not in line]
    assert max(map(len, lines)) <= 132


@pytest.mark.parametrize("command", LOOKING)
def test_no_colour_off_a_terminal(place: Place, command: str) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    done = place.tell(command)
    assert done.stderr == "" and "\x1b" not in done.stdout


@pytest.mark.parametrize("columns", ["40", "90", "200"])
def test_names_are_whole_wherever_they_are_shown(place: Place, columns: str) -> None:
    names = {k["knob"] for k in place.json("knobs")["knobs"]}
    on = on_terminal(place.argv("knobs"), NO_COLOR="1", COLUMNS=columns).decode()
    off = place.tell("knobs", COLUMNS=columns).stdout
    assert names <= set(on.split()) and len(off.splitlines()) == 1 + len(names)
    keys = place.json("check")["values"].keys()
    assert keys <= set(on_terminal(place.argv("check"), NO_COLOR="1", COLUMNS=columns).decode().split())
    assert len([line for line in place.tell("check").stdout.splitlines() if line.split()[:1] == ["KEY"]]) == 1


def on_terminal(argv: list[str], **env: str) -> bytes:
    ours, theirs = pty.openpty()
    with subprocess.Popen(argv, stdout=theirs, env=environment({"TERM": "xterm", **env})):
        os.close(theirs)
        out = b""
        try:
            while part := os.read(ours, 65536):
                out += part
        except OSError:  # EIO: the other side is closed
            pass
    os.close(ours)
    return out


def test_colour_on_a_terminal_unless_it_is_not_wanted(place: Place) -> None:
    assert b"\x1b[" in on_terminal(place.argv("knobs"))
    assert b"\x1b[" not in on_terminal(place.argv("knobs"), NO_COLOR="1")
    assert b"\x1b[" not in on_terminal(place.argv("knobs"), TERM="dumb")


def test_a_reader_that_leaves_is_no_error(place: Place) -> None:
    place.act(MANY, STOP)
    with subprocess.Popen(
        place.argv("history", "--last", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 128 + signal.SIGPIPE


def test_an_interrupt_ends_without_a_word(place: Place) -> None:
    # `run` needs a host; the other commands are over too soon: interrupt one that waits for an answer.
    script = (
        "import os, signal, sys\nfrom tuned_spec.cli import main, live\n"
        # A shell starts its background jobs with SIGINT ignored, and so would this be.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(*_): os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
        "live.daemon = wait\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *place.argv("status")[3:]], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["argparse", "msgspec"])
def test_an_interrupt_of_the_imports_ends_without_a_word(place: Place, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt\n")
    script = "import sys; from tuned_spec.__main__ import main; sys.exit(main())"
    env = environment({"PYTHONPATH": str(tmp_path)})
    argv = [sys.executable, "-c", script, "status"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_status_does_not_pay_for_what_it_does_not_use(place: Place) -> None:
    script = (
        "import sys; from tuned_spec.cli import main; main(sys.argv[1:])\n"
        "print([m for m in ('yaml', 'psutil', 'numpy', 'scipy', 'asyncio', 'structlog', 'apscheduler',"
        " 'pyroute2') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *place.argv("status")[3:]], capture_output=True, text=True, timeout=30
    )
    assert done.stderr.strip() == "[]"


# --------------------------------------------------------------------------- history


def test_history_one_line_an_entry(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30); change("t2", "{DIRTY}", 1500)', STOP)
    lines = place.tell("history").stdout.splitlines()
    assert lines[0].split() == ["WHEN", "WHAT", "TRIAL", "DETAILS"]
    text = " ".join(" ".join(lines).split())
    assert "vm.swappiness = 30 on psi.memory.some 0.31" in text
    assert "before vm.swappiness = 60" in text
    assert "stopped by SIGTERM: vm" in text


def test_history_filters(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30); change("t2", "{DIRTY}", 1500)', STOP)
    assert {e["trial"] for e in place.json("history", "--knob", DIRTY)["entries"]} == {"t2"}
    assert {e["trial"] for e in place.json("history", "--trial", "t1")["entries"]} == {"t1"}
    assert [e["kind"] for e in place.json("history", "--last", "1")["entries"]] == ["stop"]
    assert len(place.json("history", "--since", "1h")["entries"]) == 6
    assert "no entries match" in place.tell("history", "--knob", "vm.nothing").stdout


def test_history_of_a_bad_time(place: Place) -> None:
    done = place.tell("history", "--since", "yesterday")
    assert done.returncode == 2 and "--since yesterday" in done.stderr and "1h" in done.stderr


def test_history_of_a_ruined_file(place: Place) -> None:
    place.state.mkdir()
    (place.state / "history.db").write_text("ruined" * 1000)
    done = place.tell("history")
    assert done.returncode == 4 and len(done.stderr.splitlines()) == 1 and "mv " in done.stderr


def test_a_trial_that_somebody_else_ended_is_given_up_not_reverted(place: Place) -> None:
    place.act(
        f'change("t1", "{SWAPPINESS}", 30)\n'
        f'note("foreign", "", ("{SWAPPINESS}",), ours=30, found=77, writer="sysctl[99]")\n'
        f'note("reverted", "t1", ("{SWAPPINESS}",), "guess", why="{SWAPPINESS} was written by somebody else",'
        " outcomes=())"
    )
    for words in (("history",), ("why", SWAPPINESS)):
        said = place.tell(*words).stdout
        assert "given up, theirs left" in said and "reverted" not in said


# --------------------------------------------------------------------------- restore


def test_restore_is_idempotent_and_speaks_json(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    document = place.json("restore", SWAPPINESS)
    assert document["outcomes"][0]["status"] == "restored"
    assert place.sysctl(SWAPPINESS).read_text().strip() == "60"
    assert place.json("restore")["outcomes"] == []


def test_restore_after_a_kill_says_that_no_daemon_runs(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    assert "no daemon runs: the journal that the last one left was repaired" in place.tell("restore").stdout
    assert "nothing to restore" in (again := place.tell("restore").stdout) and "repaired" not in again


def test_restore_of_a_name_that_is_no_knob_says_so(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    done = place.tell("restore", "vm.swapiness")
    assert done.returncode == 2 and "did you mean vm.swappiness" in done.stderr
    assert place.sysctl(SWAPPINESS).read_text().strip() == "30"


# --------------------------------------------------------------------------- knobs


def test_knobs(place: Place) -> None:
    conf = place.root / "etc/sysctl.d/50-x.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f"{DIRTY} = 3000\n")
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    knobs = {k["knob"]: k for k in place.json("knobs")["knobs"]}
    assert knobs[SWAPPINESS]["owner"] == "tuned-spec (guess)" and knobs[SWAPPINESS]["value"] == 30
    assert knobs[DIRTY]["owner"].endswith("50-x.conf:1")
    absent = knobs["vm.dirty_ratio"]
    assert (absent["present"], absent["writable"], absent["value"]) == (False, False, None) and absent["why"]


def test_a_knob_that_is_named_is_shown_though_no_glob_means_it(place: Place) -> None:
    for name in ("block.read_ahead_kb@loop77", "task.nice@exe=no-such-program"):
        (one,) = place.json("knobs", name)["knobs"]
        assert (one["knob"], one["present"]) == (name, False) and one["why"]


def test_knobs_by_pattern(place: Place) -> None:
    assert {k["knob"] for k in place.json("knobs", "vm.swap*")["knobs"]} == {SWAPPINESS}
    rows = {line.split()[0]: line for line in place.tell("knobs", "task.").stdout.splitlines()[1:]}
    assert "(by name)" in rows["task.nice"] and all("(none here)" not in row for row in rows.values())
    assert "4194304 .. no limit bytes" in place.tell("knobs", "cgroup.memory.high").stdout
    done = place.tell("knobs", "no.such")
    assert done.returncode == 1 and "no.such" in done.stdout


# --------------------------------------------------------------------------- check

GOOD = """
version: 1
mode: lossy
settings: {alpha: 1%}
metrics:
  app.p95_ms: {owner: root}
rules:
  - id: guess
    reason: a test
    source: none
    when: [psi.memory.some > 10% clear 5%]
    do: {vm.dirty_ratio: multiply 0.5}
    expect: app.p95_ms falls by 5%
"""


def test_check_shows_the_merged_policy_and_what_this_host_lacks(place: Place, tmp_path: Path) -> None:
    dropin = place.root / "etc/tuned-spec/policies.d/90-local.yaml"
    dropin.parent.mkdir(parents=True)
    policy = dropin.parent / "mine.yaml"
    policy.write_text(GOOD)
    dropin.write_text("version: 1\nsettings: {max_pairs: 12}\n")
    document = place.json("check", "mine")
    assert document["ok"] and document["policy"]["alpha"] == 0.01
    assert document["values"]["settings.alpha"]["from"] == f"{policy}:4"
    assert document["values"]["settings.max_pairs"]["from"] == f"{dropin}:2"
    assert document["values"]["settings.rest"]["from"] == "built in"
    assert [i["rule"] for i in document["inert"]] == ["guess"], "the root has no /proc/pressure"
    assert [u["knob"] for u in document["unavailable"]] == ["vm.dirty_ratio"]
    done = place.tell("check", "mine")
    assert done.returncode == 0
    assert "mine.yaml:4" in done.stdout and "90-local.yaml:2" in done.stdout


SEARCH = """
version: 1
climbs:
  - id: best
    reason: a test
    source: none
    over: {vm.dirty_ratio: [5, 40]}
    expect: psi.memory.some falls by 5%
"""


def test_check_tells_of_searches_too(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(SEARCH)
    assert place.tell("check", str(policy)).stdout.startswith("mine: 0 rules and 1 search, mode ")
    (one,) = place.json("check", str(policy))["inert"]
    assert one["rule"] == "best" and "vm.dirty_ratio: " in one["reason"] and "psi.memory" in one["reason"]
    policy.write_text(SEARCH.replace("vm.dirty_ratio", SWAPPINESS).replace("psi.memory.some", "app.ms"))
    with_owner = policy.read_text().replace("climbs:", "metrics: {app.ms: {owner: root}}\nclimbs:")
    policy.write_text(with_owner)
    assert place.json("check", str(policy))["inert"] == []


def test_check_of_a_policy_as_run_names_it(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text(GOOD)
    assert place.json("check", "--policy", str(policy))["files"] == [str(policy)]
    done = place.tell("check", "--policy", "nosuch")
    assert done.returncode == 3 and done.stdout.startswith("policy: no policy 'nosuch'; ")


def test_check_says_all_problems_at_once(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "bad.yaml"
    policy.write_text(GOOD.replace("vm.dirty_ratio", "vm.dirty_ration").replace("alpha: 1%", "alpa: 1%"))
    done = place.tell("check", str(policy))
    assert done.returncode == 3
    assert f"{policy}:4: settings.alpa" in done.stdout and f"{policy}:12: rules.guess.do" in done.stdout
    document = place.json("check", str(policy))
    assert not document["ok"] and {4, 12} <= {p["line"] for p in document["problems"]}


def test_the_shipped_policies_are_good(place: Place) -> None:
    assert place.json("check")["ok"]


# --------------------------------------------------------------------------- doctor


def findings(place: Place, topic: str) -> list[dict[str, str]]:
    return [f for f in place.json("doctor")["findings"] if f["topic"].startswith(topic)]


def test_doctor_names_leftovers_owners_and_what_is_missing(place: Place) -> None:
    conf = place.root / "etc/sysctl.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(f"{DIRTY} = 3000\n")
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    (journal,) = findings(place, "undo journal")
    assert journal["level"] == "problem" and SWAPPINESS in journal["what"] and "restore" in journal["do"]
    (owner,) = findings(place, "sysctl.d")
    assert DIRTY in owner["what"] and "sysctl.conf:1" in owner["what"]
    assert {f["level"] for f in findings(place, "PSI")} == {"note"}
    assert place.tell("doctor").returncode == 1
    place.tell("restore")
    assert findings(place, "undo journal")[0]["level"] == "ok"


def test_doctor_counts_the_absent_of_a_family_and_leaves_out_what_goes_by_name(place: Place) -> None:
    (absent,) = findings(place, "knobs absent")
    words = absent["what"].split(", ")
    assert any(re.fullmatch(r"sched\.feature\.\* \(\d+\)", word) for word in words)
    assert "zswap.zpool" not in words and not any(word.startswith("task.") for word in words)


def test_doctor_every_finding_says_what_to_do(place: Place) -> None:
    for finding in place.json("doctor")["findings"]:
        assert finding["level"] == "ok" or finding["do"], finding


def test_doctor_sees_another_tuner(place: Place) -> None:
    sleep = subprocess.Popen(["bash", "-c", "exec -a bpftune sleep 30"])
    try:
        end = time.monotonic() + 10
        while not findings(place, "other tuner") or findings(place, "other tuner")[0]["level"] == "ok":
            assert time.monotonic() < end
        (seen,) = findings(place, "other tuner")
        assert "bpftune" in seen["what"] and str(sleep.pid) in seen["what"] and "systemctl" in seen["do"]
    finally:
        sleep.kill()
        sleep.wait()


# --------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (59, "59s"),
        (75, "1min 15s"),
        (3600, "1h"),
        (93784, "1d 2h"),
        (-3, "0.0s"),
    ],
)
def test_spans(seconds: float, words: str) -> None:
    assert show.span(seconds) == words


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("60s", 60), ("1.5h", 5400), ("500ms", 0.5), ("2d", 172800)]
)
def test_times(text: str, value: float) -> None:
    assert show.seconds(text, "--for") == value


@pytest.mark.parametrize("text", ["", "s", "-1s", "0", "1y", "nan", "inf", "1e99d"])
def test_bad_times(text: str) -> None:
    with pytest.raises(UsageError, match="--for"):
        show.seconds(text, "--for")
