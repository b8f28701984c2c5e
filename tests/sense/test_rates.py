from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuned_spec.sense.metrics import CPU_TIME, METRICS, Kind
from tuned_spec.sense.rates import compute, delta
from tuned_spec.sense.reading import Reading, Rows

SOURCES: dict[str, set[str]] = {}
for _metric in METRICS.values():
    SOURCES.setdefault(_metric.source, set()).update(_metric.fields)
    SOURCES.setdefault(_metric.over_source or _metric.source, set()).update(_metric.over)

counters: st.SearchStrategy[float] = st.one_of(
    st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(2**32 - 50, 2**32 - 1)
)


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Any subset of sources, rows and fields, with any counters."""
    sources: dict[str, Rows] = {}
    for name in draw(st.lists(st.sampled_from(sorted(SOURCES)), unique=True, max_size=4)):
        fields = st.dictionaries(st.sampled_from(sorted(SOURCES[name])), counters, max_size=9)
        sources[name] = draw(st.dictionaries(st.sampled_from(["", "0", "1", "sda"]), fields, max_size=3))
    return Reading(draw(st.floats(-1e6, 1e6)), sources)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(readings(), readings())
def test_rates_are_never_negative_and_shares_within_0_and_1(old: Reading, new: Reading) -> None:
    for name, value in compute(METRICS, old, new).items():
        assert math.isfinite(value), name
        assert value >= 0, name
        if METRICS[name].unit == "share":
            assert value <= 1, name


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(readings(), readings())
def test_a_missing_source_leaves_its_names_out(old: Reading, new: Reading) -> None:
    for name in compute(METRICS, old, new):
        metric = METRICS[name]
        assert metric.source in new.sources
        if metric.kind in (Kind.RATE, Kind.RATIO):
            assert metric.source in old.sources


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(readings(), readings())
def test_no_time_no_rates(a: Reading, b: Reading) -> None:
    older, newer = sorted((a, b), key=lambda reading: reading.t)
    for values in (compute(METRICS, newer, older), compute(METRICS, None, newer), compute(METRICS, a, a)):
        assert all(METRICS[name].kind in (Kind.LEVEL, Kind.LEVEL_RATIO) for name in values)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_delta_inverts_growth_of_64_bits(before: int, growth: int) -> None:
    assert delta("ctxt", before, (before + growth) % 2**64) == growth


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**30 - 1))
def test_delta_inverts_growth_of_32_bits(before: int, growth: int) -> None:
    assert delta("busy_ms", before, (before + growth) % 2**32) == growth


def test_wrap_and_reset() -> None:
    assert delta("dropped", 2**32 - 5, 5) == 10
    assert delta("ctxt", 2**64 - 5, 5) == 10
    assert delta("ctxt", 2**32 - 5, 5) is None  # a counter of 64 bits does not wrap there: it was reset
    assert delta("dropped", 1000, 5) is None
    assert delta("idle", 1000, 999) == 0


def one(source: str, t: float, fields: dict[str, float]) -> Reading:
    return Reading(t, {source: {"": fields}})


def test_cpu_shares_add_up() -> None:
    old = one("/proc/stat", 0.0, dict.fromkeys(CPU_TIME, 100))
    new = one("/proc/stat", 2.0, {name: 100 + 10 * at for at, name in enumerate(CPU_TIME)})
    values = compute(METRICS, old, new)
    assert math.isclose(values["cpu.busy"] + values["cpu.idle"] + values["cpu.iowait"], 1.0)
    assert math.isclose(values["cpu.user"] + values["cpu.system"] + values["cpu.steal"], values["cpu.busy"])


def test_a_reset_is_unknown_for_one_interval_only() -> None:
    high, low, later = (
        one("/proc/vmstat", t, {"pgscan_direct": n}) for t, n in ((0.0, 900), (1.0, 5), (2.0, 15))
    )
    assert "vm.pgscan_direct_per_s" not in compute(METRICS, high, low)
    assert compute(METRICS, low, later)["vm.pgscan_direct_per_s"] == 10.0


def test_a_ratio_over_nothing_is_unknown() -> None:
    quiet: dict[str, float] = {"Tcp.OutSegs": 10, "Tcp.RetransSegs": 1}
    old, new = one("/proc/net/snmp", 0.0, quiet), one("/proc/net/snmp", 1.0, quiet)
    assert "tcp.retrans_share" not in compute(METRICS, old, new)
    sent = one("/proc/net/snmp", 1.0, {"Tcp.OutSegs": 13, "Tcp.RetransSegs": 2})
    assert compute(METRICS, old, sent)["tcp.retrans_share"] == 0.25


def test_a_stall_is_a_share_of_the_interval_and_at_most_one() -> None:
    old = one("/proc/pressure/io", 0.0, {"some": 0, "full": 0})
    new = one("/proc/pressure/io", 2.0, {"some": 500_000, "full": 2_100_000})
    values = compute(METRICS, old, new)
    assert values["psi.io.some"] == 0.25
    assert values["psi.io.full"] == 1.0


def test_disk_metrics_are_of_the_busiest_disk() -> None:
    def disk(busy_ms: int, reads: int, read_ms: int, inflight: int) -> dict[str, float]:
        moved = {"read_sectors": reads * 8, "write_sectors": 0, "writes": 0, "write_ms": 0}
        return {"busy_ms": busy_ms, "reads": reads, "read_ms": read_ms, "inflight": inflight, **moved}

    old = Reading(0.0, {"/proc/diskstats": {"a": disk(0, 0, 0, 0), "b": disk(2**32 - 100, 0, 0, 0)}})
    new = Reading(1.0, {"/proc/diskstats": {"a": disk(100, 9, 9, 7), "b": disk(400, 4, 10, 2)}})
    values = compute(METRICS, old, new)
    assert values["disk.util"] == 0.5
    assert values["disk.inflight"] == 2
    assert values["disk.read_ms"] == 2.5
    assert values["disk.read_bytes_per_s"] == 4 * 4096
    assert values["disk.read_share"] == 1.0
    assert "disk.write_ms" not in values


def test_a_row_that_came_or_went_does_not_count() -> None:
    old = Reading(0.0, {"/proc/net/softnet_stat": {"0": {"dropped": 2**32 - 1}, "1": {"dropped": 5}}})
    new = Reading(1.0, {"/proc/net/softnet_stat": {"0": {"dropped": 1}, "2": {"dropped": 70}}})
    assert compute(METRICS, old, new)["net.softnet_dropped_per_s"] == 2.0
