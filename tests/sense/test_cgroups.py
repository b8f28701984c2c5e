from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sense.conftest import Tree
from tuned_spec.sense.cgroups import FORMATS, LISTED_IN, MAX_OPEN, CgroupFile, open_cgroups
from tuned_spec.sense.reading import Want
from tuned_spec.sense.sensor import Sense

MOUNT = "sys/fs/cgroup/uni fied"
CPU = "<cgroup2>/cpu.pressure"


def stalled(tree: Tree, path: str, total: int, full: int = 0) -> None:
    psi = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"
    tree.write(f"{MOUNT}/{path}/cpu.pressure", psi.format(total, full))


def one(tree: Tree, *rows: str, name: str = CPU, fields: tuple[str, ...] = ("some",)) -> CgroupFile:
    return open_cgroups({name: Want(fields, rows, tree.root)}, tree.root)[0]


@pytest.fixture
def forest(tree: Tree) -> Tree:
    for slice_ in "abc":
        stalled(tree, slice_, 10)
        for unit in range(3):
            stalled(tree, f"{slice_}/{unit}.service", unit)
    return tree


def test_a_glob_gives_what_matches(forest: Tree) -> None:
    file = one(forest, "a/*", "b")
    rows = file.read(0.0)
    assert rows is not None
    assert {path: row["some"] for path, row in rows.items()} == {
        "a/0.service": 0,
        "a/1.service": 1,
        "a/2.service": 2,
        "b": 10,
    }
    file.close()


def test_nothing_is_read_below_what_stood_still(forest: Tree) -> None:
    file = one(forest, "**")
    before = file.read(0.0)
    assert before is not None and len(before) == 13  # web/a.service of the plain tree too
    stalled(forest, "a", 11)
    stalled(forest, "a/1.service", 2)
    stalled(forest, "b/1.service", 99)  # cannot be on a real host: b would have moved too
    after = file.read(1.0)
    assert after is not None and after["a/1.service"]["some"] == 2
    assert after["b/1.service"] is before["b/1.service"]
    assert {path for path in after if after[path] is not before[path]} == {"a", "a/1.service"}
    file.close()


def test_what_comes_is_found_at_once_where_something_moves_and_soon_elsewhere(forest: Tree) -> None:
    file = one(forest, "*/*")
    file.read(0.0)
    stalled(forest, "a/new.service", 1)
    stalled(forest, "a", 11)
    stalled(forest, "b/new.service", 1)
    rows = file.read(1.0)
    assert rows is not None and "a/new.service" in rows and "b/new.service" not in rows
    (forest.root / MOUNT / "c/0.service/cpu.pressure").unlink()
    (forest.root / MOUNT / "c/0.service").rmdir()
    for look in range(2, 3 + LISTED_IN):
        rows = file.read(float(look))
    assert rows is not None and "c/0.service" not in rows
    stalled(forest, "b", 12)
    rows = file.read(99.0)
    assert rows is not None and "b/new.service" in rows
    file.close()


def test_one_that_is_replaced_under_the_same_count_is_found_in_turn(forest: Tree) -> None:
    file = one(forest, "a/*")
    file.read(0.0)
    (forest.root / MOUNT / "a/2.service").rename(forest.root / MOUNT / "a/3.service")
    for look in range(1, 2 + LISTED_IN):
        stalled(forest, "a", 10 + look)
        rows = file.read(float(look))
    assert rows is not None and set(rows) == {"a/0.service", "a/1.service", "a/3.service"}
    file.close()


def test_a_whole_branch_that_goes_is_forgotten(forest: Tree) -> None:
    file = one(forest, "**")
    file.read(0.0)
    (forest.root / MOUNT / "a").rename(forest.root / "elsewhere")
    rows = file.read(1.0)
    assert rows is not None and not [path for path in rows if path.startswith("a")]
    file.close()


def test_pressure_that_is_switched_off_hides_nothing_below(forest: Tree) -> None:
    (forest.root / MOUNT / "a/cpu.pressure").unlink()
    file = one(forest, "*/*")
    assert "a/1.service" in (file.read(0.0) or {})
    stalled(forest, "a/1.service", 5)
    assert (file.read(1.0) or {})["a/1.service"]["some"] == 5
    file.close()


def test_open_descriptors_are_bounded(tree: Tree) -> None:
    for number in range(MAX_OPEN + 50):
        stalled(tree, f"many/{number}", number)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    file = one(tree, "many/*")
    for look in range(2):
        rows = file.read(float(look))
        assert rows is not None and len(rows) == MAX_OPEN + 50
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_OPEN + 1  # noqa: PTH208
        for number in range(look, MAX_OPEN + 50, 7):  # some move: they are kept in place of others
            stalled(tree, f"many/{number}", 1000 * (look + 1))
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_each_format(tree: Tree) -> None:
    tree.write(
        f"{MOUNT}/x/cpu.stat",
        "usage_usec 900\nuser_usec 1\nnr_periods 8\nnr_throttled 2\nthrottled_usec 70\n",
    )
    tree.write(f"{MOUNT}/x/memory.current", "8192\n")
    tree.write(f"{MOUNT}/x/memory.max", "max\n")
    tree.write(f"{MOUNT}/x/memory.events", "low 0\nhigh 5\nmax 0\noom 0\noom_kill 1\n")
    tree.write(f"{MOUNT}/x/memory.stat", "anon 1\nworkingset_refault_anon 3\nworkingset_refault_file 4\n")
    tree.write(f"{MOUNT}/x/io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=1\n")
    expected: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
        "cpu.stat": (("nr_throttled", "nr_periods"), {"nr_throttled": 2, "nr_periods": 8, "usage_usec": 900}),
        "memory.current": (("0",), {"0": 8192}),
        "memory.max": (("0",), {}),
        "memory.events": (("high", "oom_kill"), {"high": 5, "oom_kill": 1}),
        "memory.stat": (("workingset_refault_file", "nope"), {"workingset_refault_file": 4}),
        "io.stat": (("rbytes", "wbytes"), {"rbytes": 11, "wbytes": 22}),
    }
    for name, (fields, row) in expected.items():
        file = one(tree, "x", name=f"<cgroup2>/{name}", fields=fields)
        assert file.read(0.0) == {"x": row}, name
        file.close()


def test_shares_of_limits_and_of_periods(tree: Tree) -> None:
    tree.write(f"{MOUNT}/x/memory.current", "100\n")
    tree.write(f"{MOUNT}/x/memory.max", "400\n")
    tree.write(f"{MOUNT}/x/cpu.stat", "usage_usec 0\nnr_periods 10\nnr_throttled 0\n")
    names = frozenset({"cgroup.memory.current_share@*", "cgroup.cpu.throttled_share@x", "cgroup.cpu.usage@*"})
    sense = Sense(tree.root, wanted=names)
    sense.observe(0.0)
    tree.write(f"{MOUNT}/x/cpu.stat", "usage_usec 1500000\nnr_periods 30\nnr_throttled 5\n")
    values = sense.observe(2.0).values
    sense.close()
    assert values["cgroup.memory.current_share@x"] == 0.25
    assert values["cgroup.cpu.throttled_share@x"] == 0.25
    assert values["cgroup.cpu.usage@x"] == 0.75


@pytest.mark.parametrize("name", [*FORMATS, "memory.current"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_garbage_never_raises(name: str, tree: Tree, garbage: bytes) -> None:
    tree.write(f"{MOUNT}/x/{name}", garbage)
    file = one(tree, "*", name=f"<cgroup2>/{name}", fields=("some", "usage_usec", "rbytes"))
    file.read(0.0)
    file.close()


# --------------------------------------------------------------------------- the real host


BURN = """\
import sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
end = time.monotonic() + 1.5
while time.monotonic() < end: pass
"""


@pytest.mark.kernel
def test_real_pressure_shows_in_the_cgroup_that_has_it_and_not_in_its_neighbour(
    own_cgroup: Callable[[], Path],
) -> None:
    top = own_cgroup()
    busy, calm = top / "busy", top / "calm"
    burners: list[subprocess.Popen[bytes]] = []
    names = [f"cgroup.{what}@{top.name}/*" for what in ("psi.cpu.some", "psi.cpu.full", "cpu.usage")]
    sense = Sense(Path("/"), wanted=frozenset(names))
    try:
        busy.mkdir()
        calm.mkdir()
        start = time.monotonic()
        sense.observe(start)
        for _ in range((os.cpu_count() or 1) + 1):
            burners.append(subprocess.Popen([sys.executable, "-c", BURN, busy]))
        assert [burner.wait() for burner in burners] == [0] * len(burners)
        values = sense.observe(time.monotonic()).values
        used = int((busy / "cpu.stat").read_text().split()[1])
        assert values[f"cgroup.psi.cpu.some@{top.name}/busy"] > 0
        assert 0 < values[f"cgroup.cpu.usage@{top.name}/busy"] <= used / 1e6 / 1.5
        assert values[f"cgroup.psi.cpu.some@{top.name}/calm"] == 0.0
        assert values[f"cgroup.cpu.usage@{top.name}/calm"] == 0.0
        calm.rmdir()
        gone = sense.observe(time.monotonic() + 1).values
        assert f"cgroup.psi.cpu.some@{top.name}/calm" not in gone
    finally:
        sense.close()
        for burner in burners:
            burner.kill()
            burner.wait()
        for group in (busy, calm):
            if group.exists():
                group.rmdir()
