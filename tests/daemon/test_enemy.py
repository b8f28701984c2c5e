"""An actor that speaks the protocol well and means ill: what it can do to the kernel is in the envelope."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.host import FILE, KNOB, host, until
from tests.daemon.stranger import ACTOR

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="writes a real knob: needs root"),
]

FIRST = (
    "c = case(); n = 0; knob = c['before'][0]['knob'];"
    "low, high = c['allowed'][0]['low'], c['allowed'][0]['high']\n"
)
AGAIN = "while True:\n"
PACE = "; time.sleep(0.006)\n"

ENEMIES = {
    "flips arms as fast as it may speak": FIRST
    + AGAIN
    + " n += 1; say(type='measure', case=c['id'], seq=n, arm='AB'[n % 2], settle_s=0, dwell_s=5e-324)"
    + PACE,
    "asks for values outside": FIRST
    + AGAIN
    + " for v in (-1, low - 1, high + 1, 2**31, 2**63, 10**300, 'word', '', [], [1, 2], [low], '\\n0'):\n"
    + "  for k in (knob, 'vm.swappiness', '../../etc/passwd', ''):\n"
    + "   n += 1; say(type='measure', case=c['id'], seq=n, arm='C', settle_s=0, dwell_s=0.01,"
    + " writes=[dict(knob=k, value=v)] * (1 + n % 2)) if (k, n % 2) != (knob, 1) or v != low else None\n"
    + "   say(type='verdict', case=c['id'], kind='overwrite', reason='\\x1b[2J\\n', pairs=n,"
    + " writes=[dict(knob=k, value=v)])\n"
    + "   time.sleep(0.02)\n",
    "asks for windows without end": FIRST
    + AGAIN
    + " for d in (1e308, -1e308, 1e18, c['lease_s'] + 1, 0, -1):\n"
    + "  n += 1; say(type='measure', case=c['id'], seq=n, arm='AB'[n % 2], settle_s=d, dwell_s=d)"
    + PACE,
    "judges what it was not asked": FIRST
    + AGAIN
    + " n += 1; say(type='verdict', case='x%d' % n, kind='confirm', reason='r' * 5000)"
    + PACE,
    "probes without end and reads nothing": FIRST
    + AGAIN
    + " n += 1; say(type='probe', case=c['id'], seq=n, name='/etc/shadow' * 1000)"
    + PACE,
    "says hello over and over": FIRST + AGAIN + " say(type='hello', kind='x', pid=os.getpid(), uid=0)" + PACE,
}


@contextmanager
def witness() -> Iterator[list[int]]:
    """Every value that the knob was seen to change to, from outside."""
    seen, over = [int(FILE.read_text())], threading.Event()

    def look() -> None:
        while not over.wait(0.0005):
            now = int(FILE.read_text())
            if now != seen[-1]:
                seen.append(now)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("program", ENEMIES.values(), ids=ENEMIES)
def test_the_lease_ends_and_nothing_else_was_written(tmp_path: Path, program: str) -> None:
    tmp_path.chmod(0o755)
    with host(tmp_path, settle="100ms", lease="4s") as machine, witness() as seen:
        before = seen[0]
        machine.start_with(sys.executable, "-c", ACTOR + program)
        until(lambda: "actor" in machine.kinds(), f"no actor:\n{machine.said()}")
        machine.send(50.0)
        until(lambda: "applied" in machine.kinds(), f"nothing was applied:\n{machine.said()}")
        until(lambda: "reverted" in machine.kinds(), f"the lease did not end it:\n{machine.said()[-2000:]}")
        assert int(FILE.read_text()) == before
        assert set(seen) <= {before, before // 2}
        # As found, changed, put back; and between them no more switches than a minute's budget.
        assert len(seen) <= 3 + 120
        assert {e.knobs for e in machine.history() if e.knobs} == {(KNOB,)}
        assert "confirmed" not in machine.kinds() and "overwritten" not in machine.kinds()
        assert machine.stop() == 0
        assert int(FILE.read_text()) == before
