"""What each kernel has of the catalogue: the lists that are checked in, and this kernel against its own.

The lists are written by `python -m workloads.round_trip --record` and hold for one build of a kernel: another
build of the same version may have other options, so there the differences are reported, not failed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.knobs.test_catalogue import GOOD
from tuned_spec.errors import CatalogueError
from tuned_spec.knobs.catalogue import kernels_of, load
from tuned_spec.model import UNLIMITED, Knob, KnobType, Risk, Value
from workloads.round_trip import KERNEL, RELEASE, SKIPPED, Trip, allowed, others, record, tour

CATALOGUE = load()
KERNELS = sorted(file.stem for file in SKIPPED.glob("*.yaml"))

# ------------------------------------------------------------------------------- the lists


def test_what_was_tried_is_in_the_catalogue() -> None:
    assert set(kernels_of()) <= set(CATALOGUE), "record it anew (docs/kernels.md), or take the entries out"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_list_of_skips_names_entries_that_were_not_tried_there(kernel: str) -> None:
    skips = allowed(kernel)
    assert skips is not None
    assert skips.release.startswith(f"{kernel}.")
    assert set(skips.skipped) <= set(CATALOGUE)
    assert all(reason.strip() for reason in skips.skipped.values())
    assert not {id for id in skips.skipped if kernel in CATALOGUE[id].tried}


def test_the_loader_fills_in_the_kernels_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + GOOD.replace("first", "second"))
    tried = tmp_path / "tried"
    tried.write_text('"6.1": [vm.first]\n"6.12": [vm.first, vm.gone]\n')
    knobs = load(tmp_path, tried)
    assert (knobs["vm.first"].tried, knobs["vm.second"].tried) == (("6.1", "6.12"), ())


def test_an_entry_cannot_claim_that_it_was_tried(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + '  tried: ["6.12"]\n')
    with pytest.raises(CatalogueError, match=r"vm\.first\.tried: is not a field"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[", "6.1: [vm.first]\n", '"6.1": vm.first\n', "- vm.first\n"])
def test_a_broken_list_is_said_with_the_cure(text: str, tmp_path: Path) -> None:
    tried = tmp_path / "tried.yaml"
    tried.write_text(text)
    with pytest.raises(CatalogueError, match=r"tried\.yaml: .*; write it anew: python -m workloads"):
        kernels_of(tried)


def test_what_is_recorded_is_what_is_read_and_other_kernels_stay(tmp_path: Path) -> None:
    tried, skipped = tmp_path / "tried.yaml", tmp_path / "skipped"
    tried.write_text('"99.0": [vm.b]\n"5.15": [vm.a]\n')
    record(
        [
            Trip("vm.a", "tried"),
            Trip("vm.b", "skipped", why="absent: not there"),
            Trip("vm.c", "failed", why="the kernel shows another value"),
        ],
        tried,
        skipped,
    )
    assert kernels_of(tried) == {"vm.a": ("5.15", KERNEL), "vm.b": ("99.0",)}
    skips = allowed(directory=skipped)
    assert skips is not None
    assert (skips.release, skips.skipped) == (RELEASE, {"vm.b": "absent: not there"})


# ------------------------------------------------------------------------ which value is written


def a_knob(type: KnobType, low: int | None = None, high: int | None = None, **more: object) -> Knob:
    fields = {"id": "a.b", "adapter": "sysctl", "target": "a", "unit": "", "summary": "", "source": ""}
    return Knob(**fields, type=type, low=low, high=high, **more)  # type: ignore[arg-type]


VALUES: list[tuple[Knob, Value, Value]] = [  # knob, live value, what is tried first
    (a_knob(KnobType.BOOL), 1, 0),
    (a_knob(KnobType.INT, 0, 100), 60, 59),
    (a_knob(KnobType.INT, 0, 100), 0, 1),
    (a_knob(KnobType.INT, 0, 8192, quantum=4096), 4096, 0),
    (a_knob(KnobType.INT, 0, UNLIMITED, quantum=4096), UNLIMITED, 1 << 30),
    (a_knob(KnobType.INT, 1, 512), UNLIMITED, 512),
    (a_knob(KnobType.INTS, 1, 99, fields=("min", "max")), (5, 9), (5, 8)),
    (a_knob(KnobType.INTS, 1, 9, fields=("min", "max")), (9, 9), (8, 9)),
    (a_knob(KnobType.CHOICE, choices=("a", "b")), "a", "b"),
    (a_knob(KnobType.WORDS), "reno cubic", "reno"),
    (a_knob(KnobType.CPUS), "", "0"),
    (a_knob(KnobType.CPUS), "0-3", "0"),
    (a_knob(KnobType.CPUS), "2-3", "0"),
]


@pytest.mark.parametrize(("knob", "now", "first"), VALUES, ids=[f"{k.type}-{n}" for k, n, _ in VALUES])
def test_another_value_is_the_nearest_legal_one(knob: Knob, now: Value, first: Value) -> None:
    assert others(knob, now)[0] == first
    assert now not in others(knob, now)


def test_a_knob_of_high_risk_is_only_moved_a_step() -> None:
    assert others(a_knob(KnobType.INT, 0, 100, risk=Risk.HIGH), 60) == [59, 61]
    assert len(others(a_knob(KnobType.INT, 0, 100), 60)) > 2


# ------------------------------------------------------------------------------ this kernel


@pytest.fixture(scope="module")
def trips() -> list[Trip]:
    if os.geteuid() != 0:
        pytest.skip("root is needed to write knobs")
    return tour(list(CATALOGUE))


@pytest.mark.kernel
def test_every_entry_goes_there_and_back(trips: list[Trip]) -> None:
    assert [f"{trip.knob}: {trip.why}" for trip in trips if trip.status == "failed"] == []
    assert any(trip.status == "tried" for trip in trips)


@pytest.mark.kernel
def test_this_kernel_skips_what_its_list_says(trips: list[Trip]) -> None:
    skipped = {trip.entry: trip.why for trip in trips if trip.status == "skipped"}
    skips = allowed()
    if skips is None:
        pytest.skip(f"no list for kernel {KERNEL} (docs/kernels.md); skipped here: {', '.join(skipped)}")
    more = {id: why for id, why in skipped.items() if id not in skips.skipped}
    fewer = sorted(set(skips.skipped) - set(skipped))
    if (more or fewer) and skips.release != RELEASE:
        pytest.skip(f"the list is of {skips.release}, this is {RELEASE}: more {more}, fewer {fewer}")
    assert more == {}, "skipped beyond the list: mend them, or record it anew (docs/kernels.md)"
    assert fewer == [], "no longer skipped: record it anew (docs/kernels.md)"
