"""What a tick costs where many knobs are changed: the daemon's own tick, on real knobs of the real kernel.

    python -m workloads.tick_bench [--ticks 300] [--knobs 120] [--json]

Four daemons (`daemon.serve.Daemon`, without its loop and its actor) are ticked in turn: one with the default
policy, and three with one rule for each of more than that many knobs, of which none, 12 and all of `--knobs`
are changed and confirmed. They were proposed, allowed, journaled, written and held the way all changes are;
the verdict is ours. Each rule names a metric of its own, as far as there are so many.

The knobs are as many kinds as there are here, one of each entry of the catalogue: those of a network namespace,
of interfaces, loop devices and a process made for it, and of the host's own only low-risk ones. Each gets the legal
value that is nearest to its own. All are put back and compared.

CPU time of this process, all threads. Time goes a second a tick for the daemon, so that what is done now and
then (every tenth second, say) falls in as many ticks as it does in reality; for us it goes faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median

import msgspec

from tuned_spec import paths
from tuned_spec.daemon.hands import Hands
from tuned_spec.daemon.log import Log
from tuned_spec.daemon.options import Options
from tuned_spec.daemon.serve import Daemon, clock
from tuned_spec.engine.events import ActorChanged, ActorSaid, Observed, Stop
from tuned_spec.errors import JournalError, KnobError
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
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
from workloads.round_trip import CHECKOUT, OURS, interfaces, others, spare
from workloads.trouble import alone

FEW = 12
NAMED = 64  # metrics that the rules name: three times as many as a shipped policy
NEVER = 1e11  # no metric of a host gets there by itself
EVERY_S = 0.02  # between ticks: a tick finds cold caches, a tight loop does not
# Kind of adapter -> how many at most; of the rest as many as are missing. Not the CPUs' own, which would slow down others.
MOST = {"block": 22, "link": 12, "ethtool": 8, "qdisc": 12, "queue": 3, "task": 6, "cgroup": 9, "sysfs": 16}
SYSCTLS = 200


def candidates(catalogue: Catalogue, disks: set[str]) -> Iterator[str]:
    """One knob of each entry of those kinds, what belongs to us alone before what is the host's."""
    places = {"disk": sorted(disks), "cgroup": [OURS], "task": [f"exe={OURS}"]}
    ours, hosts = [], []
    for id, entry in catalogue.items():
        if entry.risk is Risk.HIGH or entry.adapter not in (*MOST, "sysctl") or entry.stateless or entry.blocking:
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
    room = Counter(MOST | {"sysctl": SYSCTLS})
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
    return {id: chosen[id] for id in order[:count]}


def policy_of(values: dict[str, Value]) -> Policy:
    """A rule for each knob, which waits for a metric of its own."""
    files = (n for n, m in METRICS.items() if m.alone and m.kind is not Kind.REPORTED and m.source[0] == "/")
    metrics = list(islice(files, NAMED))
    rules = []
    for number, (knob, value) in enumerate(values.items()):
        metric = metrics[number % len(metrics)]
        rules.append(
            Rule(
                id=f"rule-{number}",
                when=(Condition(metric, ">", NEVER, NEVER / 2),),
                do=(Action(knob, Op.SET, value),),
                expect=Expect(metric, Way.DOWN, 0.5),
                reason="a measurement",
                confidence=0.9,
                source="none",
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
                metric_names=METRICS,
            ).policy
        self.hands = Hands(catalogue, access, Journal(options.runtime_dir, boot_id), clock)
        self.daemon = Daemon(options, policy, self.hands, boot_id, ())
        self.daemon.log = Log(os.open(os.devnull, os.O_WRONLY))
        self.daemon.dispatch(ActorChanged(clock(), True, "the bench judges"))
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
def daemons(values: dict[str, Value], many: int, place: Path) -> Iterator[dict[str, Ticked]]:
    policy = policy_of(values)
    running = {
        "default policy": Ticked(place / "default", None),
        "0 knobs": Ticked(place / "none", policy),
        f"{FEW} knobs": Ticked(place / "few", policy),
        f"{many} knobs": Ticked(place / "many", policy),
    }
    try:
        # No knob can be two daemons' at a time.
        running[f"{FEW} knobs"].manage(policy.rules[:: len(policy.rules) // FEW][:FEW])
        left = [r for r in policy.rules if r not in policy.rules[:: len(policy.rules) // FEW][:FEW]]
        running[f"{many} knobs"].manage(left)
        yield running
    finally:
        for one in running.values():
            one.end()


def texts(ids: Sequence[str]) -> dict[str, str]:
    access = adapters()
    catalogue = Catalogue(load(), access)
    return {id: access[catalogue[id].adapter].read_text(catalogue[id]) for id in ids}


def measure(ticks: int, many: int) -> dict[str, object]:
    before = os.getloadavg()
    with ExitStack() as made:
        made.enter_context(interfaces())  # and a /sys of its own, so this comes first
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
        disks = made.enter_context(spare())
        place = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="tick-bench-")))
        values = choose(many + FEW, disks, place / "chosen")
        originals = texts(list(values))
        with daemons(values, many, place) as running:
            held = {name: one.held for name, one in running.items()}
            kinds = Counter(one.knob.partition("@")[0] for one in ())
            access = adapters()
            catalogue = Catalogue(load(), access)
            managed = [h for h in running[f"{many} knobs"].daemon.state.held]
            kinds = Counter(catalogue[id].adapter for id in managed)
            for one in running.values():
                print(one.daemon.state.refusals, len(one.daemon.state.trials), one.daemon.inert[:5], len(one.daemon.inert), Counter(one.daemon.state.last_refusal.values()), list(one.daemon.state.last_refusal.items())[:4])
            spent: dict[str, list[float]] = {name: [] for name in running}
            parts: dict[str, dict[str, list[float]]] = {name: {"audit": [], "look": []} for name in running}
            for one in running.values():
                one.tick()
            for _ in range(ticks):
                for name, one in running.items():
                    spent[name].append(one.tick())
                    time.sleep(EVERY_S)
                for name, one in running.items():
                    parts[name]["audit"].append(one.audit())
                    parts[name]["look"].append(one.look())
            still = {name: one.held for name, one in running.items()}
        after = texts(list(values))
        left = {id: (originals[id], after[id]) for id in values if originals[id] != after[id]}
    return {
        "v": 1,
        "load": (before, os.getloadavg()),
        "kinds": dict(kinds),
        "held": held,
        "still_held": still,
        "ticks_us": spent,
        "parts_us": parts,
        "not_put_back": left,
    }


def share(samples: list[float], part: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * part))]


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
            done = subprocess.run(["unshare", "--net", "--mount", *again, "--inside"], cwd=CHECKOUT, check=False)
        return done.returncode
    found = measure(args.ticks, args.knobs)
    if args.json:
        print(json.dumps(found))
    else:
        print(found["load"], found["kinds"], found["held"], found["still_held"])
        for name, samples in found["ticks_us"].items():
            p = found["parts_us"][name]
            print(f"{name:16} n {len(samples)} median {median(samples):7.0f} p95 {share(samples, .95):7.0f} max {max(samples):7.0f}  audit {median(p['audit']):6.0f} look {median(p['look']):6.0f}")
    for id, (was, now) in found["not_put_back"].items():
        print(f"{id} shows {now!r}, was {was!r}", file=sys.stderr)
    return 1 if found["not_put_back"] else 0


if __name__ == "__main__":
    sys.exit(main())
