from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuned_spec.globs import leads_to, matches, split
from tuned_spec.policy.units import metric_unit
from tuned_spec.sense.metrics import (
    CGROUP2,
    METRICS,
    PER,
    Kind,
    cgroup_path,
    cgroups_in,
    find,
    known,
    markdown,
    of_cgroup,
)

HERE = Path(__file__).parent


def test_the_page_of_metrics_is_as_the_table_is() -> None:
    page = (HERE.parents[1] / "docs/metrics.md").read_text()
    assert page == markdown(), "python -m tuned_spec.sense.metrics > docs/metrics.md"


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.doc and metric.unit and metric.fields, name
        assert metric.source.startswith(("/proc/", "/sys/", CGROUP2, "perf:", "sock_diag")), name
        plain = re.sub(r"\.p\d\d$", "", name)
        assert plain.endswith("_share") <= (metric.unit == "share"), name
        assert plain.endswith("_per_s") <= metric.unit.endswith("/s"), name
        ratios = (Kind.RATIO, Kind.LEVEL_RATIO, Kind.RATE_RATIO)
        assert (metric.kind in ratios) == bool(metric.over), name
        assert bool(metric.over_source) <= bool(metric.over), name
        assert metric.per in PER and (metric.alone or metric.per), name
        assert "|" not in metric.doc, name


def test_a_policy_reads_each_metrics_unit_from_its_name() -> None:
    units = {"share": "share", "ms": "ms", "bytes": "bytes", "bytes/s": "bytes"}
    for name, metric in METRICS.items():
        assert metric_unit(name) == units.get(metric.unit, ""), name
        assert metric_unit(f"{name}@x_ms.service") == units.get(metric.unit, ""), name


@pytest.mark.parametrize(
    "name",
    [
        "cpu.busy",
        "app.p95_ms",
        "app.web.rps",
        "cgroup.psi.cpu.some@web/a.service",
        "cgroup.cpu.throttled_share@web/getty@tty1.service",
        "cgroup.psi.io.full@system.slice/*.service",
        "cgroup.memory.current_bytes@**",
        "disk.util",
        "disk.util@nvme0n1",
        "disk.util@*",
        "cpu.busy@cpu1",
        "nic.rx_bytes_per_s@vlan@5",
    ],
)
def test_known(name: str) -> None:
    assert known(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "cpu.bussy",
        "app.",
        "app.9",
        "app.a b",
        "app." + "x" * 80,
        "cpu.ctxt_per_s@cpu0",
        "mem.dirty_bytes@",
        "disk.util@",
        "disk.util@a b",
        "disk.util@a/b",
        "app.p95_ms@x",
        "cgroup.psi.cpu.some",
        "cgroup.psi.cpu.some@",
        "cgroup.psi.cpu.some@../etc",
        "cgroup.psi.cpu.some@a/../../b",
        "cgroup.psi.cpu.some@/a",
        "cgroup.psi.cpu.some@a/",
        "cgroup.psi.cpu.some@a\n",
        "cgroup.psi.net.some@a",
        "cgroup.psi.cpu.most@a",
        "cgroup.psi.cpu.some.avg10@a",
        "cgroup.a.psi.cpu.some",
    ],
)
def test_unknown(name: str) -> None:
    assert not known(name)


def test_cgroup_metrics() -> None:
    names = of_cgroup("web/a.service")
    assert len(names) == 6 and all(map(known, names))
    metric = find("cgroup.psi.cpu.some@web/a.service")
    assert metric and metric.source == "<cgroup2>/cpu.pressure"
    assert cgroups_in([*names, "cpu.busy", "cgroup.cpu.usage@b", "cgroup.nonsense@c"]) == (
        "b",
        "web/a.service",
    )
    assert cgroup_path("/web/a.service/") == "web/a.service"
    assert cgroup_path("/") is None
    assert split("cgroup.cpu.usage@a@b") == ("cgroup.cpu.usage", "a@b")
    assert split("cpu.busy") == ("cpu.busy", "")


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*", "sda", "a/b"),
        ("nvme*n?", "nvme0n1", "nvme0n10"),
        ("system.slice/*.service", "system.slice/a.service", "system.slice/a/b.service"),
        ("**", "a/b/c", ""),
        ("a/**.service", "a/b/c.service", "b/c.service"),
        ("a.b", "a.b", "aXb"),
        ("a[1]", "a[1]", "a1"),
        (r"dev-\x2d*", r"dev-\x2d1", "dev-1"),
    ],
)
def test_globs(glob: str, yes: str, no: str) -> None:
    assert matches(glob, yes)
    assert not matches(glob, no)
    parents = ["/".join(yes.split("/")[:n]) for n in range(yes.count("/") + 1)]
    assert all(leads_to(glob, parent) for parent in parents)


def test_a_glob_does_not_lead_astray() -> None:
    assert not leads_to("system.slice/*.service", "user.slice")
    assert not leads_to("system.slice/*.service", "system.slice/a.service")
    assert leads_to("a/**", "a/b/c")
    assert not leads_to("*", "a")
