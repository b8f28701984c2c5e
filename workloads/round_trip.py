"""Write every knob of the catalogue, read it back, put it back: what this kernel really has.

    python -m workloads.round_trip [--record] [--json OUT] [PATTERN...]

Each entry goes alone through the real adapter and the real ledger, with a journal in a temporary directory:
another legal value is written, what the kernel then shows must be what the adapter foretold, the ledger
restores, and the knob and its partners must show what they showed before. Of an entry that the host has for
each disk, NIC, cgroup or task, one instance that serves nobody is tried: loop devices, a cgroup and a
process are made for it, and what belongs to a network is tried in a network namespace of its own.
TUNED_SPEC_SPARE names idle devices of this host that may be taken as well (`vdb eth1`); the NICs among them
visit that namespace.

What is skipped is printed with its reason; what fails ends with exit status 1. `--record` writes what was
tried into tuned_spec/knobs/tried.yaml and what was skipped into tests/knobs/skipped/, both for this kernel.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import yaml

from tuned_spec.errors import JournalError, KnobError, KnobRefused
from tuned_spec.knobs.adapters import Adapter, adapters
from tuned_spec.knobs.catalogue import TRIED, load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import UNLIMITED, CouplingKind, Frozen, Knob, KnobType, Risk, Value, Write
from workloads.trouble import alone

CHECKOUT = Path(__file__).resolve().parent.parent
SKIPPED = CHECKOUT / "tests/knobs/skipped"
RELEASE = os.uname().release
KERNEL = ".".join(RELEASE.split(".")[:2])  # `6.12`: what the lists go by

OURS = "tuned-spec-trip"  # the name of whatever is made for the trip
PEER = "tuned-spec-peer"
MOST = 12  # instances of one entry that are looked at until one can be tried
NAMESPACE_S = 900.0
SCHEDULERS = ("none", "mq-deadline", "kyber", "bfq")  # a loop device for each, with what it has to tune
QDISCS = ("pfifo", "bfifo", "fq", "fq_codel", "cake")  # likewise, a dummy interface
# `per` of what is made for the trip or is spare: even a value of high risk does no harm.
SPARE = ("disk", "nic", "queue", "cgroup", "cgroup_disk", "task")
OF_DRIVERS = ("disk", "nic", "queue")  # here a driver may take no value but its own
# Entry -> by less than how much the kernel rounds up: to its ticks, whose length (1 to 10 ms) no file shows;
# to the shortest slice that there is.
ROUNDED_UP = {
    "block.bfq.timeout_sync": 10,
    "block.mq_deadline.prio_aging_expire": 10,
    "block.mq_deadline.read_expire": 10,
    "block.mq_deadline.write_expire": 10,
    "mglru.min_ttl_ms": 10,
    "task.slice_us": 100,
}
ONLINE = Path("/sys/devices/system/cpu/online")
OF_NETWORK = ("nic", "queue", "netns")  # `per` of what is tried in a network namespace


class Trip(Frozen, frozen=True):
    """What came of one entry: `status` is "tried", "skipped" or "failed", `why` the reason of those two."""

    entry: str
    status: str
    knob: str = ""  # the instance that was taken
    before: str = ""
    written: str = ""
    why: str = ""


# --------------------------------------------------------------------- which value to write


def others(knob: Knob, now: Value) -> list[Value]:
    """Some legal values other than the live one, the nearest first; only near ones where a wrong one
    loses memory."""
    match knob.type, now:
        case KnobType.BOOL, int():
            return [1 - now]
        case KnobType.CHOICE, str():
            return [word for word in knob.choices if word != now]
        case KnobType.WORDS, str():
            return [word for word in now.split() if word != now]
        case KnobType.CPUS | KnobType.CPUMASK, str():
            all_of_them = ONLINE.read_text() if knob.unit.startswith("cpu") else now
            return [one for one in dict.fromkeys(["0", *re.findall("[0-9]+", all_of_them)]) if one != now]
        case KnobType.INT, int():
            return [value for value in _near_and_far(knob, now) if value != now]
        case KnobType.INTS, tuple():
            last = [(*now[:-1], value) for value in _near_and_far(knob, now[-1])]
            first = [(value, *now[1:]) for value in _near_and_far(knob, now[0])]
            found = [value for value in dict.fromkeys(last + first + _spread(knob, len(now))) if value != now]
            rising = tuple(sorted(now)) == now  # min, default, max: kept in that order
            return [value for value in found if not rising or tuple(sorted(value)) == value]
    raise AssertionError(f"{knob.id}: {now!r} is not of type {knob.type}")


def _near_and_far(knob: Knob, now: int) -> list[int]:
    low = 0 if knob.low is None else knob.low
    high = UNLIMITED if knob.high is None else knob.high
    # Beside "max" there is nothing near: any number that the range allows will do.
    near = [now - knob.quantum, now + knob.quantum] if now < UNLIMITED else [min(high, 1 << 30)]
    # A ring of a NIC has a power of two.
    far = [] if knob.risk is Risk.HIGH else [now // 2, now * 2, low, low + knob.quantum, high]
    return [value for value in dict.fromkeys(near + far) if low <= value <= high]


def _spread(knob: Knob, count: int) -> list[tuple[int, ...]]:
    """Rising numbers over the whole range."""
    if knob.low is None or knob.high is None or knob.risk is Risk.HIGH:
        return []
    low, high = knob.low, knob.high
    return [tuple(low + s + (high - low - 2 * s) * i // (count - 1) for i in range(count)) for s in (0, 1)]


def is_off(knob: Knob, value: Value) -> bool:
    """A 0 that the kernel shows while the partner rules, and that cannot be written."""
    return value == 0 and any(coupling.kind is CouplingKind.ZEROES for coupling in knob.coupled)


# ------------------------------------------------------------------------------- one entry


class Road:
    """What a trip needs: the real catalogue, adapters and ledger, with a journal in `directory`.

    `spare` names the disks that may be tried.
    """

    def __init__(self, directory: Path, spare: Collection[str]) -> None:
        self._adapters = adapters()
        self._catalogue = Catalogue(load(), self._adapters)
        self._journal = Journal(directory, repair.boot_id())
        self._ledger = Ledger(self._catalogue, self._adapters, self._journal, time.monotonic)
        self._spare = spare

    def close(self) -> None:
        self._journal.close()

    def trip(self, entry: str) -> Trip:
        """One entry there and back, by the first of its instances that can be tried."""
        knobs = self._concrete(entry)
        if not knobs:
            return Trip(
                entry, "skipped", why=f"absent: no {self._catalogue[entry].per} here that may be tried has it"
            )
        trips: list[Trip] = []
        for knob in knobs[:MOST]:
            trips.append(self._one(entry, knob))
            if trips[-1].status == "tried" or trips[-1].why.startswith(_LEFT):
                return trips[-1]
        # What one instance refused says more than that another has no such knob.
        return min(trips, key=lambda trip: (trip.status != "failed", trip.why.startswith("absent")))

    def _concrete(self, entry: str) -> list[Knob]:
        knob = self._catalogue[entry]
        if not knob.per:
            return [knob]
        match knob.per:
            case "task":  # a selector, never enumerated
                names = [f"exe={OURS}"]
            case "disk":  # loop devices are no host's to tune, so they are not enumerated
                names = sorted(self._spare)
            case "cgroup":
                names = [OURS]
            case "cgroup_disk":
                names = [f"{OURS}:{disk}" for disk in sorted(self._spare)]
            case _:  # of what a network has, all is spare in a namespace of its own
                names = list(self._catalogue.instances(entry))
        return [self._catalogue[f"{entry}@{name}"] for name in names]

    def _adapter(self, knob: Knob) -> Adapter:
        return self._adapters[knob.adapter]

    def _text(self, id: str) -> str:
        """What a knob shows, brackets and all; "" if it cannot be read."""
        knob = self._catalogue[id]
        try:
            return self._adapter(knob).read_text(knob)
        except KnobError:
            return ""

    def _one(self, entry: str, knob: Knob) -> Trip:
        """One knob there and back. Whatever happens it is put back, or said that it could not be."""
        refusal = self._ledger.reversible(knob.id)
        if refusal:
            return Trip(entry, "skipped", knob.id, why=f"{refusal.code}: {_placeless(refusal.what, knob)}")
        before = {id: self._text(id) for id in (knob.id, *(coupling.partner for coupling in knob.coupled))}
        try:
            trip = self._there(entry, knob)
        except (KnobError, JournalError) as error:
            trip = Trip(entry, "failed", knob.id, before[knob.id], why=str(error))
        left = [f"{o.knob}: {o.status}: {o.why}" for o in self._ledger.restore() if o.status not in _BACK]
        after = {id: self._text(id) for id in before}
        left += [f"{id} shows {after[id]!r}, was {before[id]!r}" for id in before if after[id] != before[id]]
        if left:
            return msgspec.structs.replace(trip, status="failed", why=_LEFT + "; ".join(left))
        return trip

    def _there(self, entry: str, knob: Knob) -> Trip:
        now, before = self._ledger.value(knob.id), self._text(knob.id)
        refused: list[KnobRefused] = []
        for value in others(msgspec.structs.replace(knob, risk=Risk.LOW) if knob.per in SPARE else knob, now):
            foretold = self._adapter(knob).canonical(knob, value)
            if foretold == now and not knob.stateless:
                continue
            try:
                self._ledger.apply(OURS, OURS, (Write(knob.id, value),))
            except KnobRefused as error:
                if error.what.startswith(_BEFOREHAND):
                    return Trip(entry, "skipped", knob.id, before, why=_placeless(error.what, knob))
                refused.append(error)
                continue
            shown, written = self._ledger.value(knob.id), self._text(knob.id)
            if shown == now and entry in ROUNDED_UP:
                continue
            if shown != foretold and not is_rounded_up(entry, value, shown):
                why = f"{value!r} was written, {foretold!r} was foretold, the kernel shows {shown!r}"
                return Trip(entry, "failed", knob.id, before, written, why)
            return Trip(entry, "tried", knob.id, before, written)
        if refused and (knob.per in OF_DRIVERS or all(error.code in _UNSUPPORTED for error in refused)):
            return Trip(
                entry, "skipped", knob.id, before, why=f"no_other_value: {_placeless(str(refused[0]), knob)}"
            )
        if refused:
            told = "; ".join(str(error) for error in refused)
            return Trip(entry, "failed", knob.id, before, why=f"no value is taken: {told}")
        return Trip(
            entry, "skipped", knob.id, before, why="no_other_value: none that is legal, or none near it"
        )


def is_rounded_up(entry: str, value: Value, shown: Value) -> bool:
    most = ROUNDED_UP.get(entry, 0)
    return isinstance(value, int) and isinstance(shown, int) and value <= shown < value + most


# What is shown and cannot work here; ENOTSUPP (524) is the kernel's own number, for no user to see.
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENODEV, 524)
# The ledger's words for what it refuses before anything is written.
_BEFOREHAND = ("irreversible", "read_only", "absent")
_BACK = ("restored", "unchanged")
_LEFT = "not put back: "


def _placeless(what: str, knob: Knob) -> str:
    """A reason without the name or number of the instance, which is another one the next time."""
    return re.sub(r"(?<=:)\d+(?=/)", "*", what.replace(knob.instance, "*")) if knob.instance else what


# ------------------------------------------------------------------- what serves nobody


@contextmanager
def spare() -> Iterator[set[str]]:
    """The names of disks that may be tried; beside them a cgroup and a process, both called OURS.

    What cannot be made here is left out: the entries that need it are then skipped.
    """
    devices = os.environ.get("TUNED_SPEC_SPARE", "").split()
    names = {name for name in devices if (Path("/sys/block") / name).exists()}
    with ExitStack() as made:
        scratch = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="tuned-spec-")))
        pid = made.enter_context(_process(scratch))
        made.enter_context(_cgroup(pid))
        for scheduler in SCHEDULERS:
            if disk := made.enter_context(_loop(scratch / scheduler, scheduler)):
                names.add(disk)
        yield names


@contextmanager
def _process(scratch: Path) -> Iterator[int]:
    """A process whose executable has our name, for selectors to find; its session is its own, and with it
    the autogroup, which a host whose first process opened no session has not."""
    program = scratch / OURS
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    # By way of a shell that ends: our own children are not for us to tune.
    start = ("sh", "-c", '"$0" infinity >/dev/null 2>&1 & echo $!', program)
    started = subprocess.run(start, capture_output=True, text=True, check=True, start_new_session=True)
    pid = int(started.stdout)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def _cgroup(pid: int) -> Iterator[None]:
    """A cgroup of version 2 at the top, with the process in it: outside of what systemd looks after."""
    tops = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    top = next((top for top in tops if (top / "cgroup.controllers").exists()), None)
    if top is None:
        yield
        return
    own = top / OURS
    own.mkdir()
    try:
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (own / file).exists():  # with a process in it, none can be emptied again
                (own / file).write_text((own / f"{file}.effective").read_text())
        (own / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (top / "cgroup.procs").write_text(str(pid))
        own.rmdir()


@contextmanager
def _loop(file: Path, scheduler: str) -> Iterator[str]:
    """The name of a loop device with that I/O scheduler, or "" where there can be none."""
    file.touch()
    os.truncate(file, 64 << 20)
    done = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if done.returncode:
        yield ""
        return
    device = done.stdout.strip()
    name = Path(device).name
    attribute = Path("/sys/block") / name / "queue/scheduler"
    before = attribute.read_text().partition("[")[2].partition("]")[0]
    try:
        with suppress(OSError):  # not built, not loaded
            attribute.write_text(scheduler)
        yield name
    finally:
        attribute.write_text(before)  # a loop device outlives its file
        subprocess.run(["losetup", "--detach", device], check=True)


@contextmanager
def interfaces() -> Iterator[None]:
    """In a network namespace just made: a cable with two queues at each end, an interface with each queueing
    discipline, and the host's spare NICs, which go home at the end. /sys shows what is in it."""

    def ip(*words: str) -> bool:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    home = os.getppid()
    ip("mount", "-t", "sysfs", "sysfs", "/sys")
    queues = ("numtxqueues", "2", "numrxqueues", "2")
    ip("ip", "link", "add", OURS, *queues, "type", "veth", "peer", "name", PEER, *queues)
    for kind in QDISCS:
        name = f"trip-{kind}"
        if ip("ip", "link", "add", name, "type", "dummy"):
            ip("tc", "qdisc", "add", "dev", name, "root", kind)
    visitors = []
    for name in os.environ.get("TUNED_SPEC_SPARE", "").split():
        if ip("nsenter", f"--net=/proc/{home}/ns/net", "ip", "link", "set", name, "netns", str(os.getpid())):
            visitors.append(name)
    for interface in Path("/sys/class/net").iterdir():
        ip("ip", "link", "set", interface.name, "up")
    try:
        yield
    finally:
        for name in visitors:
            ip("ip", "link", "set", name, "netns", str(home))


# ------------------------------------------------------------------------------- all of it


def tour(entries: Sequence[str], told: Callable[[Trip], None] = lambda _: None) -> list[Trip]:
    """Every entry in turn; `told` hears of each. The caller keeps other writers of this host's knobs away."""
    catalogue = load()
    ours = [id for id in entries if _is_of_network(catalogue[id], catalogue)]
    away = {trip.entry: trip for trip in _in_namespace(ours)} if ours else {}
    trips = []
    with (
        tempfile.TemporaryDirectory(prefix="tuned-spec-") as directory,
        spare() as names,
        closing(Road(Path(directory), names)) as road,
    ):
        for id in entries:
            trip = away.get(id)
            # A sysctl that each namespace of a newer kernel has is the host's own on an older one.
            if trip is None or (trip.why.startswith("absent") and not catalogue[id].per):
                trip = road.trip(id)
            told(trip)
            trips.append(trip)
    return trips


def _is_of_network(knob: Knob, catalogue: Mapping[str, Knob]) -> bool:
    """Not where a partner is the host's: a namespace can read that, at most."""
    scopes = {one.scope for one in (knob, *(catalogue[coupling.partner] for coupling in knob.coupled))}
    return knob.per in OF_NETWORK or scopes == {"netns"}


def _in_namespace(entries: Sequence[str]) -> list[Trip]:
    """The same, by a process in a network namespace of its own."""
    command = [sys.executable, "-m", "workloads.round_trip", "--inside", *entries]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *command],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        timeout=NAMESPACE_S,
        check=False,
    )
    if done.returncode:
        why = "failed in a network namespace of its own: see the lines above"
        return [Trip(id, "failed", why=why) for id in entries]
    return msgspec.json.decode(done.stdout, type=list[Trip])


def _inside(entries: Sequence[str]) -> list[Trip]:
    with (
        tempfile.TemporaryDirectory(prefix="tuned-spec-") as directory,
        interfaces(),
        closing(Road(Path(directory), ())) as road,
    ):
        return [road.trip(id) for id in entries]


# ------------------------------------------------------------------------------- the lists


class Skips(msgspec.Struct):
    """tests/knobs/skipped/MAJOR.MINOR.yaml: what that kernel may skip, entry -> reason, as `release` did."""

    release: str
    skipped: dict[str, str]


def allowed(kernel: str = KERNEL, directory: Path = SKIPPED) -> Skips | None:
    """The list for that kernel, None where there is none."""
    file = directory / f"{kernel}.yaml"
    if not file.exists():
        return None
    return msgspec.convert(yaml.safe_load(file.read_text()), Skips)


def record(trips: Sequence[Trip], tried: Path = TRIED, skipped: Path = SKIPPED) -> None:
    """Replace both lists of this kernel; those of other kernels stay."""
    lists = yaml.safe_load(tried.read_text()) if tried.exists() else {}
    lists[KERNEL] = sorted(trip.entry for trip in trips if trip.status == "tried")
    in_order = sorted(lists, key=lambda kernel: [int(number) for number in kernel.split(".")])
    text = yaml.safe_dump({kernel: lists[kernel] for kernel in in_order}, sort_keys=False, width=110)
    tried.write_text(_BY_US + text)
    skips = Skips(RELEASE, {trip.entry: trip.why for trip in trips if trip.status == "skipped"})
    skipped.mkdir(exist_ok=True)
    text = yaml.safe_dump(msgspec.to_builtins(skips), width=110)
    (skipped / f"{KERNEL}.yaml").write_text(_BY_US + text)


_BY_US = "# Written by `python -m workloads.round_trip --record`; see docs/kernels.md.\n"


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    if args.inside:
        sys.stdout.buffer.write(msgspec.json.encode(_inside(args.pattern)))
        return 0
    if os.geteuid() != 0:
        print("round_trip: root is needed to write knobs: use sudo", file=sys.stderr)
        return 2
    entries = [id for id in load() if not args.pattern or any(fnmatchcase(id, p) for p in args.pattern)]
    if not entries:
        print(f"round_trip: no entry of the catalogue matches {' '.join(args.pattern)}", file=sys.stderr)
        return 2

    def told(trip: Trip) -> None:
        if trip.status != "tried":
            print(f"{trip.status}  {trip.knob or trip.entry}: {trip.why}", flush=True)
        elif args.verbose:
            print(f"tried  {trip.knob}: {trip.before!r} -> {trip.written!r} and back", flush=True)

    with alone():
        trips = tour(entries, told)
    count = Counter(trip.status for trip in trips)
    print(f"kernel {RELEASE}: {', '.join(f'{count[s]} {s}' for s in ('tried', 'skipped', 'failed'))}")
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(trips), indent=1) + b"\n")
    if args.record:
        record(trips)
    return 1 if count["failed"] else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m workloads.round_trip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--record", action="store_true", help="replace the lists of this kernel")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every trip there")
    parser.add_argument("--verbose", "-v", action="store_true", help="say what was tried, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("pattern", nargs="*", metavar="PATTERN", help="entries, such as 'vm.*' (all)")
    args = parser.parse_args(argv)
    if args.record and args.pattern:
        parser.error("--record needs all entries: leave PATTERN out")
    return args


if __name__ == "__main__":
    sys.exit(main())
