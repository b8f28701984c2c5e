"""What a slow actor costs: a real daemon and actor process, and an endpoint of ours that thinks so long.

    python -m workloads.actor_bench [--latencies 1,5,15,60] [--rounds 3] [--only NAME] [--quick] [--json]

reaction   from the datagram whose value crosses the level to the knob's new value in /proc: while the actor
           has nothing to do, and while it measures or thinks about another change
confirmed  from a figure going bad to a setting that is kept, and how much of that time the better value was
           in force; written first (lossy) beside the same actor alone, where nothing is written that it did
           not ask for (lossless)
memory     of the daemon and of the actor's process after so many judged changes, with a model and without

In each section the arms take turns in an order drawn anew each round. "trial" is the actor that asks no
model. The model is `workloads.endpoint`: it confirms after so many seconds and knows nothing, so this shows
what waiting costs, never how well a model judges. What is tuned is `workloads.following`. The knobs belong to
a network namespace that is made for each daemon, and are compared at its end.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import median

from tuned_spec import paths
from tuned_spec.daemon.shell import clock
from tuned_spec.ledger.history import Entry, read
from workloads import figures, following
from workloads.cost_bench import memory_mib
from workloads.endpoint import MODEL, Asked, Endpoint, Say
from workloads.figures import Row, reaction
from workloads.running import FILES, HERE, LOWAT, Daemon, own_network, seen_changed, wait_for

LATENCIES_S = (1.0, 5.0, 15.0, 60.0)
TRIAL = None  # the arm without a model
SLACK_S = 0.5  # a repetition begins no later than this before an answer of the model
MOST_S = 60.0  # for a trial and what follows it, beside the model's thinking
LOOK_S = 0.002  # between two looks at the knob
KEPT = ("confirmed", "overwritten")

POLICY = """
version: 1
mode: lossy
settings: {changes_per_minute: 600, toggles_per_minute: 6000, rest: 0s}
metrics:
  app.p95_ms: {owner: root, stale: 3s}
  app.other_ms: {owner: root}
rules:
  - id: follow
    reason: What waits in a queue below TCP delays what comes after it; a shorter queue should help.
    source: a guess that happens to be right, for a measurement
    when: [app.p95_ms > 14 clear 12]
    do: {net.ipv4.tcp_limit_output_bytes: set 1MiB}
    expect: app.p95_ms falls by 10%
    cooldown: 0s
    settle: 0.05s
    dwell: 0.2s
    lease: 60s
  - id: other
    reason: a measurement
    source: none
    when: [app.other_ms > 10 clear 5]
    do: {net.ipv4.tcp_notsent_lowat: set 131072}
    expect: app.other_ms falls by 10%
    cooldown: 0s
    settle: 0.05s
    dwell: 0.2s
    lease: 60s
"""
ACTOR = """
version: 1
model: {provider: openai, endpoint: "ENDPOINT", name: MODEL, timeout: 100s, tries: 1}
review: {time: 120s, often: 0}  # asked each time, whatever is remembered
"""


class Thinker:
    """The model: it confirms whatever it is asked, `latency_s` later."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.asked: list[float] = []  # when

    def __call__(self, asked: Asked) -> Say:
        self.asked.append(clock())
        return Say(confirm(asked), wait_s=self.latency_s)

    def thinks(self) -> bool:
        """And will for at least SLACK_S."""
        return bool(self.asked) and clock() < self.asked[-1] + self.latency_s - SLACK_S


def confirm(asked: Asked) -> str:
    """A usable yes: the knobs' names, as they are shown to a model, are in the schema of its reply."""
    whole = asked.schema["properties"] if asked.schema else {}
    knobs = whole["knobs"]["anyOf"][0]["properties"] if whole else ()
    said = {"knobs": {name: {"verdict": "confirm"} for name in knobs}, "reason": "so the trial found"}
    return json.dumps({**dict.fromkeys(whole), **said, "confidence": 0.9})


class Scene:
    """A daemon in its mode, the endpoint its actor asks, and the program that it tunes for."""

    def __init__(self, running: Daemon, thinker: Thinker | None) -> None:
        self.running, self.thinker = running, thinker

    @contextmanager
    def program(self) -> Iterator[float]:
        """When it was begun."""
        socket = str(self.running.runtime / paths.METRICS)
        words = [sys.executable, "-m", "workloads.following", "--for", "900", "--socket", socket]
        begun = clock()
        process = subprocess.Popen(words, cwd=HERE, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield begun
        finally:
            process.terminate()
            process.wait(10)

    def kept(self, since: float) -> Entry | None:
        """The first setting that was kept since."""
        return next((e for e in read(self.running.state, kinds=KEPT) if e.t > since), None)

    def applied(self, rule: str, since: float) -> list[float]:
        """When that rule's changes since then were made, as the daemon has it."""
        made = read(self.running.state, kinds=("applied",))
        return [e.t for e in made if e.rule == rule and e.t > since]

    def busy(self) -> bool:
        """Its actor has a case before it; with a model: that thinks about it."""
        if self.thinker is not None:
            return self.thinker.thinks()
        return any(trial["rule"] == "follow" for trial in self.running.status().get("open", ()))

    def again(self) -> None:
        """All back, and it may begin anew."""
        self.running.ask("restore")
        self.running.ask("resume")

    def check_judges(self) -> None:
        """Each verdict that kept something was the model's too, where there is one."""
        for verdict in read(self.running.state, kinds=("verdict",)):
            by = str(verdict.data.get("by", "trial"))
            judged = verdict.data["kind"] == "reject" or ("model" in by) == (self.thinker is not None)
            assert judged, f"judged by {by}: {verdict.data['reason']}"


@contextmanager
def scene(latency_s: float | None, mode: str = "lossy") -> Iterator[Scene]:
    with own_network(), tempfile.TemporaryDirectory(prefix="actor-bench-") as name:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        place = Path(name)
        policy = place / "bench.yaml"
        policy.write_text(POLICY)
        if latency_s is None:
            with started(place, policy, mode, None) as running:
                yield Scene(running, None)
        else:
            thinker = Thinker(latency_s)
            with Endpoint(thinker) as endpoint:
                actor = place / "actor.yaml"
                actor.write_text(ACTOR.replace("ENDPOINT", endpoint.url()).replace("MODEL", MODEL))
                with started(place, policy, mode, actor) as running:
                    yield Scene(running, thinker)


@contextmanager
def started(place: Path, policy: Path, mode: str, actor: Path | None) -> Iterator[Daemon]:
    running = Daemon(place, str(policy), mode=mode, actor=actor)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


def called(latency_s: float | None) -> str:
    return "trial" if latency_s is None else f"model {latency_s:g} s"


def drawn(latencies: Sequence[float]) -> list[float | None]:
    """The arms of one round, in an order of their own."""
    arms: list[float | None] = [TRIAL, *latencies]
    random.shuffle(arms)
    return arms


# -------------------------------------------------------------------------------- reaction


def by_reaction(latencies: Sequence[float], rounds: int, times: int) -> list[Row]:
    took: dict[tuple[str, float | None], list[list[float]]] = {}
    for _ in range(rounds):
        for arm in drawn(latencies):
            with scene(arm) as at:
                fresh = [react(at) for _ in range(2 * times)]
                took.setdefault(("idle", arm), []).append(fresh)
                took.setdefault(("busy", arm), []).append(while_busy(at, times))
    rows = []
    for state, what in (("idle", "the actor has nothing to do"), ("busy", "it judges another change")):
        base = took[state, TRIAL]
        for arm in (TRIAL, *latencies):
            samples = took[state, arm]
            rows.append(reaction(f"{what}: {called(arm)}", None, list(chain(*samples))))
            if arm is not TRIAL:
                ratios = [median(a) / median(b) for a, b in zip(samples, base, strict=True)]
                whole = median(chain(*samples)) / median(chain(*base))
                rows.append(Row("  over the trial's, same rounds", "x", 1.1, ratios, whole))
    return rows


def react(at: Scene) -> float:
    """Seconds from a value across the level to the knob's new one; it is put back after."""
    at.running.send(1, "other_ms")
    time.sleep(random.uniform(0.02, 0.15))  # so that the daemon sleeps, at no fixed place in its tick
    original = {LOWAT: FILES[LOWAT].read_bytes()}
    start = clock()
    at.running.send(100, "other_ms")
    seen = seen_changed(original, 5)[LOWAT]
    # The trial may have gone on to arm A before we came to look: then the daemon's record has the time.
    wait_for(lambda: at.applied("other", start), 5, "no change is on record")
    at.running.send(1, "other_ms")  # before it is put back: it would be changed again at once
    at.running.ask("restore", LOWAT)
    at.running.ask("resume")
    return min(seen, *at.applied("other", start)) - start


def while_busy(at: Scene, times: int) -> list[float]:
    took: list[float] = []
    with at.program():
        end = clock() + times * (2 + MOST_S)
        while len(took) < times:
            assert clock() < end, f"only {len(took)} times while the actor was busy"
            if at.busy():
                took.append(react(at))
            elif at.kept(0.0) and not at.running.status()["open"]:
                at.again()
            else:
                time.sleep(0.05)
    at.check_judges()
    return took


# ------------------------------------------------------------------------------- confirmed


def by_confirmed(latencies: Sequence[float], rounds: int) -> list[Row]:
    whole: dict[tuple[str, float | None], list[float]] = {}
    better: dict[tuple[str, float | None], list[float]] = {}
    for _ in range(rounds):
        for arm in drawn(latencies):
            for mode in random.sample(("lossy", "lossless"), 2):
                seconds, had = confirmed(arm, mode)
                whole.setdefault((mode, arm), []).append(seconds)
                better.setdefault((mode, arm), []).append(had)
    rows = []
    for arm in (TRIAL, *latencies):
        for mode in ("lossy", "lossless"):
            all_s, had_s = whole[mode, arm], better[mode, arm]
            shares = [had / seconds for had, seconds in zip(had_s, all_s, strict=True)]
            note = f"the better value was in force for {median(had_s):.1f} s of it ({median(shares):.0%}, "
            note += f"{min(shares):.0%} to {max(shares):.0%})"
            rows.append(Row(f"kept after, {called(arm)}, {mode}", "s", None, all_s, median(all_s), note))
    return rows


def confirmed(arm: float | None, mode: str) -> tuple[float, float]:
    """Seconds until a setting was kept, and those of them in which the better value was in force."""
    with scene(arm, mode) as at, at.program() as begun:
        seen: list[tuple[float, bool]] = [(begun, False)]
        end, look_at = clock() + MOST_S + 3 * (arm or 0.0), 0.0
        kept = None
        with following.FILE.open("rb", buffering=0) as file:
            while kept is None:
                now = clock()
                assert now < end, f"nothing was kept: {[e.kind for e in read(at.running.state)]}"
                file.seek(0)
                best = int(file.read()) == following.BEST
                if best != seen[-1][1]:
                    seen.append((now, best))
                if now > look_at:
                    kept, look_at = at.kept(begun), now + 0.2
                time.sleep(LOOK_S)
        at.check_judges()
    ends = [t for t, _ in seen[1:]] + [kept.t]
    had = sum(max(0.0, min(until, kept.t) - t) for (t, best), until in zip(seen, ends, strict=True) if best)
    return kept.t - begun, had


# ---------------------------------------------------------------------------------- memory


def by_memory(reviews: int) -> list[Row]:
    """The daemon's figure is RSS, since PSS depends on who else runs Python."""
    rows = []
    for arm in random.sample((TRIAL, 0.0), 2):
        with scene(arm) as at:
            time.sleep(5)
            who = {"daemon": at.running.process.pid, "actor": int(at.running.status()["actor"]["pid"])}
            before = {name: memory_mib(pid) for name, pid in who.items()}
            for _ in range(reviews):
                with at.program() as begun:
                    wait_for(lambda begun=begun: at.kept(begun), MOST_S, "nothing was kept")  # type: ignore[misc]
                at.again()
            at.check_judges()
            for name, pid in who.items():
                rss, pss = memory_mib(pid)
                note = f"PSS {pss:.1f}; before the first RSS {before[name][0]:.1f}, PSS {before[name][1]:.1f}"
                judge = "the trial" if arm is None else "a model and the trial"
                rows.append(Row(f"{name}, {reviews} changes by {judge}", "MiB", None, [rss], rss, note))
    return sorted(rows, key=lambda row: row.what)


# ------------------------------------------------------------------------------------------


def sections(latencies: Sequence[float], rounds: int) -> figures.Sections:
    def once(measure: Callable[[int], list[Row]]) -> Callable[[bool], list[Row]]:
        return lambda quick: measure(1 if quick else rounds)

    return {
        "reaction": lambda quick: by_reaction(latencies, 1 if quick else rounds, 3 if quick else 15),
        "confirmed": once(lambda rounds: by_confirmed(latencies, rounds)),
        "memory": lambda quick: by_memory(2 if quick else 20),
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--latencies", default=",".join(f"{s:g}" for s in LATENCIES_S))
    parser.add_argument("--rounds", type=int, default=3)
    args, rest = parser.parse_known_args(argv)
    latencies = [float(word) for word in args.latencies.split(",")]
    return figures.main(rest, "actor_bench", __doc__ or "", sections(latencies, args.rounds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
