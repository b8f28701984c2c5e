"""Figures of many cgroups at a cost that follows what goes on in them.

Owns the walk over the directories of cgroup2, the descriptors of their files and these files' formats. Must
not know what a figure is for. Imported only when a metric of a cgroup is wanted.

A cgroup's counters count those below it in. So where one that only grows (a stall, CPU time) has stood still
since the last look, nothing below has moved either, and the walk does not go there: the old rows stand. The
files without such a counter (memory.current) are read for each cgroup that is wanted. At most MAX_OPEN
descriptors stay open, those that moved last. Directories are listed again in turns, all of them within
LISTED_IN looks, and at once where something moves and their number of subdirectories is another.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from tuned_spec.globs import is_glob, leads_to, matches
from tuned_spec.paths import cgroup2_root
from tuned_spec.sense.reading import Fields, Rows, Want

MAX_OPEN = 512
LISTED_IN = 10
_PAGE = 4096  # no smaller than most of these files
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
        self._latest = -1  # the file that was read last, if it is not among those
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

    def read(self, key: str) -> bytes:
        """One file, `PATH/NAME`. Raises OSError: gone, or not there on this kernel."""
        fd = self._fds.get(key)
        try:
            if fd is not None:
                return _whole(fd)
            fd = os.open(f"{self.mount}/{key}", os.O_RDONLY | os.O_CLOEXEC)
            data = _whole(fd)
        except OSError:
            if fd is not None:
                os.close(fd)
                self._fds.pop(key, None)
            raise
        if len(self._fds) < MAX_OPEN:
            self._fds[key] = fd
        else:  # a walk past many must not drive out the few that move
            self._let_go()
            self._latest = fd
        return data

    def keep(self, key: str) -> None:
        """What was read last has moved, and may move again: it stays open in place of what rests longest."""
        if key in self._fds:
            self._fds.move_to_end(key)
        elif self._latest >= 0:
            os.close(self._fds.popitem(last=False)[1])
            self._fds[key], self._latest = self._latest, -1

    def close(self) -> None:
        self._let_go()
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _let_go(self) -> None:
        if self._latest >= 0:
            os.close(self._latest)
            self._latest = -1

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
        # Of cgroups that are only on the way to wanted ones, too: the file as it was, and its pulse.
        self._texts: dict[str, bytes] = {}
        self._pulses: dict[str, float] = {}
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
            if self.why and not self._rows:
                self.why = (
                    f"{self.file}: no cgroup that matches has it (its controller is off, or of version 1)"
                )
        return dict(self._rows)

    def forget(self, path: str) -> None:
        self._rows.pop(path, None)
        self._texts.pop(path, None)
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
        key = f"{path}/{self.file}"
        try:
            data = self._tree.read(key)
            if self._texts.get(path) == data:
                return not self._pulse
            row = self._parse(data, self._fields)
        except OSError as error:
            self.forget(path)
            hint = "; no such cgroup now, or it has no such file here" if error.errno in _GONE else ""
            self.why = f"{key}: {os.strerror(error.errno or 0)}{hint}"
            return True  # a cgroup may have its pressure switched off, and those below it not
        except (ValueError, IndexError) as error:
            self.forget(path)
            self.why = f"{key}: in a format that is not understood: {error}"
            return True
        self._texts[path] = data
        pulse = row.get(self._pulse)
        if pulse is not None:
            if self._pulses.get(path) == pulse:
                return False  # only an average has decayed
            self._pulses[path] = pulse
        self._tree.keep(key)
        if wanted:
            self._rows[path] = row
        return True


def open_cgroups(sources: Mapping[str, Want], root: Path) -> list[CgroupFile]:
    """`sources`: as `metrics` names them -> what is wanted of them."""
    tree = Tree(cgroup2_root(root))
    return [CgroupFile(name, name.partition("/")[2], want, tree) for name, want in sources.items()]


def _whole(fd: int) -> bytes:
    data = os.pread(fd, _PAGE, 0)
    while len(data) % _PAGE == 0 and (more := os.pread(fd, 16 * _PAGE, len(data))):
        data += more
    return data


# ---------------------------------------------------------------------------------- formats


def _pressure(data: bytes, fields: tuple[str, ...]) -> Fields:
    """`some avg10=.. avg60=.. avg300=.. total=N`, then the same of `full` (cpu: since Linux 5.13)."""
    some, _, full = data.partition(b"\n")
    row: Fields = {some[:4].decode("ascii"): int(some[some.rindex(b"=") + 1 :])}
    if full and "full" in fields:
        row["full"] = int(full[full.rindex(b"=") + 1 :])
    return row


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
