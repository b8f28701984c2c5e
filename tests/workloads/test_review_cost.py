"""The day on paper: time goes on end to end, every case has an end, and what is counted is what was asked."""

from __future__ import annotations

from math import inf

from tuned_spec.actor.config import Prices
from tuned_spec.model import Observation
from workloads.review_cost import GAIN, a_day
from workloads.virtual_day import end_to_end

TRACE = (Observation(0.0, {"cpu.busy": 0.1}), Observation(1.0, {"cpu.busy": 0.9}))


def test_a_trace_is_repeated_until_the_time_is_over() -> None:
    found = list(end_to_end(TRACE, 5.0))
    assert [one.t for one in found] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert [one.values for one in found] == [one.values for one in TRACE] * 3


def test_a_model_is_asked_about_what_a_trial_would_keep_and_about_nothing_else() -> None:
    prices = Prices(3.0, 15.0)
    gain = a_day("crowd", "virtualisation-host", GAIN, 0.25, inf, prices)
    none = a_day("crowd", "virtualisation-host", 0.0, 0.25, inf, prices)
    assert none.who["trial"] == sum(none.who.values()) == none.proposed
    assert none.calls == none.read == none.cost == 0 and not none.fates["confirmed"]
    assert gain.who["model"] == gain.calls == gain.fates["confirmed"] > 0
    assert gain.cost == prices.of(gain.read, gain.written) > 0
