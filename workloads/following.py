"""A program whose figure follows a knob: one value of it is truly best, and all else is noise.

It stands in for a load where the way of a change is measured, from figure to verdict, and not the change. The
knob is `net.ipv4.tcp_limit_output_bytes`: it is of a network namespace, so whoever measures can have one of
his own. Reports `p95_ms`, fifty times a second: 9 ms at 1 MiB and half as much again for each doubling or
halving away from it (18 ms at the kernel's 4 MiB), times a noise of 10% that wanders and 10% that does not.
With --null the figure does not follow the knob.
"""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

from workloads import life

KNOB = "net.ipv4.tcp_limit_output_bytes"
FILE = Path("/proc/sys/net/ipv4/tcp_limit_output_bytes")
BEST, BEST_MS = 1 << 20, 9.0
NULL_MS = 18.0
EVERY_S = 0.02
NOISE = 0.1  # of the logarithm
STAYS = 0.95  # of the wandering part, from one figure to the next


def cost_ms(value: int) -> float:
    return BEST_MS * (1 + abs(math.log2(value / BEST)) / 2)


def load(lives: life.Life, null: bool) -> None:
    wander = 0.0
    with FILE.open("rb", buffering=0) as file:
        while lives.lasts():
            file.seek(0)
            cost = NULL_MS if null else cost_ms(int(file.read()))
            wander = STAYS * wander + random.gauss(0, NOISE * math.sqrt(1 - STAYS**2))
            lives.report(p95_ms=cost * math.exp(wander + random.gauss(0, NOISE)))
            time.sleep(EVERY_S)


if __name__ == "__main__":
    life.main("a figure that follows net.ipv4.tcp_limit_output_bytes", load)
