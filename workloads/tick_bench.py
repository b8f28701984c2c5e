"""What a tick costs where many knobs are changed: the daemon's own tick, on real knobs of the real kernel.

    python -m workloads.tick_bench [--ticks 300] [--knobs 120] [--json]

Four daemons (`daemon.serve.Daemon`, without its loop and its actor) are ticked in turn: one with the default
policy, and three with one rule for each of more than that many knobs, of which none, 12 and all of `--knobs`
are changed and confirmed. They were proposed, allowed, journaled, written and held the way all changes are;
the verdict is ours.

The knobs are of as many kinds as there are here, one of each entry of the catalogue: those of a network
namespace, of interfaces, loop devices and a process made for it, and the host's own where those are too few.
Each gets the legal value that is nearest to its own. All are put back and compared.

CPU time of this process, all threads. Time goes a second a tick for the daemon, so that what is done now and
then (every tenth second, say) falls in as many ticks as it does in reality; for us it goes faster.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import msgspec

from tuned_spec import paths
from tuned_spec.daemon.hands import Hands
from tuned_spec.daemon.log import Log
from tuned_spec.daemon.options import Options
from tuned_spec.daemon.serve import Daemon
from tuned_spec.daemon.shell import clock
from tuned_spec.engine.events import ActorChanged, ActorSaid, Observed, Stop
from tuned_spec.errors import JournalError, KnobError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.facts import host_facts
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import (
    Action,
    Condition,
    CouplingKind,
    Expect,
    Mode,
    Op,
    Policy,
    Risk,
    Rule,
    Value,
    Verdict,
    VerdictKind,
    Way,
    Write,
)
from tuned_spec.policy.load import load as load_policy
from tuned_spec.sense.metrics import METRICS, Kind, known
from workloads.figures import at
from workloads.round_trip import CHECKOUT, OURS, interfaces, others, spare
from workloads.trouble import alone

FEW = 12
NAMED = 64  # metrics that the rules name: three times as many as a shipped policy
NEVER = 1e11  # no metric of a host gets there by itself
EVERY_S = 0.02  # between ticks: a tick finds cold caches, a tight loop does not
# Kind of adapter -> how many at most. None of the CPUs' own: they would slow down whoever works beside.
MOST = {
    "block": 22,
    "cgroup": 9,
    "ethtool": 8,
    "link": 12,
    "qdisc": 12,
    "queue": 3,
    "sysctl": 200,
    "sysfs": 16,
    "task": 6,
}


def candidates(catalogue: Catalogue, disks: set[str]) -> Iterator[str]:
    """One knob of each entry of those kinds, what belongs to us alone before what is the host's."""
    places = {"disk": sorted(disks), "cgroup": [OURS], "task": [f"exe={OURS}"]}
    ours: list[list[str]] = []
    hosts: list[list[str]] = []
    for id, entry in catalogue.items():
        if entry.risk is Risk.HIGH or entry.adapter not in MOST or entry.stateless or entry.blocking:
            continue
        if entry.per:
            names = places.get(entry.per) or list(catalogue.instances(id))
            ours.append([f"{id}@{name}" for name in names])
        else:
            (ours if entry.scope == "netns" else hosts).append([id])
    for several in (*ours, *hosts):
        yield from several


def another(ledger: Ledger, catalogue: Catalogue, id: str) -> Value | None:
    """A value that the kernel takes, and gives up again; None if there is none."""
    try:
        if ledger.reversible(id):
            return None
        now = ledger.value(id)
    except KnobError:
        return None
    for value in others(catalogue[id], now)[:4]:
        try:
            ledger.apply(OURS, OURS, (Write(id, value),))
        except (KnobError, JournalError):
            continue
        shown = ledger.value(id)
        back = ledger.restore()
        if shown == value and all(outcome.status == "restored" for outcome in back):
            return value
    return None


def choose(count: int, disks: set[str], directory: Path) -> dict[str, Value]:
    """Knob -> the value that it is to be given."""
    access = adapters()
    catalogue = Catalogue(load(), access)
    journal = Journal(directory, repair.boot_id())
    ledger = Ledger(catalogue, access, journal, clock)
    room = Counter(MOST)
    chosen: dict[str, Value] = {}
    taken: set[str] = set()
    for id in candidates(catalogue, disks):
        knob = catalogue[id]
        entry = id.partition("@")[0]
        bound = {c.partner for c in knob.coupled if c.kind is not CouplingKind.ORDERED}
        if entry in taken or bound or not room[knob.adapter]:
            continue
        value = another(ledger, catalogue, id)
        if value is not None:
            chosen[id] = value
            taken.add(entry)
            room[knob.adapter] -= 1
    journal.close()
    # Not the sysctls alone, should there be more than enough.
    order = sorted(chosen, key=lambda id: (catalogue[id].adapter == "sysctl", catalogue[id].scope != "netns"))
    if len(order) < count:
        raise SystemExit(f"this host has {len(order)} knobs for it, {count} are needed")
    few = order[: count : count // FEW][:FEW]  # of all kinds, too
    return {id: chosen[id] for id in dict.fromkeys(few + order[:count])}


def policy_of(values: dict[str, Value]) -> Policy:
    """A rule for each knob. The first FEW wait for a metric of their own, the others share what is left."""
    files = (n for n, m in METRICS.items() if m.alone and m.kind is not Kind.REPORTED and m.source[0] == "/")
    metrics = list(islice(files, NAMED))
    rest = cycle(metrics[FEW:])
    rules = []
    for number, (knob, value) in enumerate(values.items()):
        metric = metrics[number] if number < FEW else next(rest)
        rules.append(
            Rule(
                id=f"rule-{number}",
                when=(Condition(metric, ">", NEVER, NEVER / 2),),
                do=(Action(knob, Op.SET, value),),
                expect=Expect(metric, Way.DOWN, 0.5),
                reason="a measurement",
                source="none",
                confidence=0.9,
            )
        )
    return Policy(names=("bench",), mode=Mode.LOSSY, rules=tuple(rules), changes_per_minute=100_000)


class Ticked:
    """A daemon whose loop is ours. `t` is its time."""

    def __init__(self, place: Path, policy: Policy | None) -> None:
        boot_id, access = repair.boot_id(), adapters()
        options = Options(mode=Mode.LOSSY, runtime_dir=place / "run", state_dir=place / "state", dropins=None)
        options.runtime_dir.mkdir(parents=True)
        catalogue = Catalogue(load(), access)
        if policy is None:
            policy = load_policy(
                ("default",),
                shipped=paths.shipped_policies(),
                dropins=None,
                catalogue=catalogue,
                metrics=known,
                uid_of=int,
                facts=host_facts(Path("/")),
                sensed={name: metric.per for name, metric in METRICS.items()},
            ).policy
        self.hands = Hands(catalogue, access, Journal(options.runtime_dir, boot_id), clock)
        self.daemon = Daemon(options, policy, self.hands, boot_id, ())
        self.daemon.log = Log(os.open(os.devnull, os.O_WRONLY))
        self.daemon.dispatch(ActorChanged(clock(), True, "the bench judges"))
        self.daemon.keep_lookout(
            clock()
        )  # the helper that hears of new tasks, where there are knobs of tasks
        self.t = clock()

    def manage(self, rules: Sequence[Rule]) -> None:
        """Each is proposed, applied and confirmed."""
        for rule in rules:
            self.daemon.dispatch(Observed(clock(), {rule.when[0].metric: 2 * NEVER}, host=False))
            for trial in tuple(self.daemon.state.trials.values()):
                verdict = Verdict(trial.id, VerdictKind.CONFIRM, "a measurement", effect=0.5)
                self.daemon.dispatch(ActorSaid(clock(), verdict))
            self.daemon.dispatch(Observed(clock(), {rule.when[0].metric: 0.0}, host=False))

    @property
    def held(self) -> int:
        return len(self.daemon.state.held)

    def tick(self) -> float:
        """Its CPU time, in microseconds."""
        self.t += 1.0
        for fd, mask in self.daemon.epoll.poll(0):  # what others' processes do meanwhile is not of the tick
            self.daemon.handlers[fd](mask)
        start = time.process_time_ns()
        self.daemon.tick(self.t)
        return (time.process_time_ns() - start) / 1e3

    def audit(self) -> float:
        """That of the comparison of all knobs with the kernel, which is part of a tick."""
        start = time.process_time_ns()
        self.hands.foreign()
        return (time.process_time_ns() - start) / 1e3

    def look(self) -> float:
        """That of the look at the host."""
        start = time.process_time_ns()
        self.daemon.sense.observe(self.t)
        return (time.process_time_ns() - start) / 1e3

    def end(self) -> None:
        self.daemon.dispatch(Stop(clock(), "the end"))
        self.daemon.close()
        self.hands.close()


@contextmanager
def daemons(values: dict[str, Value], place: Path) -> Iterator[tuple[Ticked, Ticked, Ticked, Ticked]]:
    """With the default policy; with none, FEW and all others of these knobs changed."""
    policy = policy_of(values)
    with ExitStack() as ended:

        def start(name: str, policy: Policy | None) -> Ticked:
            one = Ticked(place / name, policy)
            ended.callback(one.end)
            return one

        running = start("default", None), start("none", policy), start("few", policy), start("many", policy)
        running[2].manage(policy.rules[:FEW])  # no knob can be two daemons' at a time
        running[3].manage(policy.rules[FEW:])
        yield running


def texts(ids: Sequence[str]) -> dict[str, str]:
    access = adapters()
    catalogue = Catalogue(load(), access)
    return {id: access[catalogue[id].adapter].read_text(catalogue[id]) for id in ids}


class Found(msgspec.Struct):
    """CPU microseconds of each tick, and of two parts of it measured apart."""

    v: int
    load: tuple[tuple[float, ...], tuple[float, ...]]
    kinds: dict[str, int]  # of the most knobs: kind of adapter -> how many
    rules: int
    held: list[int]  # knobs of each daemon, at the start and at the end
    still_held: list[int]
    ticks_us: list[list[float]]
    audits_us: list[list[float]]
    looks_us: list[list[float]]
    not_put_back: dict[str, tuple[str, str]]  # knob -> what it showed before, and shows now


def measure(ticks: int, many: int) -> Found:
    before = os.getloadavg()
    with ExitStack() as made:
        made.enter_context(interfaces())  # and a /sys of its own, so this comes first
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
        disks = made.enter_context(spare())
        place = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="tick-bench-")))
        values = choose(many + FEW, disks, place / "chosen")
        originals = texts(list(values))
        with daemons(values, place) as running:
            found = Found(
                v=1,
                load=(before, before),
                kinds=kinds(running[-1]),
                rules=len(values),
                held=[one.held for one in running],
                still_held=[],
                ticks_us=[[] for _ in running],
                audits_us=[[] for _ in running],
                looks_us=[[] for _ in running],
                not_put_back={},
            )
            for one in running:
                one.tick()
            for _ in range(ticks):
                for number, one in enumerate(running):
                    found.ticks_us[number].append(one.tick())
                    time.sleep(EVERY_S)
                for number, one in enumerate(running):
                    found.audits_us[number].append(one.audit())
                    found.looks_us[number].append(one.look())
            found.still_held = [one.held for one in running]
        after = texts(list(values))
    found.not_put_back = {id: (was, after[id]) for id, was in originals.items() if was != after[id]}
    found.load = before, os.getloadavg()
    return found


def kinds(one: Ticked) -> dict[str, int]:
    return Counter(one.hands.catalogue[knob].adapter for knob in one.daemon.state.held)


def show(found: Found) -> None:
    loads = " -> ".join(" ".join(f"{x:.1f}" for x in load) for load in found.load)
    print(f"load average {loads}; {found.rules} rules, {NAMED} metrics, microseconds of CPU time")
    print("knobs of", ", ".join(f"{kind} {n}" for kind, n in sorted(found.kinds.items())))
    print("changed                 n    median     p95     max     the look   the audit")
    for number, ticks in enumerate(found.ticks_us):
        what = f"{found.held[number]}" + (" (default policy)" if number == 0 else "")
        look, audit = median(found.looks_us[number]), median(found.audits_us[number])
        print(
            f"{what:20} {len(ticks):4} {median(ticks):9.0f} {at(ticks, 0.95):7.0f} {max(ticks):7.0f} "
            f"{look:12.0f} {audit:11.0f}"
        )
    if found.still_held != found.held:
        print(f"by others' writes {found.still_held} of these were left at the end")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tick_bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=300)
    parser.add_argument("--knobs", type=int, default=120)
    parser.add_argument("--json", action="store_true", help="one document with every sample")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("tick_bench writes kernel knobs and makes a network namespace: run it as root")
        return 2
    if not args.inside:
        again = [sys.executable, "-m", "workloads.tick_bench", *(sys.argv[1:] if argv is None else argv)]
        with alone():
            done = subprocess.run(
                ["unshare", "--net", "--mount", *again, "--inside"], cwd=CHECKOUT, check=False
            )
        return done.returncode
    found = measure(args.ticks, args.knobs)
    if args.json:
        print(msgspec.json.encode(found).decode())
    else:
        show(found)
    for id, (was, now) in found.not_put_back.items():
        print(f"{id} shows {now!r}, was {was!r}", file=sys.stderr)
    return 1 if found.not_put_back else 0


if __name__ == "__main__":
    sys.exit(main())
