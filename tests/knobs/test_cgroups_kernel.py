"""Each knob of a cgroup on a kernel that has version 2's controllers: written, read back, put back.

Runs where PID 1 is systemd, cgroup2 has the controllers, and root runs it: in a virtual machine, if not here.
The cgroups are the test's own: a service with Delegate=yes whose inner cgroup is changed by its files, and
a plain one that is changed through systemd.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuned_spec.daemon.hands import Hands
from tuned_spec.engine.events import Applied, Apply
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Knob, KnobType, RowStatus, Value, Write

PLACE = Path("/sys/fs/cgroup")
NAME = f"tuned-spec-test-{os.getpid()}"
ACCESS = adapters()
CATALOGUE = Catalogue(load(), ACCESS)
KNOBS = {id: knob for id, knob in CATALOGUE.items() if knob.adapter == "cgroup"}
DISK = next((name for name in ("vdb", "sdb") if Path(f"/dev/{name}").exists()), "")


def _missing() -> str:
    if os.geteuid() != 0:
        return "root is needed"
    if Path("/proc/1/comm").read_text().strip() != "systemd":
        return "PID 1 is not systemd"
    controllers = PLACE / "cgroup.controllers"
    if not controllers.exists() or not {"cpu", "memory"} <= set(controllers.read_text().split()):
        return "cgroup2 at /sys/fs/cgroup has no controllers (version 1 has them)"
    return ""


pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(bool(_missing()), reason=f"cgroup.*: {_missing()}"),
]


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout


# Makes cgroups below its own, as a container manager would, and holds memory in one of them.
INNER = """
import mmap, os, time
here = "/sys/fs/cgroup" + open("/proc/self/cgroup").read().strip().partition("::")[2]
def into(name):
    os.makedirs(f"{here}/{name}", exist_ok=True)
    with open(f"{here}/{name}/cgroup.procs", "w") as procs:
        procs.write("0")
into("outer")
with open(f"{here}/cgroup.subtree_control", "w") as control:
    control.write("+cpu +memory +io +pids +cpuset")
if os.fork() == 0:
    into("inner")
    for name, text in ("cpuset.cpus", "0-1"), ("cpuset.mems", "0"):
        with open(f"{here}/inner/{name}", "w") as file:
            file.write(text)
    held = mmap.mmap(-1, %d)
    for at in range(0, len(held), 4096):
        held[at : at + 8] = os.urandom(8)
    time.sleep(3600)
os.wait()
"""
HELD = 160 << 20


@pytest.fixture(scope="module")
def units() -> Iterator[dict[str, str]]:
    """Name of the way -> instance: `files` is delegated, `systemd` is a unit."""
    script = Path(f"/run/{NAME}.py")
    script.write_text(INNER % HELD)
    fragments = {
        f"{NAME}-own.service": f"[Service]\nDelegate=yes\nExecStart=python3 {script}\n",
        f"{NAME}.service": "[Service]\nAllowedCPUs=0-1\nAllowedMemoryNodes=0\nExecStart=sleep infinity\n",
    }
    for name, text in fragments.items():
        (Path("/run/systemd/system") / name).write_text(text)
    systemctl("daemon-reload")
    systemctl("start", *fragments)
    inner = PLACE / f"system.slice/{NAME}-own.service/inner"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        (inner / "memory.current").exists() and int((inner / "memory.current").read_text()) > HELD
    ):
        time.sleep(0.2)
    try:
        yield {"files": str(inner.relative_to(PLACE)), "systemd": f"system.slice/{NAME}.service"}
    finally:
        systemctl("stop", *fragments)
        for name in fragments:
            (Path("/run/systemd/system") / name).unlink()
        script.unlink()
        systemctl("daemon-reload")
        assert not (PLACE / f"system.slice/{NAME}.service").exists()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    journal = Journal(tmp_path / "run", repair.boot_id())
    ledger = Ledger(CATALOGUE, ACCESS, journal, time.monotonic)
    yield ledger
    ledger.restore()
    journal.close()


def named(entry: str, instance: str) -> Knob:
    """The concrete knob; with the test's disk if it is one of a disk."""
    per_disk = KNOBS[entry].per == "cgroup_disk"
    if per_disk and not DISK:
        pytest.skip(f"{entry}: there is no second disk")
    return CATALOGUE[f"{entry}@{instance}" + (f":{DISK}" if per_disk else "")]


def other(knob: Knob, now: Value) -> Value:
    """A legal value that is not the present one."""
    match knob.type:
        case KnobType.INTS:
            return (50000, 100000)
        case KnobType.BOOL:
            return 1 - int(str(now))
        case KnobType.CPUS:
            return "0"
    return {"cgroup.cpu.max.burst": 0, "cgroup.cpu.uclamp.min": 1234, "cgroup.cpu.uclamp.max": 9876}.get(
        knob.id.partition("@")[0], 64 << 20 if knob.unit == "bytes" else 250
    )


def file_of(knob: Knob, instance: str) -> str:
    return (PLACE / instance / knob.target.removeprefix(f"{knob.instance}/").partition("/")[0]).read_text()


def settled(holds: Callable[[], bool]) -> bool:
    """systemd answers first, and writes the cgroup's files in its next round."""
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("way", ["files", "systemd"])
@pytest.mark.parametrize("entry", [id for id in KNOBS if not KNOBS[id].stateless])
def test_written_shown_by_the_kernel_and_put_back(
    units: dict[str, str], ledger: Ledger, entry: str, way: str
) -> None:
    knob = named(entry, units[way])
    if why := ACCESS["cgroup"].probe(knob).why:
        pytest.skip(f"{entry} by {way}: {why}")
    value, wanted = ledger.value(knob.id), other(knob, ledger.value(knob.id))
    text, file = ACCESS["cgroup"].read_text(knob), file_of(knob, units[way])
    cat, enabled = (
        systemctl("cat", f"{NAME}.service"),
        (PLACE / "system.slice/cgroup.subtree_control").read_text(),
    )
    done = ledger.apply("t", "r", (Write(knob.id, wanted),))
    assert done.after == (Write(knob.id, wanted),)
    assert wanted == value or settled(lambda: file_of(knob, units[way]) != file), f"the kernel shows {file!r}"
    systemctl("daemon-reload")
    assert ledger.audit() == (), "nobody has taken it back"
    assert ledger.value(knob.id) == wanted
    assert {(o.status, o.why) for o in ledger.restore()} <= {("restored", ""), ("unchanged", "")}
    assert ACCESS["cgroup"].read_text(knob) == text
    assert settled(lambda: file_of(knob, units[way]) == file), f"the kernel's file was {file!r}"
    assert systemctl("cat", f"{NAME}.service") == cat
    assert settled(lambda: (PLACE / "system.slice/cgroup.subtree_control").read_text() == enabled)


def test_a_raw_write_would_not_have_lasted(units: dict[str, str]) -> None:
    """Why the way through systemd is needed at all."""
    file = PLACE / units["systemd"] / "cpu.weight"
    if not file.exists():
        pytest.skip("cgroup.cpu.weight: the cpu controller is not enabled in system.slice")
    file.write_text("777")
    systemctl("daemon-reload")
    assert settled(lambda: file.read_text() == "100\n")


def test_a_daemon_that_died_is_repaired_without_the_package(units: dict[str, str], tmp_path: Path) -> None:
    """By the copy in its runtime directory, which must have brought along what speaks with systemd."""
    knobs = [named(entry, units["systemd"]) for entry in ("cgroup.cpu.weight", "cgroup.memory.low")]
    before = [ACCESS["cgroup"].read_text(knob) for knob in knobs]
    journal = Journal(tmp_path / "run", repair.boot_id())
    writes = tuple(Write(knob.id, value) for knob, value in zip(knobs, (321, 8 << 20), strict=True))
    Ledger(CATALOGUE, ACCESS, journal, time.monotonic).apply("t", "r", writes)
    assert [ACCESS["cgroup"].read_text(knob) for knob in knobs] == ["321", "8388608"]
    journal.close()
    command = [
        "/usr/bin/python3",
        "-I",
        str(tmp_path / "run/repair.py"),
        "--runtime-dir",
        str(tmp_path / "run"),
    ]
    assert "restored" in subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    assert [ACCESS["cgroup"].read_text(knob) for knob in knobs] == before


def test_a_unit_that_is_gone_is_void(units: dict[str, str], ledger: Ledger) -> None:
    name = f"{NAME}-gone.scope"
    with subprocess.Popen(["systemd-run", "--quiet", "--scope", f"--unit={name}", "sleep", "600"]) as scope:
        try:
            place = PLACE / "system.slice" / name
            assert settled(lambda: (place / "cgroup.procs").exists())
            knobs = [
                named(e, f"system.slice/{name}").id for e in ("cgroup.cpu.weight", "cgroup.memory.reclaim")
            ]
            ledger.apply("t", "r", (Write(knobs[0], 50), Write(knobs[1], 4096)))
        finally:
            scope.terminate()
    assert settled(lambda: not place.exists())
    assert settled(lambda: systemctl("show", "-P", "LoadState", name).strip() == "not-found")
    restored = ledger.restore()
    outcomes = {o.knob: o.status for o in restored}
    assert set(knobs) <= outcomes.keys()
    assert set(outcomes.values()) == {"void"}, "\n".join(f"{o.status} {o.found} {o.why}" for o in restored)


def test_reclaim_is_a_deed_that_leaves_nothing_to_put_back(units: dict[str, str], ledger: Ledger) -> None:
    instance = units["files"]
    knob = named("cgroup.memory.reclaim", instance)
    if why := ACCESS["cgroup"].probe(knob).why:
        pytest.skip(f"{knob.id}: {why}")
    current = PLACE / instance / "memory.current"
    before = int(current.read_text())
    done = ledger.apply("t", "r", (Write(knob.id, 16 << 20),))
    print(f"memory.reclaim of 16 MiB: {before - int(current.read_text())} bytes in {done.seconds:.2f} s")
    assert int(current.read_text()) < before
    assert [(o.status, o.original) for o in ledger.restore()] == [("unchanged", "0")]


def test_the_loop_does_not_wait_for_high(units: dict[str, str], tmp_path: Path) -> None:
    """Most of the working set has to go: the write is done beside the loop, its knob in doubt until then."""
    knob, current = named("cgroup.memory.high", units["files"]), PLACE / units["files"] / "memory.current"
    before = int(current.read_text())
    hands = Hands(CATALOGUE, ACCESS, Journal(tmp_path / "run", repair.boot_id()), time.monotonic)
    try:
        started = time.monotonic()
        assert hands.apply(Apply("t", "r", (Write(knob.id, 4 << 20),))) == ()
        took = time.monotonic() - started
        assert hands.journal.rows[knob.id].status == RowStatus.IN_DOUBT
        assert [o.status for o in hands.ledger.restore()] == ["failed"], "not while it is in doubt"
        assert select.select([hands.aside], [], [], 60)[0], "the write has not come back"
        (applied,) = hands.come_back()
        assert isinstance(applied, Applied)
        print(f"memory.high 4 MiB, {before} in use: {took:.3f} s, back after {applied.seconds:.3f} s")
        assert int(current.read_text()) < before
        assert hands.journal.rows[knob.id].status == RowStatus.OPEN
        assert [o.status for o in hands.ledger.restore()] == ["restored"]
    finally:
        hands.ledger.restore()
        hands.close()


def test_a_disks_limit_is_felt(units: dict[str, str], ledger: Ledger) -> None:
    knob = named("cgroup.io.max.rbps", units["files"])
    if why := ACCESS["cgroup"].probe(knob).why:
        pytest.skip(f"{knob.id}: {why}")

    def bytes_in_two_seconds() -> int:
        code = (
            "import mmap, os, time\n"
            f"open({str(PLACE / units['files'] / 'cgroup.procs')!r}, 'w').write('0')\n"
            f"fd = os.open('/dev/{DISK}', os.O_RDONLY | os.O_DIRECT); page = mmap.mmap(-1, 65536)\n"
            "end = time.monotonic() + 2; read = 0\n"
            "while time.monotonic() < end: read += os.preadv(fd, [page], read % (64 << 20))\n"
            "print(read)"
        )
        return int(subprocess.run(["python3", "-c", code], check=True, capture_output=True, text=True).stdout)

    free = bytes_in_two_seconds()
    ledger.apply("t", "r", (Write(knob.id, 1 << 20),))
    limited = bytes_in_two_seconds()
    ledger.restore()
    print(f"read in 2 s: {free} bytes, with 1 MiB/s {limited}, again without {bytes_in_two_seconds()}")
    assert limited < free / 4
