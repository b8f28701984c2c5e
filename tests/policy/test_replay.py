"""What each shipped policy proposes on three recorded hosts."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tuned_spec.cli.policy import facts_of
from tuned_spec.knobs import catalogue
from tuned_spec.model import Mode, Observation, Policy, Value, Write
from tuned_spec.paths import shipped_policies
from tuned_spec.policy.load import load
from tuned_spec.policy.replay import Paper, Replay, replay
from tuned_spec.sense import metrics
from tuned_spec.sense.trace import Trace

TRACES = Path(__file__).parent / "traces"
SHIPPED = sorted(path.stem for path in shipped_policies().glob("*.yaml"))
ENTRIES = catalogue.load()


@functools.cache
def trace(name: str) -> Trace:
    return Trace(TRACES / f"{name}.jsonl.gz")


def policy_for(name: str, paper: Paper, facts: dict[str, float]) -> Policy:
    return load(
        [name],
        shipped=shipped_policies(),
        dropins=None,
        catalogue=paper,
        metrics=metrics.known,
        uid_of=lambda user: 0,
        facts=facts,
        sensed={name: metric.per for name, metric in metrics.METRICS.items()},
    ).policy


def through(
    name: str, policy: str, mode: Mode = Mode.OBSERVE, more: dict[str, Value] | None = None
) -> Replay:
    header = trace(name).header
    facts = dict(facts_of(header))
    values = {**header.knobs, **(more or {})}
    paper = Paper(ENTRIES, facts, values)
    return replay(policy_for(policy, paper, facts), trace(name), paper, values, mode=mode, cpus=header.cpus)


@pytest.mark.parametrize("name", sorted(path.name.partition(".")[0] for path in TRACES.iterdir()))
def test_the_traces_tell_what_a_replay_needs_and_nothing_of_their_host(name: str) -> None:
    header = trace(name).header
    seen = list(trace(name))
    assert 60 <= len(seen) <= 120 and header.note and header.facts["ram"] == header.memory_bytes
    assert set(header.kernel) <= set("0123456789."), "a build's name"
    assert header.knobs["net.core.somaxconn"] == 4096 and "block.read_ahead_kb@vda" in header.knobs
    assert not [knob for knob in header.knobs if ENTRIES[knob.partition("@")[0]].per in ("nic", "cgroup")]


# what is proposed on each: policy -> rules, in order; a policy that is not named proposes nothing
STORM = {"web": ["longer-accept-queue"], "network-server": ["longer-accept-queue"]}
FSYNC = {
    "database": ["write-back-earlier"],
    "desktop": ["write-back-earlier"],
    "virtualisation-host": ["write-back-earlier", "poll-less-when-crowded"],
    "low-latency": ["reads-before-writes@vda", "write-back-earlier"],
}
CROWD = {"virtualisation-host": ["poll-less-when-crowded"]}


@pytest.mark.parametrize("policy", SHIPPED)
@pytest.mark.parametrize(
    ("name", "expected"), [("web-storm", STORM), ("fsync-beside-reader", FSYNC), ("crowd", CROWD)]
)
def test_what_each_policy_would_have_proposed(name: str, expected: dict[str, list[str]], policy: str) -> None:
    found = through(name, policy)
    assert list(dict.fromkeys(one.rule for one in found.proposed)) == expected.get(policy, [])
    rules = {one.rule for one in found.proposed} | {one.rule for one in found.refused}
    assert not rules & set(found.quiet)
    assert through(name, policy) == found, "the same trace, the same answer"


def test_the_storm_begins_and_the_rule_sees_it_at_once() -> None:
    first, *_ = through("web-storm", "web").proposed
    name = "tcp.listen_overflows_per_s"
    values = {observation.t: observation.values[name] for observation in trace("web-storm")}
    begun = min(t for t, overflows in values.items() if overflows > 0)
    assert begun <= first.t <= begun + 2
    assert first.before == (Write("net.core.somaxconn", 4096),)
    assert first.writes == (Write("net.core.somaxconn", 8192),)
    assert first.seen == {name: values[max(t for t in values if t <= first.t)]}


def test_a_starting_value_decides() -> None:
    small = through("web-storm", "web", more={"net.core.somaxconn": 128})
    assert small.proposed[0].writes == (Write("net.core.somaxconn", 256),)
    full = through("web-storm", "web", more={"net.core.somaxconn": 32768})
    assert not full.proposed
    assert "no_change" in {one.code for one in full.refused}, "at the limit's end"


def test_what_the_trace_does_not_tell_is_asked_for_by_name() -> None:
    """Debugfs was locked on that host: nobody knows the slice."""
    found = through("crowd", "desktop")
    assert found.unknown == {"sched.base_slice_ns": ("shorter-slices-when-crowded",)}
    told = through("crowd", "desktop", more={"sched.base_slice_ns": 3_000_000})
    assert told.unknown == {}
    assert told.proposed[0].writes == (Write("sched.base_slice_ns", 1_500_000),)


def test_the_envelope_has_the_last_word() -> None:
    found = through("web-storm", "web")
    assert {(one.rule, one.code) for one in found.refused} >= {("longer-accept-queue", "cooldown")}


def test_rules_that_cannot_be_heard_are_named() -> None:
    found = through("web-storm", "web")
    assert found.deaf["larger-send-buffers"] == ("app.p95_ms",)
    assert "longer-accept-queue" not in found.deaf


def test_unanswered_proposals_are_taken_back_and_tried_once() -> None:
    found = through("fsync-beside-reader", "low-latency", Mode.LOSSY)
    assert found.proposed, "the same rules hold"
    tried = [one.rule for one in found.proposed]
    assert len(tried) == len(set(tried)), "its trial is still open, or has just run out"


def group(t: float, pressure: float) -> Observation:
    """A host short of memory, with one service of 1 GiB."""
    name = "system.slice/a.service"
    values = {
        f"cgroup.psi.memory.some@{name}": pressure,
        f"cgroup.memory.refault_per_s@{name}": 0.0,
        f"cgroup.memory.current_bytes@{name}": float(1 << 30),
        "mem.available_share": 0.2,
    }
    return Observation(t, values)


@pytest.mark.parametrize(("pressure", "bites"), [(0.0, True), (0.02, False)])
def test_cold_memory_is_taken_in_small_bites_and_only_while_nobody_waits(
    pressure: float, bites: bool
) -> None:
    knob = "cgroup.memory.reclaim@system.slice/a.service"
    facts = {"page": 4096.0, "ram": 8.0 * (1 << 30), "cpus": 2.0}
    values: dict[str, Value] = {knob: 0}
    paper = Paper(ENTRIES, facts, values)
    seen = [group(float(t), pressure) for t in range(40)]
    found = replay(policy_for("batch", paper, facts), seen, paper, values)
    rules = [(one.rule, one.writes) for one in found.proposed]
    bite = (Write(knob, 32 << 20),)
    assert rules == ([("reclaim-what-is-cold@system.slice/a.service", bite)] if bites else [])
