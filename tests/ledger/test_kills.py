"""SIGKILL at every boundary and at random moments; the host must be as before, seen from outside."""

from __future__ import annotations

import pytest

from workloads import kill_matrix, kill_stage

pytestmark = pytest.mark.kernel


@pytest.mark.slow
def test_every_boundary(host: dict[str, str]) -> None:
    points, wrong = kill_matrix.boundaries()
    assert wrong == []
    assert points > 100


@pytest.mark.slow
def test_a_hundred_random_moments(host: dict[str, str]) -> None:
    killed_repairs, wrong = kill_matrix.random_kills(100, seed=1)
    assert wrong == []
    assert killed_repairs > 0


def test_repair_killed_at_each_of_its_boundaries(host: dict[str, str]) -> None:
    points, wrong = kill_matrix.repair_boundaries()
    assert wrong == []
    assert points > 10


def test_disks_interfaces_and_tasks_come_back_too(host: dict[str, str]) -> None:
    with kill_stage.stage() as own, kill_matrix.on(own):
        _, wrong = kill_matrix.random_kills(8, seed=1)
        assert wrong == []


@pytest.mark.slow
def test_a_repair_of_disks_interfaces_and_tasks_is_killed(host: dict[str, str]) -> None:
    with kill_stage.stage() as own, kill_matrix.on(own):
        points, wrong = kill_matrix.repair_boundaries()
        assert wrong == []
        assert points > 20
