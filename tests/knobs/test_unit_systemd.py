"""Settings of a real unit under a real systemd: changed, kept over a reload, put back to the last drop-in.

Needs systemd as PID 1, and root; the unit is one that the test makes. A container will do: it may have no
controllers, but properties and drop-ins are as real as anywhere. For example

    mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,python3-venv bookworm TREE
    systemd-nspawn -D TREE --volatile=overlay --private-network --capability=all --bind=CHECKOUT -b

and in it, from CHECKOUT, `pytest tests/knobs/test_unit_systemd.py` (two minutes, nearly all of it reloads).
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuned_spec.knobs import reach
from tuned_spec.knobs.reach import unit

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="systemd's unit properties: root is needed to set them"),
    pytest.mark.skipif(
        not Path("/run/systemd/private").is_socket() or Path("/proc/1/comm").read_text().strip() != "systemd",
        reason="systemd's unit properties: PID 1 is not systemd here",
    ),
]

NAME = f"tuned-spec-test-{os.getpid()}.service"
FRAGMENT = Path("/run/systemd/system") / NAME
DROPINS = Path("/run/systemd/system.control") / f"{NAME}.d"
# What goes on in the unit meanwhile, and what a reload forgets, is none of its settings.
VOLATILE = re.compile(
    r"Exec\w+|\w*Timestamp\w*|\w*PID|InvocationID|ControlGroupId"
    r"|(CPU|Memory|IO|IP|Tasks)\w*(NSec|Current|Available|Bytes|Operations|Packets)"
)


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout


def snapshot(name: str = NAME) -> tuple[dict[str, list[str]], str]:
    """All properties of the unit, and all of its files."""
    shown = (line.partition("=") for line in systemctl("show", name).splitlines())
    settings = {key: sorted(value.split()) for key, _, value in shown if not VOLATILE.fullmatch(key)}
    return settings, systemctl("cat", name)


@pytest.fixture(
    params=["", "CPUWeight=300\nMemoryHigh=64M\nCPUQuota=70%\nTasksMax=77\n"], ids=["plain", "set"]
)
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    """A unit that runs, with or without settings of its own; in the end it is as the test found it."""
    FRAGMENT.write_text(f"[Service]\nExecStart=sleep infinity\n{request.param}")
    systemctl("daemon-reload")
    systemctl("start", NAME)
    systemctl("daemon-reload")  # it forgets the times of the start: from here on a reload changes nothing
    before = snapshot()
    try:
        yield NAME
        assert snapshot() == before
        assert not DROPINS.exists()
    finally:
        systemctl("stop", NAME)
        systemctl("revert", NAME)
        FRAGMENT.unlink(missing_ok=True)
        systemctl("daemon-reload")


VALUES = {
    "AllowedCPUs": "0",
    "AllowedMemoryNodes": "0",
    "CPUQuota": "30000 50000",
    "CPUWeight": "200",
    "IODeviceLatency/null": "10000",
    "IOReadBandwidthMax/null": "1000000",
    "IOReadIOPSMax/null": "1000",
    "IOWeight": "50",
    "IOWriteBandwidthMax/null": "2000000",
    "IOWriteIOPSMax/null": "2000",
    "MemoryHigh": "104857600",
    "MemoryLow": "max",
    "MemoryMin": "8192",
    "MemorySwapMax": "0",
    "MemoryZSwapMax": "0",
    "TasksMax": "500",
}


def test_every_setting_has_a_value_here() -> None:
    assert {name.partition("/")[0] for name in VALUES} == set(unit.PROPERTIES) - {unit.IDLE}


@pytest.mark.parametrize("name", VALUES)
def test_it_is_set_outlives_a_reload_and_goes_back(service: str, name: str) -> None:
    if not unit.known(name.partition("/")[0]):
        pytest.skip(f"{name}: this systemd does not have it")
    address, value = f"unit:{service}/{name}", VALUES[name]
    original = unit.read(address)
    assert unit.value(original) != value
    unit.write(address, original)
    assert unit.read(address) == original
    assert not DROPINS.exists(), "writing what stands is no change"
    unit.write(address, value)
    assert unit.read(address) == value
    systemctl("daemon-reload")
    assert unit.read(address) == value
    unit.write(address, original)
    assert unit.read(address) == original


def test_a_dropin_that_was_there_is_there_again(service: str) -> None:
    address = f"unit:{service}/CPUWeight"
    systemctl("set-property", "--runtime", service, "CPUWeight=333")
    there = snapshot()
    assert unit.read(address) == "333"
    unit.write(address, "444")
    unit.write(address, "333")
    assert snapshot() == there
    systemctl("set-property", "--runtime", service, "CPUWeight=")
    there = snapshot()
    original = unit.read(address)
    assert original == "100 (unset)"
    unit.write(address, "444")
    unit.write(address, original)
    assert snapshot() == there
    systemctl("revert", service) if not FRAGMENT.exists() else (DROPINS / "50-CPUWeight.conf").unlink()
    DROPINS.rmdir()
    systemctl("daemon-reload")


def test_a_dropin_of_another_hand_in_that_place_comes_back_word_for_word(service: str) -> None:
    address, file = f"unit:{service}/CPUWeight", DROPINS / "50-CPUWeight.conf"
    DROPINS.mkdir(parents=True)
    text = "[Service]\n# set by hand,  with care\nCPUWeight=222\nNice=3\n"
    file.write_text(text)
    systemctl("daemon-reload")
    there, original = snapshot(), unit.read(address)
    assert unit.value(original) == "222"
    assert len(original.splitlines()) == 1
    unit.write(address, "444")
    assert "Nice" not in file.read_text()
    unit.write(address, " ".join(original.split()))  # as the journal keeps texts: blanks folded
    assert file.read_text() == text
    assert snapshot() == there
    file.unlink()
    DROPINS.rmdir()
    systemctl("daemon-reload")


def test_idle_is_a_weight_and_goes_back_with_it(service: str) -> None:
    idle, weight = f"unit:{service}/CPUIdle", f"unit:{service}/CPUWeight"
    original = unit.read(weight)
    assert unit.read(idle) == "0"
    unit.write(idle, "1")
    assert (unit.read(idle), unit.read(weight)) == ("1", "0")
    systemctl("daemon-reload")
    assert (unit.read(idle), unit.read(weight)) == ("1", "0")
    unit.write(idle, "0")
    assert (unit.read(idle), unit.read(weight)) == ("0", "100 (unset)")
    unit.write(weight, original)
    assert (unit.read(idle), unit.read(weight)) == ("0", original)


def test_dropins_of_others_stay(service: str) -> None:
    systemctl("set-property", "--runtime", service, "TasksMax=99")
    there = snapshot()
    original = unit.read(f"unit:{service}/CPUWeight")
    unit.write(f"unit:{service}/CPUWeight", "444")
    unit.write(f"unit:{service}/CPUWeight", original)
    assert snapshot() == there
    (DROPINS / "50-TasksMax.conf").unlink()
    DROPINS.rmdir()
    systemctl("daemon-reload")


def test_dying_between_the_removal_and_the_reload_leaves_ours(service: str) -> None:
    address = f"unit:{service}/CPUWeight"
    original = unit.read(address)
    unit.write(address, "444")
    (DROPINS / "50-CPUWeight.conf").unlink()
    DROPINS.rmdir()
    assert unit.read(address) == "444", "still in force, so still ours"
    unit.write(address, original)
    assert unit.read(address) == original


@pytest.mark.parametrize("order", [("null", "zero"), ("zero", "null")])
def test_the_disks_of_one_setting_share_a_dropin_and_go_back_in_any_order(
    service: str, order: tuple[str, str]
) -> None:
    originals = {disk: unit.read(f"unit:{service}/IOReadIOPSMax/{disk}") for disk in ("null", "zero")}
    assert set(originals.values()) == {"max (no drop-in)"}
    for disk, limit in (("null", "1000"), ("zero", "2000")):
        unit.write(f"unit:{service}/IOReadIOPSMax/{disk}", limit)
    assert [unit.read(f"unit:{service}/IOReadIOPSMax/{disk}") for disk in originals] == ["1000", "2000"]
    for disk in order:
        unit.write(f"unit:{service}/IOReadIOPSMax/{disk}", originals[disk])
        assert unit.read(f"unit:{service}/IOReadIOPSMax/{disk}") == originals[disk]


def test_a_stopped_unit_still_goes_back(service: str) -> None:
    address = f"unit:{service}/CPUWeight"
    original = unit.read(address)
    unit.write(address, "444")
    systemctl("restart", service)
    assert unit.read(address) == "444"
    systemctl("stop", service)
    unit.write(address, original)
    assert not DROPINS.exists()
    systemctl("start", service)
    systemctl("daemon-reload")
    assert unit.read(address) == original


def test_a_value_that_a_later_dropin_would_undo_is_refused(service: str) -> None:
    later = Path("/run/systemd/system") / f"{service}.d" / "60-limits.conf"
    later.parent.mkdir()
    later.write_text("[Service]\nCPUWeight = 50\n")
    systemctl("daemon-reload")
    with pytest.raises(OSError, match=re.escape(str(later))):
        unit.usable(f"unit:{service}/CPUWeight")
    unit.usable(f"unit:{service}/IOWeight")
    later.unlink()
    later.parent.rmdir()
    systemctl("daemon-reload")


def test_a_transient_unit_keeps_its_dropins_where_they_belong() -> None:
    name = f"tuned-spec-run-{os.getpid()}.scope"
    with subprocess.Popen(
        ["systemd-run", "--quiet", "--scope", f"--unit={name}", "-p", "CPUWeight=150", "sleep", "60"]
    ) as scope:
        try:
            address = f"unit:{name}/CPUWeight"
            for _ in range(500):
                if subprocess.run(["systemctl", "is-active", "-q", name], check=False).returncode == 0:
                    break
            systemctl("daemon-reload")
            before, original = snapshot(name), unit.read(address)
            assert unit.value(original) == "150"
            unit.write(address, "444")
            systemctl("daemon-reload")
            assert unit.read(address) == "444"
            unit.write(address, original)
            assert unit.read(address) == original
            assert snapshot(name) == before
        finally:
            scope.terminate()
    with pytest.raises(FileNotFoundError):
        unit.read(address)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_many_reads_in_a_row_share_a_connection_and_leave_none() -> None:
    address, before = "unit:system.slice/CPUWeight", descriptors()
    with reach.together():
        for _ in range(5):
            unit.read(address)
        assert descriptors() > before
        there = descriptors()
        unit.read(address)
        assert descriptors() == there
        systemctl("daemon-reexec")
        with pytest.raises(ConnectionError):
            unit.read(address)
        assert unit.read(address), "asked anew"
    assert descriptors() == before


def test_no_such_unit_is_gone_not_broken() -> None:
    for deed in (unit.read, lambda address: unit.write(address, "200")):
        with pytest.raises(FileNotFoundError, match="not-found"):
            deed("unit:tuned-spec-never.service/CPUWeight")


def test_what_systemd_refuses_is_said_in_its_words(service: str) -> None:
    with pytest.raises(OSError, match="systemd: ") as refused:
        unit.write(f"unit:{service}/CPUWeight", "20000")
    assert refused.value.errno == errno.EINVAL
