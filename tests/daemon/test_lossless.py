"""A real daemon in lossless, and an actor that asks the same in each case: in the end it need not wait."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, host, until
from tests.daemon.stranger import ACTOR

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason=f"{KNOB}: a daemon that may write it: needs root"),
]

DIAGNOSIS = """
while True:
    c = case()
    for seq, name in enumerate(('memory', 'sockets'), 1):
        time.sleep(1.3)
        say(type='probe', case=c['id'], seq=seq, name=name)
        while (m := hear())['type'] != 'probe_answer': pass
    time.sleep(0.3)
    say(type='verdict', case=c['id'], kind='reject', reason='no')
"""


def test_what_is_asked_each_time_is_run_before_it_is_asked(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = FILE.read_text()
    with host(tmp_path, settle="100ms", lease="2m") as machine:
        machine.policy.write_text(machine.policy.read_text().replace("mode: lossy", "mode: lossless"))
        machine.start_with(sys.executable, "-c", ACTOR + DIAGNOSIS)
        until(lambda: "actor" in machine.kinds(), f"no actor:\n{machine.said()}")

        def served() -> bool:
            machine.send(50.0)
            return any(e.data.get("ahead") for e in machine.history() if e.kind == "probed")

        until(served, "nothing was served from ahead", 90.0)
        first = next(e for e in machine.history() if e.kind == "probed")
        assert first.data["ahead"] is False, "nothing had been learnt"
        status = machine.status()["status"]["ahead"]
        assert status["k"] == 2 and status["hits"] >= 1 and status["saved_s"] > 0
        assert "had been run before" in " ".join(machine.command("status").stdout.split())
        assert "applied" not in machine.kinds() and FILE.read_text() == before
        assert machine.stop() == 0
