"""What the kernel keeps for each task: nice, policy, slice, ioprio, CPUs, OOM score, timer slack, autogroup.

    task:TID/nice           -20..19                         getpriority(2); of this thread alone
    task:TID/policy         other, batch, idle, fifo/3 ...  sched_setscheduler(2); "reset on fork" is kept
    task:TID/slice_us       microseconds; 0: the kernel's   sched_setattr(2), sched_runtime; from 6.12
    task:TID/ioprio         none, be/4, idle, rt/0          ioprio_set(2)
    task:TID/cpus           0-3,5                           sched_setaffinity(2)
    task:TID/oom_score_adj  -1000..1000                     /proc/PID/oom_score_adj; of the whole process
    task:TID/timer_slack_ns                                 /proc/TID/timerslack_ns
    task:TID/autogroup      -20..19                         /proc/PID/autogroup; of the whole session

Owns these, the walks over /proc, what makes two tasks of one TID different (the start time), and which tasks
a selector means:

    exe=GLOB                the name of its executable, without directories
    cgroup=PATH             in that cgroup or below: of v2, or of a v1 hierarchy with a name (name=systemd);
                            `cgroup=cpu:/PATH` asks the v1 hierarchy of that controller instead
    exe=GLOB,cgroup=PATH    both, in either order

Where the executable may not be looked at (another user's, without CAP_SYS_PTRACE), the process's `comm`
stands in, which the kernel cuts at 15 bytes and anyone may choose: a name is no proof of anything. Kernel
threads, PID 1, this process and its children are never meant. The cgroup is that of the process.

A default slice shows as the number of the kernel's base slice, and nothing tells the two apart. It reads as
0 here, and writing 0 makes it default, so that it goes back as a default whatever the base slice is by then.
Whoever had set a task to just that number gets the default back: the same until somebody moves the base.
"""

# Standard library, Python 3.9: repair uses it without the package. Paths are strings, as in repair.py.
# ruff: noqa: PTH115, PTH116, PTH119, PTH208

from __future__ import annotations

import ctypes
import errno
import fnmatch
import os
import struct
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from . import files

# sched_setattr, sched_getattr, ioprio_set, ioprio_get: the kernel's syscall tables
_GENERIC = (274, 275, 30, 31)
_CALLS = {
    "x86_64": (314, 315, 251, 252),
    "i686": (351, 352, 289, 290),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "armv7l": (380, 381, 314, 315),
    "ppc64le": (355, 356, 273, 274),
    "s390x": (345, 346, 282, 283),
}
_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr, 48 bytes: size policy flags nice priority runtime ...
_KEEP_POLICY = 0x08  # SCHED_FLAG_KEEP_POLICY
_WHO_PROCESS = 1  # IOPRIO_WHO_PROCESS: of one thread
_POLICIES = ("other", "fifo", "rr", "batch", "4", "idle", "deadline", "ext")
_CLASSES = ("none", "rt", "be", "idle")
FAIR = ("other", "batch", "idle")
CAP_SYS_NICE = 23
KERNEL_THREAD = 0x00200000  # PF_KTHREAD
TICKS = os.sysconf("SC_CLK_TCK")  # of /proc/PID/stat's start time, a second


def read(address: str) -> str:
    """The text; OSError, FileNotFoundError if the task is gone."""
    tid, attribute = _taken(address)
    try:
        return _READERS[attribute](tid)
    except ProcessLookupError as e:
        raise FileNotFoundError(errno.ENOENT, "the task is gone", address) from e


def write(address: str, text: str) -> None:
    """Every text that `read` gave can be written. OSError, FileNotFoundError if the task is gone."""
    tid, attribute = _taken(address)
    try:
        _WRITERS[attribute](tid, text)
    except ProcessLookupError as e:
        raise FileNotFoundError(errno.ENOENT, "the task is gone", address) from e
    except (ValueError, OverflowError) as e:
        raise OSError(errno.EINVAL, f"{text!r} is nothing for {attribute}", address) from e


def usable(address: str) -> None:
    """OSError if what is written might not be taken back; FileNotFoundError if the task is gone.

    Without CAP_SYS_NICE a nice that was raised stays raised, an idle policy idle, and so on. An OOM score
    needs no such thing: the kernel's floor (oom_score_adj_min) moves only with a write by CAP_SYS_RESOURCE,
    so that what was raised without it can be lowered again without it (fs/proc/base.c, __set_oom_adj).
    """
    tid, attribute = _taken(address)
    os.stat(f"/proc/{tid}")
    if attribute != "oom_score_adj" and not _effective() >> CAP_SYS_NICE & 1:
        raise PermissionError(
            errno.EPERM, "without CAP_SYS_NICE what is written cannot be taken back", address
        )


def start(tid: str) -> str:
    """What tells a task from another of its number: clock ticks after boot. OSError if it has ended."""
    try:
        now = stat(int(tid))
    except ProcessLookupError:
        now = None
    if now is None or now.dead:
        raise FileNotFoundError(errno.ENOENT, "the task has ended", tid)
    return str(now.start)


# ------------------------------------------------------------------------------ the tasks


class Task(NamedTuple):
    """One line of /proc/PID/task/TID/stat."""

    tid: int
    tgid: int  # 0 where it was not asked
    comm: str  # anyone's to choose: may hold blanks, brackets, anything
    state: str
    parent: int  # a process
    flags: int
    start: int  # clock ticks after boot

    @property
    def dead(self) -> bool:
        return self.state in "ZX"


def stat(tid: int, tgid: int = 0, proc: str = "/proc") -> Task:
    """OSError if it is gone."""
    path = f"{proc}/{tgid}/task/{tid}/stat" if tgid else f"{proc}/{tid}/stat"
    text = files.read(path)
    head, _, tail = text.rpartition(")")
    words = tail.split()
    comm = head.partition("(")[2]
    return Task(tid, tgid, comm, words[0], int(words[1]), int(words[6]), int(words[19]))


def processes(proc: str = "/proc") -> Iterator[int]:
    """The process ids there are now."""
    return (int(name) for name in os.listdir(proc) if name.isdigit())


def threads(pid: int, proc: str = "/proc") -> list[int]:
    """The TIDs of a process, its own first; none if it is gone."""
    try:
        return [int(name) for name in os.listdir(f"{proc}/{pid}/task")]
    except OSError:
        return []


def process_of(tid: int, proc: str = "/proc") -> int:
    """The process that a thread belongs to. OSError if it is gone."""
    with open(f"{proc}/{tid}/status", encoding="utf-8", errors="replace") as lines:
        return next(int(line[5:]) for line in lines if line.startswith("Tgid:"))


# --------------------------------------------------------------------------- selectors


class Selector(NamedTuple):
    """Which processes are meant; an empty part asks nothing."""

    exe: str = ""
    cgroup: str = ""  # without the outer slashes
    hierarchy: str = ""  # v1: a controller

    def matches(self, pid: int, proc: str = "/proc") -> bool:
        """Whether this process is meant, as far as its name and cgroup say."""
        try:
            return (not self.exe or self._by_name(pid, proc)) and (
                not self.cgroup or self._by_cgroup(pid, proc)
            )
        except OSError:
            return False  # it has ended, or hides

    def _by_name(self, pid: int, proc: str) -> bool:
        try:
            name = os.path.basename(os.readlink(f"{proc}/{pid}/exe"))
            return fnmatch.fnmatchcase(name[: -len(_DELETED)] if name.endswith(_DELETED) else name, self.exe)
        except PermissionError:
            comm = stat(pid, proc=proc).comm
            return fnmatch.fnmatchcase(comm, self.exe) or (len(comm) == 15 and comm == self.exe[:15])

    def _by_cgroup(self, pid: int, proc: str) -> bool:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                asked = (
                    self.hierarchy in controllers.split(",")
                    if self.hierarchy
                    else not controllers or controllers.startswith("name=")
                )
                if asked and f"{path.strip('/')}/".startswith(self.cgroup + "/"):
                    return True
        return False


_DELETED = " (deleted)"  # the file was replaced by an upgrade


def selector(text: str) -> Selector:
    """ValueError says what is wrong with it."""
    first, _, second = text.partition(",exe=" if text.startswith("cgroup=") else ",cgroup=")
    parts = {"exe": "", "cgroup": ""}
    other = "exe" if text.startswith("cgroup=") else "cgroup"
    for part in (first, f"{other}={second}" if second else ""):
        key, _, value = part.partition("=")
        if part and key not in parts:
            raise ValueError(f"{text!r} is not exe=GLOB, cgroup=PATH, or both joined by a comma")
        if part:
            parts[key] = value
    hierarchy, colon, path = parts["cgroup"].partition(":/")
    if not colon or "/" in hierarchy:  # a unit's name may have a colon in it
        hierarchy, path = "", parts["cgroup"]
    cgroup = path.strip("/")
    if "/" in parts["exe"]:
        raise ValueError(f"{text!r}: exe= is the name of a program without its directories")
    if (parts["cgroup"] and not cgroup) or not (cgroup or parts["exe"].strip("*?")):
        raise ValueError(f"{text!r} means every task there is; name a program or a cgroup")
    return Selector(parts["exe"], cgroup, hierarchy)


def matching(
    wanted: Selector,
    among: Iterable[int] | None = None,
    known: Container[int] = (),
    proc: str = "/proc",
) -> list[Task]:
    """The living tasks of all processes that a selector means, or of those `among` these processes.

    Of `known` TIDs the caller needs nothing.
    """
    ours = os.getpid()
    found = []
    for pid in processes(proc) if among is None else among:
        if pid in (1, ours) or not wanted.matches(pid, proc):
            continue
        for tid in threads(pid, proc):
            if tid in known:
                continue
            try:
                task = stat(tid, pid, proc)
            except OSError:
                continue
            if task.flags & KERNEL_THREAD or task.parent == ours:
                break
            if not task.dead:
                found.append(task)
    return found


def heirs(
    elders: Mapping[int, float],
    selectors: Iterable[str] = (),
    among: Iterable[int] | None = None,
    proc: str = "/proc",
) -> list[tuple[Task, int]]:
    """Tasks that may have inherited from an elder, and from which one; of all processes, or `among` these.

    `elders`: TID -> seconds after boot. An heir is none of them, has started then or later, and is of an
    elder's process, or descends from it by parents that live, or, an orphan, is meant by one of the selectors
    and in the cgroup of an elder's process (anywhere in the cgroup that a selector names). A thread's own
    creator is not on record: it inherits from the main thread if that is an elder, else from the first.
    """
    everyone = list(processes(proc))
    home = {pid: pid for pid in everyone if pid in elders}
    main = {tid for pid in home for tid in threads(pid, proc)}
    for tid in sorted(elders.keys() - main):  # whose main thread is no elder
        try:
            home.setdefault(process_of(tid, proc), tid)
        except OSError:
            continue
    wanted = [one for one in map(_selector_or_none, selectors) if one]
    places = {_cgroups(pid, proc): elder for pid, elder in home.items()}
    parents: dict[int, int] = {}
    found = []
    for pid in everyone if among is None else among:
        elder = _ancestor(pid, home, parents, proc)
        if elder is None:
            here = [one for one in wanted if pid > 1 and one.matches(pid, proc)]
            near = places.get(_cgroups(pid, proc)) if here else None
            elder = min(elders) if near is None and any(one.cgroup for one in here) else near
        if elder is None or os.getpid() in (pid, parents.get(pid)):
            continue
        since = int(elders[elder] * TICKS)
        for tid in threads(pid, proc):
            if tid in elders:
                continue
            try:
                task = stat(tid, pid, proc)
            except OSError:
                continue
            if not task.dead and task.start >= since:
                found.append((task, elder))
    return found


def _ancestor(pid: int, home: Mapping[int, int], parents: dict[int, int], proc: str) -> int | None:
    """The elder of the nearest process upwards that has one."""
    while pid not in home:
        if pid not in parents:
            try:
                parents[pid] = stat(pid, proc=proc).parent
            except OSError:
                parents[pid] = 0
        pid = parents[pid]
        if pid <= 1:
            return None
    return home[pid]


def _selector_or_none(text: str) -> Selector | None:
    try:
        return selector(text)
    except ValueError:
        return None  # of a row for one task alone


def _cgroups(pid: int, proc: str) -> str:
    try:
        return files.read(f"{proc}/{pid}/cgroup")
    except OSError:
        return ""


# ------------------------------------------------------------------------- one by one


def _taken(address: str) -> tuple[int, str]:
    tid, _, attribute = address.partition(":")[2].partition("/")
    if not tid.isdigit() or int(tid) == 0 or attribute not in _READERS:
        raise OSError(errno.EINVAL, "no such attribute of a task", address)
    return int(tid), attribute


def _read_nice(tid: int) -> str:
    return str(os.getpriority(os.PRIO_PROCESS, tid))


def _write_nice(tid: int, text: str) -> None:
    os.setpriority(os.PRIO_PROCESS, tid, int(text))


def _policy(tid: int) -> int:
    return os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK


def _read_policy(tid: int) -> str:
    policy = _policy(tid)
    word = _POLICIES[policy] if policy < len(_POLICIES) else str(policy)
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        word += f"/{os.sched_getparam(tid).sched_priority}"
    return word


def _write_policy(tid: int, text: str) -> None:
    """By the older call, which keeps nice and, where it is not the default, the slice."""
    word, _, priority = text.partition("/")
    reset = os.sched_getscheduler(tid) & os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(tid, _POLICIES.index(word) | reset, os.sched_param(int(priority or 0)))


def _read_slice(tid: int) -> str:
    ns = _attributes(tid)[5]
    if not is_fair(tid):
        raise OSError(errno.EINVAL, "a real-time task has no slice")
    if ns == 0:
        raise OSError(errno.EOPNOTSUPP, "this kernel has no slice for one task (6.12 and later have)")
    if ns == _base_slice():
        return "0"
    us, rest = divmod(ns, 1000)
    return f"{us}.{rest:03}" if rest else str(us)


def _write_slice(tid: int, text: str) -> None:
    us, _, rest = text.partition(".")
    ns = int(us) * 1000 + int(rest.ljust(3, "0") if rest else 0)
    _set_slice(tid, 0 if ns == _base_slice() else ns)


def _set_slice(tid: int, ns: int) -> None:
    """Nice goes along, because the call sets both: a renice by another in these microseconds is lost."""
    nice = _attributes(tid)[3]
    data = _ATTR.pack(_ATTR.size, 0, _KEEP_POLICY, nice, 0, ns, 0, 0)
    _call(0, tid, data, 0)


def _attributes(tid: int) -> tuple[int, ...]:
    buffer = bytearray(_ATTR.size)
    _call(1, tid, (ctypes.c_char * _ATTR.size).from_buffer(buffer), _ATTR.size, 0)
    return _ATTR.unpack(buffer)


_base = [0, 0]  # what our own slice was when the base slice was found, and the base slice


def _base_slice() -> int:
    """The slice of a task that has none of its own, ns; 0 where there is no such thing.

    The file in debugfs may be locked, so a thread of ours is asked, once made default. Our own slice follows
    the base one (unless somebody set it): when it moves, the question is asked anew.
    """
    ours = _attributes(0)[5]
    if ours != _base[0]:
        found: list[int] = []

        def look() -> None:
            try:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
                _set_slice(0, 0)
                found.append(_attributes(0)[5])
            except OSError:
                pass

        try:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        except RuntimeError:
            pass  # no room for a thread
        _base[:] = [ours, found[0] if found else 0]  # not found: every slice is its number
    return _base[1]


def _read_ioprio(tid: int) -> str:
    value = _call(3, _WHO_PROCESS, tid)
    kind, level = value >> 13, value & 0x1FFF
    word = _CLASSES[kind] if kind < len(_CLASSES) else str(kind)
    return f"{word}/{level}" if level or word in ("be", "rt") else word


def _write_ioprio(tid: int, text: str) -> None:
    word, _, level = text.partition("/")
    kind = _CLASSES.index(word)
    _call(2, _WHO_PROCESS, tid, kind << 13 | (int(level or 0) if kind else 0))


def _read_cpus(tid: int) -> str:
    spans: list[list[int]] = []
    for cpu in sorted(os.sched_getaffinity(tid)):
        if spans and spans[-1][1] == cpu - 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def _write_cpus(tid: int, text: str) -> None:
    cpus: set[int] = set()
    for span in text.split(","):
        first, _, last = span.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    os.sched_setaffinity(tid, cpus)


def _read_autogroup(tid: int) -> str:
    words = files.read(f"/proc/{tid}/autogroup").split()
    if len(words) != 3:
        raise OSError(errno.EINVAL, "the task is in no autogroup")
    return words[2]


def _file(name: str) -> tuple[Callable[[int], str], Callable[[int, str], None]]:
    def write_number(tid: int, text: str) -> None:
        files.write(f"/proc/{tid}/{name}", str(int(text)))

    return (lambda tid: files.read(f"/proc/{tid}/{name}")), write_number


_oom, _slack, _autogroup = _file("oom_score_adj"), _file("timerslack_ns"), _file("autogroup")
_READERS: dict[str, Callable[[int], str]] = {
    "nice": _read_nice,
    "policy": _read_policy,
    "slice_us": _read_slice,
    "ioprio": _read_ioprio,
    "cpus": _read_cpus,
    "oom_score_adj": _oom[0],
    "timer_slack_ns": _slack[0],
    "autogroup": _read_autogroup,
}
_WRITERS: dict[str, Callable[[int, str], None]] = {
    "nice": _write_nice,
    "policy": _write_policy,
    "slice_us": _write_slice,
    "ioprio": _write_ioprio,
    "cpus": _write_cpus,
    "oom_score_adj": _oom[1],
    "timer_slack_ns": _slack[1],
    "autogroup": _autogroup[1],
}
OF_PROCESS = ("oom_score_adj", "autogroup")  # one for all threads of a process, or more
OF_FAIR = ("policy", "slice_us")  # not for real-time and deadline tasks


def is_fair(tid: int) -> bool:
    """Whether it is scheduled by weight: policy other, batch or idle."""
    try:
        return _POLICIES[_policy(tid)] in FAIR
    except (OSError, IndexError):
        return False


_libc = ctypes.CDLL(None, use_errno=True)


def _effective() -> int:
    """The effective capabilities, the lower 32."""
    header, data = (
        struct.pack("=Ii", 0x20080522, 0),
        ctypes.create_string_buffer(24),
    )  # version 3, this thread
    _libc.capget(header, data)
    effective: int = struct.unpack_from("=I", data)[0]
    return effective


_numbers = _CALLS.get(os.uname().machine)


def _call(which: int, *args: object) -> int:
    if _numbers is None:
        raise OSError(errno.ENOSYS, f"unknown system calls of {os.uname().machine}")
    result: int = _libc.syscall(_numbers[which], *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
