"""A tree of files that looks like a host with cgroup2 and two disks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuned_spec.knobs import reach
from tuned_spec.knobs.adapters import Adapter, adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.model import Knob

CONTROLLERS = "cpuset cpu io memory pids\n"
NOTHING: dict[str, str | None] = {}
FILES: dict[str, str | None] = {
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cgroup.subtree_control": CONTROLLERS,
    "cpu.weight": "100\n",
    "cpu.max": "max 100000\n",
    "cpu.idle": "0\n",
    "cpu.uclamp.min": "0.00\n",
    "cpu.uclamp.max": "max\n",
    "cpuset.cpus": "\n",
    "io.weight": "default 100\n254:0 50\n",
    "io.max": "254:0 rbps=max wbps=1048576 riops=max wiops=max\n",
    "io.latency": "",
    "memory.high": "max\n",
    "memory.reclaim": "",
}


class Host:
    def __init__(self, root: Path) -> None:
        self.root, self.place = root, root / "sys/fs/cgroup"
        self.place.mkdir(parents=True)
        (self.place / "cgroup.controllers").write_text(CONTROLLERS)
        (self.place / "cgroup.subtree_control").write_text(CONTROLLERS)
        (root / "proc/self").mkdir(parents=True)
        self.mounted("30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
        for disk, number, size in (("vda", "254:0", "9"), ("vdb", "254:16", "9"), ("loop0", "7:0", "0")):
            (root / "sys/block" / disk).mkdir(parents=True)
            (root / "sys/block" / disk / "dev").write_text(number + "\n")
            (root / "sys/block" / disk / "size").write_text(size + "\n")
        self.access = adapters(root)
        self.catalogue = Catalogue(load(), self.access)

    def mounted(self, mountinfo: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(mountinfo)

    def booted_by_systemd(self) -> None:
        (self.root / "run/systemd/system").mkdir(parents=True)

    def cgroup(self, path: str, changed: Mapping[str, str | None] = NOTHING) -> Path:
        """None leaves a file away."""
        directory = self.place / path
        directory.mkdir(parents=True)
        for name, text in (FILES | dict(changed)).items():
            if text is not None:
                (directory / name).write_text(text)
        return directory

    @property
    def adapter(self) -> Adapter:
        return self.access["cgroup"]

    def knob(self, entry: str, instance: str) -> Knob:
        return self.catalogue[f"cgroup.{entry}@{instance}"]

    def address(self, entry: str, instance: str) -> str:
        return self.adapter.address(self.knob(entry, instance)).replace(str(self.place), "")

    def value(self, entry: str, instance: str) -> object:
        knob = self.knob(entry, instance)
        return self.adapter.parse(knob, self.adapter.read_text(knob))

    def write(self, entry: str, instance: str, value: int | str) -> None:
        knob = self.knob(entry, instance)
        reach.write(self.adapter.address(knob), self.adapter.format(knob, value))
