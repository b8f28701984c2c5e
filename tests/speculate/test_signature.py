"""Signatures: scale, what is unknown, distances, and the watch for changes; then real workloads."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.speculate.workloads import FIRST, OTHER, THIRD, captured
from tuned_spec.sense.metrics import METRICS
from tuned_spec.speculate.signature import (
    FEATURES,
    IDLE_CPUS,
    KEEP,
    LEAST_SHARED,
    LIMIT,
    NEEDS,
    Signature,
    Watched,
    differences,
    distance,
    mean,
    signature,
    watch,
)
from workloads.signature_bench import walk_through

SHARES = {name for name in NEEDS if METRICS[name].unit == "share"}
values = st.fixed_dictionaries(
    {name: st.floats(0, 0.4) if name in SHARES else st.floats(0, 1e6) for name in NEEDS}
    | {"cpu.busy": st.floats(IDLE_CPUS, 0.4)}
)
signatures = st.builds(
    Signature,
    st.fixed_dictionaries({name: st.floats(-LIMIT, LIMIT).map(lambda x: round(x, 3)) for name in FEATURES}),
)


def test_it_needs_only_metrics_that_exist() -> None:
    assert set(METRICS) >= NEEDS
    assert "cpu.busy" in NEEDS and "cpu.iowait" in NEEDS


@settings(deadline=None)
@given(values, st.sampled_from([0.5, 1.5, 2.0]))
def test_more_of_the_same_is_the_same(seen: dict[str, float], times: float) -> None:
    once = signature(seen, cpus=4)
    scaled = signature({name: value * times for name, value in seen.items()}, cpus=4)
    assert once and scaled
    assert distance(once, scaled) < 0.05


@settings(deadline=None)
@given(values)
def test_features_are_bounded_and_known(seen: dict[str, float]) -> None:
    made = signature(seen)
    assert made and made.features.keys() == FEATURES.keys()
    assert all(-LIMIT <= x <= LIMIT for x in made.features.values())


def test_idle_is_no_workload() -> None:
    seen = dict.fromkeys(NEEDS, 0.0) | {"cpu.busy": 0.03}
    assert signature(seen, cpus=2) is None
    assert signature(seen, cpus=64) is not None  # two CPUs' worth
    assert signature(seen | {"cpu.iowait": 0.3}, cpus=2) is not None
    assert signature(seen | {"cpu.busy": math.nan}, cpus=2) is None
    assert signature({}, cpus=2) is None


def test_what_is_unknown_is_left_out_and_too_little_is_nothing() -> None:
    seen = dict.fromkeys(NEEDS, 0.1)
    without_psi = {name: x for name, x in seen.items() if not name.startswith("psi.")}
    made = signature(without_psi)
    assert made and made.features.keys() == FEATURES.keys() - {"queue", "stall"}
    assert signature({name: seen[name] for name in ("cpu.busy", "cpu.user", "cpu.system")}) is None
    assert signature(seen | {"cpu.ctxt_per_s": math.inf}).features.keys() == FEATURES.keys() - {"switches"}  # type: ignore[union-attr]


@settings(deadline=None)
@given(signatures, signatures)
def test_distance_is_one(a: Signature, b: Signature) -> None:
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) >= 0
    assert distance(a, b) == max(differences(a, b).values())


@settings(deadline=None)
@given(signatures, st.sets(st.sampled_from(sorted(FEATURES))))
def test_a_feature_known_on_one_side_does_not_bring_them_nearer_for_free(
    a: Signature, lost: set[str]
) -> None:
    part = Signature({name: x for name, x in a.features.items() if name not in lost})
    enough = len(FEATURES) - len(lost) >= LEAST_SHARED * len(FEATURES)
    assert (distance(a, part) == 0) if enough else math.isinf(distance(a, part))
    assert distance(part, a) == distance(a, part)


def test_a_steady_workload_is_judged_more_narrowly_and_a_restless_one_no_more_widely() -> None:
    scatter = FEATURES["kernel"].scatter
    moved = Signature(FIRST.features | {"kernel": 2 * scatter})
    restless, steady = (
        Signature(FIRST.features, dict.fromkeys(FEATURES, square), n=100) for square in (9 * scatter**2, 0.0)
    )
    assert distance(moved, restless) == distance(moved, FIRST) < distance(moved, steady)


@settings(deadline=None)
@given(st.lists(signatures, min_size=1, max_size=6))
def test_mean_of_means_is_the_mean(all_: list[Signature]) -> None:
    together, parts = mean(all_), mean([mean(all_[:1]), *([mean(all_[1:])] if all_[1:] else [])])
    assert together.n == parts.n == len(all_)
    for name in FEATURES:
        assert abs(together.features[name] - parts.features[name]) < 0.01
        assert abs(together.spread[name] - parts.spread[name]) < 0.05


# ------------------------------------------------------------------------------------ watch


def watched(*seen: Signature | None) -> tuple[Watched, list[bool]]:
    memory, said = Watched(), []
    for t, one in enumerate(seen):
        memory, changed = watch(memory, one, float(t))
        said.append(changed)
    return memory, said


def test_a_jump_is_a_change_at_once_and_only_once() -> None:
    memory, said = watched(FIRST, FIRST, FIRST, OTHER, OTHER, OTHER)
    assert said == [False, False, False, True, False, False]
    assert memory.usual is not None and distance(memory.usual, OTHER) < 0.1 and memory.since == 3.0


def test_the_mixed_observation_of_a_change_is_forgotten() -> None:
    mixed = Signature({name: 0.5 * (FIRST.features[name] + OTHER.features[name]) for name in FEATURES})
    memory, said = watched(FIRST, FIRST, mixed, OTHER, OTHER)
    assert said.count(True) <= 2 and memory.usual is not None
    assert distance(memory.usual, OTHER) < 0.1


def test_a_smaller_shift_needs_two_observations_and_one_spike_is_none() -> None:
    shifted = Signature(FIRST.features | {"tcp": FIRST.features["tcp"] + 6 * FEATURES["tcp"].scatter})
    assert watched(FIRST, FIRST, shifted, FIRST, FIRST, shifted, FIRST)[1] == [False] * 7
    assert watched(FIRST, FIRST, shifted, shifted)[1] == [False, False, False, True]


def test_idling_is_no_change_and_the_memory_is_bounded() -> None:
    memory, said = watched(*[FIRST] * 20, None, None, None, FIRST)
    assert not any(said) and len(memory.recent) == KEEP
    assert watched(FIRST, FIRST, None, THIRD)[1] == [False, False, False, True]


@settings(deadline=None)
@given(st.lists(st.none() | signatures, max_size=20))
def test_watch_takes_anything(all_: list[Signature | None]) -> None:
    assert watched(*all_) == watched(*all_)
    assert len(watched(*all_)[0].recent) <= KEEP


def test_real_changes_are_seen_and_false_alarms_are_few() -> None:
    ticks = list(walk_through(captured()))
    began = {tick.place for tick, _, _ in ticks if tick.workload != "idle"}
    seen = {tick.place for tick, _, changed in ticks if changed and tick.tick <= 1}
    later = [changed for tick, _, changed in ticks if tick.tick > 2]
    print(
        f"{len(seen & began)} of {len(began)} changes seen at once, {sum(later)} alarms in {len(later)} ticks"
    )
    assert len(seen & began) >= 0.75 * len(began)
    assert sum(later) <= 0.03 * len(later)
