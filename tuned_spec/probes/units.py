"""What systemd is told of one unit: a small fixed set of its properties, over D-Bus.

`knobs.reach.unit` speaks with PID 1. Nothing is loaded or started by asking.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from tuned_spec.knobs.reach.unit import MANAGER, SOCKET, SYSTEMD, UNSET, Bus, label
from tuned_spec.probes.answer import Unanswered, answer
from tuned_spec.probes.redact import plain, starred

_ALL = "LoadState ActiveState SubState UnitFileState"
_LIMITS = (
    "Slice ControlGroup CPUWeight CPUQuotaPerSecUSec MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax "
    "IOWeight TasksMax TasksCurrent MemoryCurrent CPUUsageNSec DelegateControllers "
)
_RUN = (
    "Nice CPUSchedulingPolicy CPUSchedulingPriority IOSchedulingClass OOMScoreAdjust LimitNOFILE LimitNPROC "
    "LimitMEMLOCK LimitCORE "
)
# a unit's kind -> the properties of its own interface that are shown (org.freedesktop.systemd1(5))
PROPERTIES = {
    "service": _LIMITS + _RUN + "Type Result NRestarts MainPID Restart WatchdogUSec",
    "slice": _LIMITS,
    "scope": _LIMITS + "Result",
    "socket": _LIMITS + _RUN + "Backlog MaxConnections NConnections NAccepted Accept Result",
    "timer": "Result LastTriggerUSec",
    "mount": _LIMITS + "Result Type Options",
}


def told(args: Mapping[str, str], path: str = SOCKET) -> str:
    """`args`: unit. What is not set, or unknown to this systemd, is left out."""
    unit = args["unit"]
    kind = unit.rpartition(".")[2]
    where = f"{MANAGER}/unit/{label(unit)}"
    found: dict[str, object] = {}
    try:
        with Bus(path) as bus:
            for interface, names in (("Unit", _ALL), (kind.capitalize(), PROPERTIES[kind])):
                for name in names.split():
                    try:
                        (value,) = bus.get(where, [(SYSTEMD + interface, name)])
                    except OSError as error:
                        if error.errno != errno.EOPNOTSUPP:
                            raise
                        continue
                    if value not in (UNSET, "", [], b""):
                        found[name] = starred(plain(value)) if isinstance(value, str) else value
                if found.get("LoadState") == "not-found":
                    raise Unanswered(f"unit: systemd knows no {unit}")
    except OSError as error:
        raise Unanswered(f"unit: {error.strerror or error}") from error
    return answer({"unit": unit, "properties": found})
