"""Where everything lies: the one list of file and directory names, and where the host has its cgroups.

Root's places are /run/tuned-spec (this boot) and /var/lib/tuned-spec (kept); anyone else's are below
$XDG_RUNTIME_DIR and $XDG_STATE_HOME.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LOCK = "lock"  # flock held by the daemon for its life; holds its pid
JOURNAL = "undo.db"  # the undo journal (SQLite), runtime directory
REPAIR = "repair.py"  # a copy of ledger/repair.py that survives the package, runtime directory
CONTROL = "control.sock"  # the daemon answers here, runtime directory
METRICS = "metrics.sock"  # programs report gauges here, runtime directory
HISTORY = "history.db"  # decisions and evidence (SQLite), state directory
PRIORS = "priors.db"  # what was confirmed under which workload (SQLite), state directory
SPENT = "spent"  # what was spent on models, state directory

DROPINS = Path("/etc/tuned-spec/policies.d")
ACTOR = Path("/etc/tuned-spec/actor.yaml")


def runtime_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/run/tuned-spec")
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/runtime-{os.geteuid()}"
    return Path(base) / "tuned-spec"


def state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/tuned-spec")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(base) / "tuned-spec"


def shipped_policies() -> Path:
    """The policies that come with the package: beside it in a checkout, in /usr/share once installed."""
    beside = Path(__file__).resolve().parent.parent / "policies"
    return beside if beside.is_dir() else Path("/usr/share/tuned-spec/policies")


def cgroup2_root(root: Path) -> Path | None:
    """Where cgroup2 is mounted, from mountinfo; None if it is not (or mountinfo cannot be read).

    Hybrid layouts have it beside the version 1 controllers, mostly at /sys/fs/cgroup/unified.
    """
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, filesystem = line.partition(" - ")
        if filesystem.startswith("cgroup2 "):
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split()[4])
            return root / point.lstrip("/")
    return None
