"""Where the knobs of a cgroup are, whose they are, and what is said where they are not: on trees of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.knobs.cgroup_host import Host
from tuned_spec.errors import KnobAbsent
from tuned_spec.knobs import reach
from tuned_spec.model import UNLIMITED


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# ----------------------------------------------------------------------------- instances


def test_a_cgroup_with_a_process_in_it_or_below_is_an_instance(host: Host) -> None:
    host.cgroup("b.slice")
    host.cgroup("b.slice/x.service")
    host.cgroup("a")
    host.cgroup("a/empty", {"cgroup.events": "populated 0\nfrozen 0\n"})
    host.cgroup("a/no-controller", {"cpu.weight": None})
    assert host.catalogue.instances("cgroup.cpu.weight") == ("a", "b.slice", "b.slice/x.service")
    assert host.catalogue.instances("cgroup.cpu.weight@b*") == ("b.slice",)
    assert host.catalogue.instances("cgroup.cpu.weight@b.slice/*") == ("b.slice/x.service",)
    assert host.catalogue.instances("cgroup.cpu.weight@b**") == ("b.slice", "b.slice/x.service")
    assert "a/no-controller" in host.catalogue.instances("cgroup.memory.high")


def test_a_limit_of_a_disk_is_there_for_each_disk_with_something_in_it(host: Host) -> None:
    host.cgroup("a")
    assert host.catalogue.instances("cgroup.io.max.rbps") == ("a:vda", "a:vdb")


def test_without_cgroup2_or_its_controllers_there_are_none(host: Host) -> None:
    host.cgroup("a")
    (host.place / "cgroup.controllers").write_text("")
    assert host.catalogue.instances("cgroup.cpu.weight") == ()
    host.mounted("")
    assert host.catalogue.instances("cgroup.cpu.weight") == ()


# ------------------------------------------------------------------------------ addresses


def test_without_systemd_the_files_are_the_knobs(host: Host) -> None:
    host.cgroup("system.slice/x.service")
    assert host.address("cpu.weight", "system.slice/x.service") == "/system.slice/x.service/cpu.weight"
    assert host.address("io.max.rbps", "system.slice/x.service:vdb") == (
        "cgroup:/system.slice/x.service/io.max/254:16/rbps"
    )


def test_what_systemd_writes_itself_is_a_property_of_the_unit(host: Host) -> None:
    host.booted_by_systemd()
    host.cgroup("system.slice")
    host.cgroup("system.slice/x.service")
    host.cgroup("system.slice/_cpu.service")
    host.cgroup("mine")
    assert host.address("cpu.weight", "system.slice") == "unit:system.slice/CPUWeight"
    assert host.address("cpu.max", "system.slice/x.service") == "unit:x.service/CPUQuota"
    assert host.address("cpu.max", "system.slice/_cpu.service") == "unit:cpu.service/CPUQuota"
    assert host.address("io.max.rbps", "system.slice:vda") == "unit:system.slice/IOReadBandwidthMax/vda"
    assert host.address("cpu.uclamp.min", "system.slice") == "cgroup:/system.slice/cpu.uclamp.min"
    assert host.address("memory.reclaim", "system.slice") == "cgroup:/system.slice/memory.reclaim"
    assert host.address("cpu.weight", "mine") == "/mine/cpu.weight"


def test_below_a_delegated_unit_the_files_are_the_knobs_again(host: Host) -> None:
    host.booted_by_systemd()
    os.setxattr(host.cgroup("box.service"), "user.delegate", b"1")
    host.cgroup("box.service/inner.slice")
    host.cgroup("plain.service/part")
    assert host.address("cpu.weight", "box.service") == "unit:box.service/CPUWeight"
    assert host.address("cpu.weight", "box.service/inner.slice") == "/box.service/inner.slice/cpu.weight"
    assert host.address("cpu.weight", "plain.service/part") == "/plain.service/part/cpu.weight"


def test_systemd_turns_a_controller_on_when_it_is_needed(host: Host) -> None:
    """So the file need not be there, unless the controller is on and the kernel has no such file."""
    host.booted_by_systemd()
    host.cgroup("system.slice", {"cgroup.subtree_control": "memory pids\n"})
    host.cgroup("system.slice/x.service", {"cpu.weight": None, "memory.high": None})
    assert host.address("cpu.weight", "system.slice/x.service") == "unit:x.service/CPUWeight"
    assert "system.slice/x.service" in host.catalogue.instances("cgroup.cpu.weight")
    assert "system.slice/x.service" not in host.catalogue.instances("cgroup.memory.high")
    with pytest.raises(KnobAbsent, match="kernel does not offer it"):
        host.address("memory.high", "system.slice/x.service")


# ---------------------------------------------------------------------- absent is absent


def why(host: Host, entry: str, instance: str) -> str:
    available = host.adapter.probe(host.knob(entry, instance))
    assert not available.present
    return available.why


def test_every_absence_says_what_to_do(host: Host) -> None:
    host.cgroup("a", {"cgroup.subtree_control": "memory\n"})
    host.cgroup("a/b", {"cpu.weight": None, "memory.high": None})
    assert f"echo +cpu > {host.place}/a/cgroup.subtree_control" in why(host, "cpu.weight", "a/b")
    assert "kernel does not offer it" in why(host, "memory.high", "a/b")
    assert "there is no cgroup" in why(host, "cpu.weight", "a/c")
    assert "there is no disk 'sda'" in why(host, "io.max.rbps", "a:sda")
    assert "names no cgroup" in why(host, "cpu.weight", "../../etc")
    assert "names no cgroup" in why(host, "io.max.rbps", "a")
    (host.place / "cgroup.controllers").write_text("memory\n")
    assert "built or booted without" in why(host, "cpu.weight", "a")
    (host.root / "proc/cgroups").write_text("#subsys_name hierarchy\ncpu\t4\t1\t1\nblkio\t5\t1\t1\n")
    assert "systemd.unified_cgroup_hierarchy=1" in why(host, "cpu.weight", "a")
    assert "systemd.unified_cgroup_hierarchy=1" in why(host, "io.max.rbps", "a:vda")
    host.mounted("")
    assert "cgroup2 is not mounted" in why(host, "cpu.weight", "a")


def test_what_systemd_writes_from_unit_files_alone_is_not_ours(host: Host) -> None:
    host.booted_by_systemd()
    host.cgroup("x.service")
    assert "set OOMPolicy=kill there" in why(host, "memory.oom.group", "x.service")


def test_an_empty_list_of_cpus_has_no_way_back(host: Host) -> None:
    directory = host.cgroup("a")
    available = host.adapter.probe(host.knob("cpuset.cpus", "a"))
    assert available.present
    assert not available.writable
    assert "cannot be emptied again" in available.why
    (directory / "cpuset.cpus").write_text("0-1\n")
    assert host.adapter.probe(host.knob("cpuset.cpus", "a")).writable


# ------------------------------------------------------------------------------- forms


def test_the_files_forms_are_read_as_one_value_each(host: Host) -> None:
    host.cgroup("a", {"cpu.uclamp.min": "12.34\n", "cpuset.cpus": "0-2,5\n"})
    assert host.value("cpu.uclamp.min", "a") == 1234
    assert host.value("cpu.uclamp.max", "a") == 10000
    assert host.value("cpuset.cpus", "a") == "0-2,5"
    assert host.value("io.weight", "a") == 100
    assert host.value("io.max.wbps", "a:vda") == 1048576
    assert host.value("io.max.rbps", "a:vda") == UNLIMITED
    assert host.value("io.max.wbps", "a:vdb") == UNLIMITED, "a disk without a line"
    assert host.value("io.latency", "a:vdb") == 0
    assert host.value("cpu.max", "a") == (UNLIMITED, 100000)
    assert host.value("memory.high", "a") == UNLIMITED
    assert host.value("memory.reclaim", "a") == 0


@pytest.mark.parametrize(
    ("entry", "instance", "value", "file", "text"),
    [
        ("cpu.uclamp.min", "a", 1205, "cpu.uclamp.min", "12.05"),
        ("io.weight", "a", 200, "io.weight", "default 200"),
        ("io.max.riops", "a:vdb", 500, "io.max", "254:16 riops=500"),
        ("io.max.riops", "a:vdb", UNLIMITED, "io.max", "254:16 riops=max"),
        ("io.latency", "a:vda", 10000, "io.latency", "254:0 target=10000"),
        ("cpuset.cpus", "a", "", "cpuset.cpus", "\n"),
        ("memory.reclaim", "a", 65536, "memory.reclaim", "65536\n"),
    ],
)
def test_and_written_in_the_form_that_the_kernel_takes(
    host: Host, entry: str, instance: str, value: int | str, file: str, text: str
) -> None:
    directory = host.cgroup("a")
    (directory / file).write_text("")
    host.write(entry, instance, value)
    assert (directory / file).read_text() == text


def test_nothing_is_no_reclaim(host: Host) -> None:
    """The way back of a deed is to do nothing: its original, 0, is not written."""
    directory = host.cgroup("a")
    reach.write(f"cgroup:{directory}/memory.reclaim", "0")
    assert (directory / "memory.reclaim").read_text() == ""


# ------------------------------------------------------------------------------ identity


def test_a_cgroup_that_comes_back_under_its_name_is_another(host: Host) -> None:
    directory = host.cgroup("a")
    identity = host.adapter.identity(host.knob("cpu.weight", "a"))
    assert reach.gone(identity) == ""
    directory.rename(host.place / "old")
    assert "No such file" in reach.gone(identity)
    host.cgroup("a")
    assert "another one now" in reach.gone(identity)


def test_a_setting_of_systemd_is_the_units_and_outlives_the_cgroup(host: Host) -> None:
    host.booted_by_systemd()
    host.cgroup("x.service")
    assert host.adapter.identity(host.knob("cpu.weight", "x.service")) == ""
    assert host.adapter.identity(host.knob("memory.reclaim", "x.service")).startswith("inode:")
