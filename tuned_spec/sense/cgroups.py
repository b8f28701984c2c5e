"""Figures of many cgroups at a cost that follows what goes on in them.

Owns the walk over the directories of cgroup2, the descriptors of their files and these files' formats. Must
not know what a figure is for. Imported only when a metric of a cgroup is wanted.

A cgroup's counters count those below it in. So where one that only grows (a stall, CPU time) has stood still
since the last look, nothing below has moved either, and the walk does not go there: the old rows stand. The
files without such a counter (memory.current) are read for each cgroup that is wanted. At most MAX_OPEN
descriptors stay open, the latest used. Directories are listed again in turns, all of them within LISTED_IN
looks, and at once where something moves and their number of subdirectories is another.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from tuned_spec.sense.metrics import is_glob, leads_to, matches
from tuned_spec.sense.sources import Fields, Rows, Want, cgroup2_root

MAX_OPEN = 512
LISTED_IN = 10
_BYTES = 65536
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENOTDIR)


class Tree:
    """The directories of cgroup2 as far as they were listed, and the open files in them. Paths are below
    `mount`, its own is ""."""

    def __init__(self, mount: Path | None) -> None:
        self.mount = mount
        self.files: list[CgroupFile] = []
        self._children: dict[str, tuple[str, ...]] = {}
        self._links: dict[str, int] = {}
        self._fds: OrderedDict[str, int] = OrderedDict()
        self._turn: list[str] = []
        self._t = float("-inf")

    def begin(self, t: float) -> None:
        """Lists a part of the directories again, once for all files of one look."""
        if t == self._t:
            return
        self._t = t
        if not self._turn:
            self._turn = list(self._children)
        part = -(-len(self._children) // LISTED_IN)
        due, self._turn = self._turn[:part], self._turn[part:]
        for path in due:
            if path in self._children:
                self._list(path)

    def below(self, path: str) -> tuple[str, ...]:
        """The cgroups right below; listed again if their number has changed."""
        try:
            changed = Path(f"{self.mount}/{path}").stat().st_nlink != self._links.get(path)
        except OSError:
            changed = True
        if changed:
            self._list(path)
        return self._children.get(path, ())

    def read(self, path: str, name: str) -> bytes:
        """One file of one cgroup. Raises OSError: gone, or not there on this kernel."""
        key = f"{path}/{name}" if path else name
        fd = self._fds.get(key)
        if fd is None:
            fd = os.open(f"{self.mount}/{key}", os.O_RDONLY | os.O_CLOEXEC)
            self._fds[key] = fd
            if len(self._fds) > MAX_OPEN:
                os.close(self._fds.popitem(last=False)[1])
        else:
            self._fds.move_to_end(key)
        try:
            return os.pread(fd, _BYTES, 0)
        except OSError:
            os.close(self._fds.pop(key))
            raise

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _list(self, path: str) -> None:
        try:
            with os.scandir(f"{self.mount}/{path}") as entries:
                found = tuple(
                    f"{path}/{entry.name}" if path else entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                )
        except OSError:
            self._forget(path)
            return
        for gone in set(self._children.get(path, ())) - set(found):
            self._forget(gone)
        self._children[path], self._links[path] = found, len(found) + 2

    def _forget(self, path: str) -> None:
        waiting = [path]
        while waiting:
            gone = waiting.pop()
            waiting.extend(self._children.pop(gone, ()))
            self._links.pop(gone, None)
            for file in self.files:
                file.forget(gone)


class CgroupFile:
    """One file in each cgroup that `want.rows` names, as a source: a row a cgroup."""

    def __init__(self, name: str, file: str, want: Want, tree: Tree) -> None:
        self.name, self.file, self.why = name, file, ""
        self._tree, self._fields = tree, want.fields
        self._exact = tuple(path for path in want.rows if not is_glob(path))
        self._globs = tuple(path for path in want.rows if is_glob(path))
        self._parse, self._pulse = FORMATS.get(file, (_one_number, ""))
        if self._pulse and self._pulse not in self._fields:
            self._fields += (self._pulse,)
        self._rows: Rows = {}
        self._pulses: dict[str, float] = {}  # of cgroups that are only on the way to wanted ones, too
        self._plans: dict[str, tuple[bool, bool]] = {}  # path -> is wanted, may lead to others
        tree.files.append(self)

    def read(self, t: float) -> Rows | None:
        tree, self.why = self._tree, ""
        if tree.mount is None:
            self.why = "no cgroup2 file system is mounted on this host"
            return None
        for path in self._exact:
            self._look(path, True)
        if self._globs:
            tree.begin(t)
            ways = [""]
            while ways:
                for path in tree.below(ways.pop()):
                    wanted, leads = self._plan(path)
                    if (wanted or (leads and self._pulse)) and not self._look(path, wanted):
                        continue
                    if leads:
                        ways.append(path)
        return dict(self._rows)

    def forget(self, path: str) -> None:
        self._rows.pop(path, None)
        self._pulses.pop(path, None)
        self._plans.pop(path, None)

    def close(self) -> None:
        self._tree.close()

    def _plan(self, path: str) -> tuple[bool, bool]:
        plan = self._plans.get(path)
        if plan is None:
            plan = self._plans[path] = (
                any(matches(glob, path) for glob in self._globs),
                any(leads_to(glob, path) for glob in self._globs),
            )
        return plan

    def _look(self, path: str, wanted: bool) -> bool:
        """Whether something may have moved in or below `path`."""
        try:
            row = self._parse(self._tree.read(path, self.file), self._fields)
        except OSError as error:
            self._rows.pop(path, None)
            self._pulses.pop(path, None)
            hint = "no such cgroup now, or it has no such file here" if error.errno in _GONE else ""
            self.why = "; ".join(filter(None, (f"{path}/{self.file}: {os.strerror(error.errno or 0)}", hint)))
            return True  # a cgroup may have its pressure switched off, and those below it not
        except (ValueError, IndexError) as error:
            self.why = f"{path}/{self.file}: in a format that is not understood: {error}"
            return True
        pulse = row.get(self._pulse)
        if pulse is not None:
            if self._pulses.get(path) == pulse:
                return False
            self._pulses[path] = pulse
        if wanted:
            self._rows[path] = row
        return True


def open_cgroups(sources: Mapping[str, Want], root: Path) -> list[CgroupFile]:
    """`sources`: as `metrics` names them -> what is wanted of them."""
    tree = Tree(cgroup2_root(root))
    return [CgroupFile(name, name.partition("/")[2], want, tree) for name, want in sources.items()]


# ---------------------------------------------------------------------------------- formats


def _pressure(data: bytes, fields: tuple[str, ...]) -> Fields:
    """`some avg10=.. avg60=.. avg300=.. total=N`, then the same of `full` (cpu: since Linux 5.13)."""
    return {
        line[:4].decode("ascii"): int(line[line.rindex(b"=") + 1 :])
        for line in data.splitlines()
        if line[:4] in (b"some", b"full")
    }


def _keyed(data: bytes, fields: tuple[str, ...]) -> Fields:
    """Lines of `name number`."""
    row: Fields = {}
    data = b"\n" + data
    for field in fields:
        at = data.find(f"\n{field} ".encode())
        if at >= 0:
            row[field] = int(data[at + len(field) + 2 : data.index(b"\n", at + 1)])
    return row


def _devices(data: bytes, fields: tuple[str, ...]) -> Fields:
    """`8:0 rbytes=N wbytes=N ..`, a line a disk: added up."""
    row: Fields = dict.fromkeys(fields, 0)
    for word in data.decode("ascii").split():
        name, _, number = word.partition("=")
        if name in row:
            row[name] += int(number)
    return row


def _one_number(data: bytes, fields: tuple[str, ...]) -> Fields:
    """A number, or `max`, which is none."""
    return {"0": int(data)} if data.strip().isdigit() else {}


# file -> its format, and the counter that stands still when nothing goes on below
FORMATS: dict[str, tuple[Callable[[bytes, tuple[str, ...]], Fields], str]] = {
    "cpu.pressure": (_pressure, "some"),
    "memory.pressure": (_pressure, "some"),
    "io.pressure": (_pressure, "some"),
    "cpu.stat": (_keyed, "usage_usec"),
    "memory.stat": (_keyed, ""),
    "memory.events": (_keyed, ""),
    "io.stat": (_devices, ""),
}  # all others hold one number
