"""Who is not root and names no directory is told what root's daemon did, or to use sudo: never "nothing"."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.place import STOP, SWAPPINESS, Place, environment
from tests.cli.test_running import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")

# All is imported before: the interpreter and the package may lie where nobody else may read.
AS_NOBODY = """
import argparse, gettext, locale, os, shutil, sys, tempfile
from tuned_spec.cli import catalogue, check, control, history, live, main, parser, restore, status, why
from tuned_spec.knobs.catalogue import load
known = load()
catalogue.load = lambda: known
parser().parse_args(["status"]); b"x".decode("utf-8-sig")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def roots(tmp_path: Path) -> Place:
    """A host whose root has run a daemon with the default directories."""
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    place = Place(tmp_path)
    place.run, place.state = place.root / "run/tuned-spec", place.root / "var/lib/tuned-spec"
    return place


def as_nobody(place: Place, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", AS_NOBODY, verb, "--root", str(place.root), *words]
    home = str(place.root / "home")
    env = environment({"XDG_RUNTIME_DIR": home, "XDG_STATE_HOME": home})
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def left_changed(place: Place) -> None:
    place.act(f'change("t1", "{SWAPPINESS}", 30)')
    place.state.chmod(0o700)


def test_status_after_a_kill(roots: Place) -> None:
    left_changed(roots)
    for words in ((), ("--runtime-dir", str(roots.run))):
        done = as_nobody(roots, "status", *words)
        assert done.returncode == 1, done
        assert SWAPPINESS in done.stdout and "sudo tuned-spec restore" in done.stdout
        for lie in ("readonly", "by hand", "is missing", "nothing of tuned-spec"):
            assert lie not in done.stdout
    assert "use sudo" in as_nobody(roots, "status").stdout, "the history is root's"


@pytest.mark.parametrize("name", ["undo.db", "undo.index"])
def test_status_of_a_journal_that_is_not_for_all(roots: Place, name: str) -> None:
    left_changed(roots)
    (roots.run / name).chmod(0o600)
    done = as_nobody(roots, "status")
    assert done.returncode == 1
    assert f"{name}: cannot be read without root; use sudo" in done.stdout
    for lie in ("readonly", "by hand", "nothing of tuned-spec", "no run is on record"):
        assert lie not in done.stdout


def test_why_after_a_kill(roots: Place) -> None:
    left_changed(roots)
    done = as_nobody(roots, "why", SWAPPINESS)
    assert "30 relative cost (ours)" in done.stdout and "60 relative cost (no sysctl.d" in done.stdout
    assert "no rule has touched it" not in done.stdout and "use sudo" in done.stdout
    assert "rule      guess" in done.stdout
    roots.run.chmod(0o700)
    done = as_nobody(roots, "why", SWAPPINESS)
    assert "untouched" not in done.stdout and "cannot be read without root; use sudo" in done.stdout


def test_a_directory_that_is_only_roots(roots: Place) -> None:
    left_changed(roots)
    roots.run.chmod(0o700)
    done = as_nobody(roots, "status")
    assert done.returncode == 1 and "cannot be seen without root; use sudo" in done.stdout
    assert "not running" not in done.stdout and "nothing of tuned-spec" not in done.stdout
    for verb in ("restore", "pause"):
        done = as_nobody(roots, verb)
        assert (done.returncode, done.stdout) == (1, "") and "sudo" in done.stderr


def test_restore_and_history_after_a_kill(roots: Place) -> None:
    left_changed(roots)
    done = as_nobody(roots, "restore")
    assert (done.returncode, done.stdout) == (1, "") and "sudo" in done.stderr
    done = as_nobody(roots, "history")
    assert (done.returncode, done.stdout) == (4, "") and "sudo" in done.stderr
    assert roots.sysctl(SWAPPINESS).read_text().strip() == "30"


def test_a_hung_daemon_of_roots_is_seen(roots: Place) -> None:
    process = roots.hang(f'change("t1", "{SWAPPINESS}", 30)')
    try:
        done = as_nobody(roots, "status")
        assert (done.returncode, f"process {process.pid} holds the lock" in done.stdout) == (1, True)
    finally:
        process.kill()
        process.communicate()


def test_a_running_daemon_of_roots_answers(roots: Place) -> None:
    argv = roots.argv("run", "--mode", "observe", "--for", "60s")
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: roots.json("status")["state"] == "running")
            roots.state.chmod(0o700)
            done = as_nobody(roots, "status")
            assert done.returncode == 0 and f"running: process {process.pid}" in done.stdout
            assert "untouched" not in as_nobody(roots, "why", SWAPPINESS).stdout, "root's history is not read"
            for verb in ("restore", "pause", "resume"):
                done = as_nobody(roots, verb)
                assert (done.returncode, done.stdout) == (1, "") and "sudo" in done.stderr
        finally:
            process.kill()


def test_all_back_is_said_to_anyone(roots: Place) -> None:
    roots.act(f'change("t1", "{SWAPPINESS}", 30)', STOP)
    done = as_nobody(roots, "status")
    assert done.returncode == 6 and "nothing of tuned-spec is left changed" in done.stdout
    assert "(the original)" in as_nobody(roots, "why", SWAPPINESS).stdout


def test_no_daemon_of_roots_ever(roots: Place) -> None:
    done = as_nobody(roots, "status")
    assert done.returncode == 6 and "no run is on record" in done.stdout
    assert as_nobody(roots, "restore").returncode == 0
