"""Who answers which probe in the helper; the rest of `names.PROBES` only the daemon knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuned_spec.probes import cgroups, host, kernel_log, processes, sockets, units

# name -> from its arguments the answer, or Unanswered
ANSWERS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "top_processes": processes.top,
    "sockets": sockets.seen,
    "disks": host.disks,
    "memory": host.memory,
    "pressure": cgroups.pressure,
    "cgroup": cgroups.one,
    "kernel_log": kernel_log.latest,
    "unit": units.told,
}
