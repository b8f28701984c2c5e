"""Every catalogue entry that this host has, tried on the real kernel and put back.

An entry that cannot be tried is a skipped test that carries its name and the reason.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tuned_spec.errors import KnobRefused
from tuned_spec.knobs.adapters import Adapter, adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.model import Coupling, CouplingKind, Knob, KnobType, Receipt, Value, entry_of
from workloads.round_trip import SPARE, is_off, is_rounded_up, others

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to write knobs"),
]

ADAPTERS = adapters()
KNOBS = Catalogue(load(), ADAPTERS)

# What the kernel also refuses by things that are no knobs.
HELD_BY_OTHERS = {
    "kernel.sched_rt_runtime_us": "with CONFIG_RT_GROUP_SCHED the shares of all cgroups must fit",
    "kernel.nmi_watchdog": "the CPU must have a counter for it",
    "kernel.sched_rt_period_us": "with CONFIG_RT_GROUP_SCHED the shares of all cgroups must fit",
}


def here() -> dict[str, Knob]:
    """Every entry; of a template the knob of the first instance that this host has. But for those of which
    there is one that serves nobody: the round trip takes that (test_tried.py)."""
    entries = {id: entry for id, entry in KNOBS.items() if entry.per not in SPARE}
    first = {id: next(iter(KNOBS.instances(id)), "") for id, entry in entries.items() if entry.per}
    names = [f"{id}@{first[id]}" if first.get(id) else id for id in entries]
    return {name: KNOBS[name] for name in names}


HERE = here()

every_knob = pytest.mark.parametrize("knob", HERE.values(), ids=list(HERE))


def adapter_of(knob: Knob) -> Adapter:
    return ADAPTERS[knob.adapter]


def read(knob: Knob) -> Value:
    adapter = adapter_of(knob)
    return adapter.parse(knob, adapter.read_text(knob))


def write(knob: Knob, value: Value) -> None:
    write_text(knob, adapter_of(knob).format(knob, value))


def write_text(knob: Knob, text: str) -> None:
    adapter = adapter_of(knob)
    adapter.write(Receipt(row=0, knob=knob.id, target=adapter.address(knob), text=text), knob)


def needs(knob: Knob) -> None:
    availability = adapter_of(knob).probe(knob)
    if availability.why:
        pytest.skip(f"{knob.id}: {availability.why}")


@pytest.fixture
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Puts the test's knob and its partners back as they were, and asserts that they are."""
    knob: Knob = request.getfixturevalue("knob")
    group = [knob] + [KNOBS[coupling.partner] for coupling in knob.coupled]
    before = {
        one.id: (read(one), adapter_of(one).read_text(one))
        for one in group
        if adapter_of(one).probe(one).present
    }
    yield
    # the knob first: its partners may have been reset by it
    for one in group:
        if one.id in before and not is_off(one, before[one.id][0]) and read(one) != before[one.id][0]:
            write(one, before[one.id][0])
    assert {id: adapter_of(KNOBS[id]).read_text(KNOBS[id]) for id in before} == {
        id: text for id, (_, text) in before.items()
    }


def ordered(knob: Knob) -> Knob:
    """The knob with its range within what partners that it must not pass show now."""
    if knob.type is not KnobType.INT or knob.low is None or knob.high is None:
        return knob
    above = [coupling.partner for coupling in knob.coupled if coupling.kind is CouplingKind.ORDERED]
    below = [
        other.id
        for other in HERE.values()
        for c in other.coupled
        if c == Coupling(knob.id, CouplingKind.ORDERED)
    ]
    low = max([knob.low, *(int(str(read(KNOBS[id]))) for id in below)])
    high = min([knob.high, *(int(str(read(KNOBS[id]))) for id in above)])
    return msgspec.structs.replace(knob, low=low, high=high)


@every_knob
def test_reads_and_is_canonical(knob: Knob) -> None:
    needs(knob)
    now = read(knob)
    if not is_off(knob, now):
        assert adapter_of(knob).canonical(knob, now) == now
    if knob.type is KnobType.CHOICE and len(knob.choices) > 1:
        assert now in knob.choices


@every_knob
def test_writing_the_current_value_changes_nothing(knob: Knob, restored: None) -> None:
    needs(knob)
    now, text = read(knob), adapter_of(knob).read_text(knob)
    if is_off(knob, now):
        pytest.skip(f"{knob.id}: off while {knob.coupled[0].partner} rules; its 0 cannot be written")
    try:
        write(knob, now)
    except KnobRefused as error:
        if why := HELD_BY_OTHERS.get(entry_of(knob.id)):
            pytest.skip(f"{knob.id}: {why}: {error}")
        raise
    assert adapter_of(knob).read_text(knob) == text
    assert read(knob) == now


@every_knob
def test_the_kernel_shows_what_canonical_foretells(knob: Knob, restored: None) -> None:
    needs(knob)
    now = read(knob)
    tried = 0
    for value in others(ordered(knob), now):
        try:
            write(knob, value)
        except KnobRefused as error:
            # A choice may stand for something that is not built in; a number in range may not be refused.
            not_built_in = knob.type is KnobType.CHOICE and error.code == errno.ENOENT
            assert not_built_in or entry_of(knob.id) in HELD_BY_OTHERS, error
            continue
        tried += 1
        shown = read(knob)
        if not is_rounded_up(entry_of(knob.id), value, shown):
            assert shown == adapter_of(knob).canonical(knob, value)
        for coupling in knob.coupled:
            if coupling.kind is CouplingKind.ZEROES:
                assert read(KNOBS[coupling.partner]) == 0
    if not tried:
        pytest.skip(f"{knob.id}: this host has no other legal value than {now!r}")


def test_a_reset_partner_is_in_the_entry_and_comes_back_after_it() -> None:
    """Switching the KSM advisor on and off loses pages_to_scan: only writing it last brings it back."""
    advisor, pages = KNOBS["ksm.advisor_mode"], KNOBS["ksm.pages_to_scan"]
    needs(advisor)
    before = read(advisor), read(pages)
    if before[0] != "none":
        pytest.skip("the advisor is on: pages_to_scan is the kernel's")
    assert [(one.partner, one.kind) for one in advisor.coupled] == [(pages.id, CouplingKind.RESETS)]
    try:
        write(pages, 123)
        write(advisor, "scan-time")
        assert read(pages) != 123
        write(advisor, "none")
        assert read(pages) != 123
    finally:
        write(advisor, before[0])
        write(pages, before[1])
    assert (read(advisor), read(pages)) == before


# What the kernel refuses, tried on 6.1, 6.12 and 6.18; the value before must survive.
REFUSED: list[tuple[str, str, int]] = [
    ("vm.dirty_bytes", "0", errno.EINVAL),
    ("vm.dirty_bytes", "4096", errno.EINVAL),
    ("vm.dirty_ratio", "101", errno.EINVAL),
    ("vm.dirty_background_bytes", "0", errno.EINVAL),
    ("vm.swappiness", "-1", errno.EINVAL),
    ("vm.swappiness", "201", errno.EINVAL),
    ("vm.watermark_scale_factor", "0", errno.EINVAL),
    ("net.core.netdev_budget_usecs", "1", errno.EINVAL),
    ("net.core.dev_weight", "0", errno.EINVAL),
    ("net.ipv4.tcp_rmem", "0 1 1", errno.EINVAL),
    ("net.ipv4.ip_local_port_range", "5000 4000", errno.EINVAL),
    ("net.ipv4.tcp_congestion_control", "no-such-word", errno.ENOENT),
    ("kernel.sched_autogroup_enabled", "2", errno.EINVAL),
    ("thp.enabled", "sometimes", errno.EINVAL),
    ("thp.enabled", "[madvise]", errno.EINVAL),
    ("zswap.compressor", "no-such-word", errno.ENOENT),
    ("haltpoll.guest_halt_poll_ns", str(2**32), errno.ERANGE),
]


@pytest.mark.parametrize(("id", "text", "code"), REFUSED, ids=[f"{id}={text}" for id, text, _ in REFUSED])
def test_a_refusal_has_errno_hint_and_leaves_the_value(id: str, text: str, code: int) -> None:
    knob = KNOBS[id]
    needs(knob)
    before = adapter_of(knob).read_text(knob)
    with pytest.raises(KnobRefused) as raised:
        write_text(knob, text)
    assert raised.value.code == code
    assert raised.value.hint
    assert str(raised.value).startswith(f"{id}: write: {text!r} to {adapter_of(knob).address(knob)}: ")
    assert adapter_of(knob).read_text(knob) == before


# ------------------------------------- what no catalogue entry shows: rounding, busy, read-only


def a_file(target: str, adapter: str = "sysfs", type: KnobType = KnobType.INT, quantum: int = 1) -> Knob:
    return Knob(
        id="test.file",
        adapter=adapter,
        target=target,
        type=type,
        unit="",
        summary="",
        source="",
        quantum=quantum,
        choices=("a", "b") if type is KnobType.CHOICE else (),
    )


def test_the_quantum_is_where_the_kernel_rounds_to() -> None:
    """read_ahead_kb is kept in pages; no host-wide knob of the catalogue is rounded by these kernels."""
    idle = next(iter(sorted(Path("/sys/block").glob("loop*/queue/read_ahead_kb"))), None)
    if idle is None:
        pytest.skip("no loop device whose read-ahead could be changed without harm")
    knob = a_file(str(idle.relative_to("/sys")), quantum=os.sysconf("SC_PAGE_SIZE") // 1024)
    before = read(knob)
    try:
        for value in (127, 128, 129, 130, 131, 132, 1023):
            write(knob, value)
            assert read(knob) == adapter_of(knob).canonical(knob, value)
    finally:
        write(knob, before)
    assert read(knob) == before


def test_a_busy_knob_says_ebusy() -> None:
    """A v1 cpuset cannot shrink below its child's."""
    top = Path("/sys/fs/cgroup/cpuset")
    if not (top / "cpuset.cpus").exists() or (top / "cpuset.cpus").read_text().strip() == "0":
        pytest.skip("no cpuset hierarchy (v1) with two CPUs")
    parent = top / f"tuned-spec-test-{os.getpid()}"
    child = parent / "child"
    all_cpus = (top / "cpuset.cpus").read_text().strip()
    try:
        for group in (parent, child):
            group.mkdir()
            (group / "cpuset.cpus").write_text(all_cpus)
        knob = a_file(str((parent / "cpuset.cpus").relative_to("/sys")), type=KnobType.CHOICE)
        with pytest.raises(KnobRefused, match="in use: try again") as raised:
            write(knob, "0")
        assert raised.value.code == errno.EBUSY
        assert read(knob) == all_cpus
    finally:
        for group in (child, parent):
            if group.is_dir():
                group.rmdir()


def test_a_file_without_write_permission_is_read_only_even_for_root() -> None:
    knob = a_file("kernel/mm/transparent_hugepage/hpage_pmd_size")
    if not adapter_of(knob).probe(knob).present:
        pytest.skip("no transparent huge pages")
    availability = adapter_of(knob).probe(knob)
    assert not availability.writable
    assert "[EACCES]" in availability.why


def test_a_file_that_can_only_be_written_has_no_way_back_and_is_not_writable() -> None:
    availability = ADAPTERS["sysctl"].probe(a_file("vm/compact_memory", "sysctl"))
    assert (availability.present, availability.writable) == (True, False)
    assert "[EACCES]" in availability.why


def in_a_mount_namespace(commands: str, root: str, knob: str) -> str:
    """Probes one knob below `root` in a mount namespace of its own, after shell commands."""
    told = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{commands} && exec "$0" -c "$1" "$2" "$3"',
            sys.executable,
            PROBE,
            root,
            knob,
        ],
        capture_output=True,
        text=True,
    )
    if told.returncode:
        pytest.skip(f"no mount of our own: {told.stderr.strip().splitlines()[-1:]}")
    return told.stdout


PROBE = """
import sys, pathlib
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.adapters import adapters
knob = load()[sys.argv[2]]
print(adapters(pathlib.Path(sys.argv[1]))[knob.adapter].probe(knob))
"""


def test_a_read_only_mount_is_told_from_an_absent_knob() -> None:
    told = in_a_mount_namespace(
        "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys", "/", "vm.swappiness"
    )
    assert "present=True, writable=False" in told
    assert "[EROFS]" in told
    assert "mounted read-only" in told


def test_debugfs_is_usable_or_says_lockdown(tmp_path: Path) -> None:
    debug = tmp_path / "sys/kernel/debug"
    debug.mkdir(parents=True)
    told = in_a_mount_namespace(f"mount -t debugfs none {debug}", str(tmp_path), "sched.base_slice_ns")
    if "writable=True" not in told and "present=False" not in told:
        assert "[EPERM]; kernel lockdown" in told
    assert "not mounted" not in told


def test_another_network_namespace_is_another_identity_with_values_of_its_own() -> None:
    somaxconn, here = KNOBS["net.core.somaxconn"], ADAPTERS["sysctl"]
    needs(somaxconn)
    told = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", IDENTITY], capture_output=True, text=True, check=False
    )
    if told.returncode:
        pytest.skip("no network namespace of our own")
    identity, host = told.stdout.splitlines()
    inode = Path("/proc/self/ns/net").stat().st_ino
    assert here.identity(somaxconn) == f"netns:[{inode}]"
    assert identity.startswith("netns:[") and identity != here.identity(somaxconn)
    assert host == "''"


IDENTITY = """
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.adapters import adapters
knobs, sysctl = load(), adapters()["sysctl"]
print(sysctl.identity(knobs["net.core.somaxconn"]))
print(repr(sysctl.identity(knobs["vm.swappiness"])))
"""
