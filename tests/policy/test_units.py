"""Quantities and sentences: whatever is written, it is understood or said to be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.catalogue import CATALOGUE, FACTS
from tuned_spec.model import KnobType
from tuned_spec.policy import grammar, units
from tuned_spec.policy.units import Misfit


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.seconds, "200us", 0.0002),
        (units.seconds, "10m", 600.0),
        (units.seconds, "1.5h", 5400.0),
        (units.seconds, "0s", 0.0),
        (units.share, "5%", 0.05),
        (units.share, "0.3%", 0.003),
        (units.factor, "2x", 2.0),
        (units.plain, "-2.5", -2.5),
        (units.whole, "24", 24),
    ],
)
def test_quantities(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value


NO_QUANTITY = ["", "1e9", "nan", "inf", "0x10", "1_000", "१s", "1:30", "--1", "1 s", "5 %", "9" * 21]


@pytest.mark.parametrize("text", NO_QUANTITY)
def test_what_is_no_quantity(text: str) -> None:
    for read in (units.seconds, units.share, units.factor, units.plain):
        with pytest.raises(Misfit):
            read(text)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("psi.memory.some", "share"),
        ("psi.io.full.avg10", "share"),
        ("cgroup.psi.cpu.some@system.slice/a_ms.service", "share"),
        ("disk.read_ms@*", "ms"),
        ("sock.rtt_ms.p95", "ms"),
        ("sock.delivery_bytes_per_s.p50", "bytes"),
        ("cpu.busy", "share"),
        ("cpu.ctxt_per_s", ""),
        ("cpu.runqueue_wait", ""),
        ("mem.dirty_share", "share"),
        ("mem.dirty_bytes", "bytes"),
        ("disk.read_bytes_per_s", "bytes"),
        ("disk.write_ms", "ms"),
        ("disk.util", "share"),
        ("tcp.listen_drops_per_s", ""),
        ("app.p95_ms", "ms"),
        ("app.age_s", "s"),
        ("app.hit_pct", "percent"),
        ("app.queue", ""),
    ],
)
def test_a_metrics_name_says_its_unit(name: str, unit: str) -> None:
    assert units.metric_unit(name) == unit


numbers = [knob for knob in CATALOGUE.values() if knob.type is KnobType.INT and knob.quantum == 1]


@given(value=st.integers(0, 1 << 41))
def test_a_bare_number_is_in_the_knobs_unit_and_inside_its_range(value: int) -> None:
    for each in numbers:
        inside = (each.low is None or each.low <= value) and (each.high is None or value <= each.high)
        if inside:
            assert grammar.number(each, str(value), FACTS) == value
        else:
            with pytest.raises(Misfit, match="outside"):
                grammar.number(each, str(value), FACTS)


WORDS = """psi.cpu.some app.x_ms > < 20% -5 3s 4MiB for clear else falls rises may rise fall by
    set multiply add toward on madvise x 2x 0"""
pieces = st.sampled_from([*WORDS.split(), ""])
sentences = st.one_of(st.lists(pieces, max_size=12).map(" ".join), st.text(max_size=30))


@given(text=sentences)
def test_any_sentence_is_understood_or_said_to_be_wrong(text: str) -> None:
    def action(text: str) -> None:
        for knob in CATALOGUE.values():
            try:
                grammar.action(knob, None, text, FACTS)
            except Misfit as error:
                assert error.what and error.hint

    for read in (grammar.condition, grammar.expect, grammar.guard, action):
        try:
            read(text)
        except Misfit as error:
            assert error.what and error.hint
