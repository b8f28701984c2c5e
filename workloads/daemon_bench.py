"""How fast the daemon reacts: a real one, on the real kernel, in directories of its own.

    python -m workloads.daemon_bench [--quick] [--only NAME] [--json]

socket    from the datagram whose value crosses the level to the knob's new value in /proc
pressure  from a PSI trigger of ours, the twin of the daemon's, to the same, under real CPU pressure
busy      from the start of a load to the same, found by a tick, on a host that is busy already
idle      the same on an idle host, where ticks are far between

What is written belongs to a network namespace made for the purpose; each section checks that all is as it
was. Loads are few processes, ended by their own pid. Times are CLOCK_BOOTTIME. The load average before and
after each section is part of its result. What the daemon costs: workloads/cost_bench.py.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuned_spec.daemon.shell import clock
from tuned_spec.sense.triggers import Trigger, open_triggers
from workloads import figures
from workloads.figures import Row, reaction
from workloads.running import FILES, LIMIT, LOWAT, Daemon, Load, daemon, own_network, seen_changed, wait_for

LEVEL = 0.5  # of the pressure rule
EARLY_S = 0.005  # a knob written this long before our trigger fired was not that trigger's doing

# Each waits for a line, so that a load begins when it is told to and not when Python has started.
SPIN = "input()\nwhile True: pass"
SWITCH = "import time\ninput()\nwhile True: time.sleep(1e-5)"
# -------------------------------------------------------------------------------- sections


def changed(originals: dict[str, bytes]) -> bool:
    return any(FILES[knob].read_bytes() != original for knob, original in originals.items())


def take_back(running: Daemon, originals: dict[str, bytes]) -> None:
    running.ask("restore")
    for knob, path in FILES.items():
        assert path.read_bytes() == originals[knob], f"{knob} was not put back"


def calm(running: Daemon, tick_s: float, longest_s: float) -> float:
    """Wait until the daemon itself takes the host for idle; returns the tick that it came to."""
    with suppress(TimeoutError):
        wait_for(lambda: running.status()["tick_s"] >= tick_s, longest_s, "never idle")
    return float(running.status()["tick_s"])


# -------------------------------------------------------------------------------- sections


def by_socket(quick: bool) -> list[Row]:
    took: list[float] = []
    with own_network() as originals, daemon(("app.p95_ms > 10 clear 5", LOWAT)) as running:
        watched = {LOWAT: originals[LOWAT]}
        for _ in range(20 if quick else 100):
            running.send(1)
            time.sleep(random.uniform(0.02, 0.15))  # so that the daemon sleeps, at no fixed place in its tick
            start = clock()
            running.send(100)
            seen = seen_changed(watched, 5)
            took.append(seen[LOWAT] - start)
            running.send(1)
            take_back(running, originals)
            running.ask("resume")
    return [reaction("metric over the socket -> knob written", 10, took)]


def by_pressure(quick: bool) -> list[Row]:
    trigger = own_trigger()
    took: list[float] = []
    from_load: list[float] = []
    early = spoiled = 0
    poller = select.poll()
    poller.register(trigger.fd, select.POLLPRI)
    rule = (f"psi.cpu.some > {LEVEL:.0%} clear {LEVEL / 2:.0%}", LOWAT)
    spinners = 2 * len(os.sched_getaffinity(0))
    with own_network() as originals, daemon(rule) as running, prompt():
        watched = {LOWAT: originals[LOWAT]}
        while len(took) < (1 if quick else 12) and early + spoiled < (4 if quick else 30):
            with Load(*[SPIN] * spinners) as load:
                time.sleep(6)  # the start of the spinners is pressure too: until it is in a tick that is over
                calm(running, 4.0, 20)
                running.ask("resume")
                poller.poll(0)
                time.sleep(random.uniform(0, trigger.window_s))
                # A trial that is open already may just be in its arm A.
                if poller.poll(0) or changed(watched) or running.status()["open"]:
                    spoiled += 1
                    take_back(running, originals)
                    continue
                began = load.begin()
                fired = clock() if poller.poll(10_000) else None
                seen = seen_changed(watched, 5, every_s=0.0002)
            # It may have been there before we came to look: then the daemon's record has the time.
            written = min(seen[LOWAT], running.applied_at(began))
            from_load.append(written - began)
            if fired is None or written < fired - EARLY_S:
                early += 1
            else:
                took.append(written - fired)
            take_back(running, originals)
    os.close(trigger.fd)
    note = (
        f"window {trigger.window_s:g} s; {spinners} spinners; {early} more were found by a tick before "
        f"that; {spoiled} spoiled by other load"
    )
    return [
        reaction("PSI trigger fires -> knob written", 50, took, note),
        reaction("the same, from the start of the load", None, from_load, "the window's wait is in it"),
    ]


def own_trigger() -> Trigger:
    """The twin of the daemon's: armed by the same code at the same level."""
    triggers, reasons = open_triggers(Path("/"), levels={"psi.cpu.some": LEVEL})
    ours = next((t for t in triggers if t.name == "psi.cpu.some"), None)
    for trigger in triggers:
        if trigger is not ours:
            os.close(trigger.fd)
    if ours is None:
        raise OSError(f"no pressure trigger here: {'; '.join(reasons)}")
    return ours


@contextmanager
def prompt() -> Iterator[None]:
    """Real-time priority, so that the time at which we see a trigger is not our own wait for a CPU."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        print("no real-time priority: the trigger is seen late, the figures are too good", file=sys.stderr)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def by_tick_busy(quick: bool) -> list[Row]:
    return by_tick("busy", [SPIN], 0.65, 1.0, 4 if quick else 15)


def by_tick_idle(quick: bool) -> list[Row]:
    return by_tick("idle", [], 0.3, 4.0, 2 if quick else 10)


def by_tick(host: str, before: list[str], level: float, tick_s: float, times: int) -> list[Row]:
    """Two rules at once, on two rates that the load drives far past their levels."""
    took: dict[str, list[float]] = {LOWAT: [], LIMIT: []}
    ticks: list[float] = []
    spoiled = 0
    rules = (
        (f"cpu.busy > {level:.0%} clear {level - 0.05:.0%}", LOWAT),
        ("cpu.ctxt_per_s > 8000 clear 6000", LIMIT),
    )
    with own_network() as originals, daemon(*rules) as running, Load(*before) as base:
        base.begin()
        while len(ticks) < times and spoiled < 2 * times:
            with Load(SPIN, SWITCH) as load:
                # Ticks without the load, and without its start: the rules have cleared.
                time.sleep(6 if tick_s > 1 else 2.5)
                tick = calm(running, tick_s, 20)
                running.ask("resume")
                time.sleep(random.uniform(0, tick))
                if tick < tick_s or changed(originals):
                    spoiled += 1
                    take_back(running, originals)
                    continue
                ticks.append(tick)
                began = load.begin()
                seen = seen_changed(originals, 12, every_s=0.001)
            for knob, t in seen.items():
                took[knob].append(t - began)
            take_back(running, originals)
    note = f"ticks of {min(ticks, default=0):.1f} to {max(ticks, default=0):.1f} s"
    note += (
        f"; {2 * len(ticks) - sum(map(len, took.values()))} not seen in 12 s; {spoiled} spoiled by other load"
    )
    return [
        reaction(f"tick, {host} host: cpu.ctxt_per_s -> knob", 1200, took[LIMIT], note),
        reaction(f"tick, {host} host: cpu.busy -> knob", 1200, took[LOWAT], f"level {level:.0%}; {note}"),
    ]


SECTIONS: figures.Sections = {
    "socket": by_socket,
    "pressure": by_pressure,
    "busy": by_tick_busy,
    "idle": by_tick_idle,
}


if __name__ == "__main__":
    sys.exit(figures.main(sys.argv[1:], "daemon_bench", __doc__ or "", SECTIONS))
