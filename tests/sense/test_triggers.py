from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sense.conftest import FILES, Tree
from tuned_spec.sense.triggers import MAX_CGROUPS, WINDOWS_S, Trigger, open_triggers


@pytest.fixture
def armed() -> list[Trigger]:
    """Triggers on the real host, or a skip with the kernel's reasons."""
    triggers, reasons = open_triggers(Path("/"))
    if reasons:
        for trigger in triggers:
            os.close(trigger.fd)
        pytest.skip("; ".join(reasons))
    return triggers


def test_absent_psi_is_a_reason_and_not_an_error(tmp_path: Path) -> None:
    triggers, reasons = open_triggers(tmp_path, ["web"])
    assert triggers == []
    assert len(reasons) == 6
    assert "psi=1" in reasons[0]
    assert "no cgroup2 file system is mounted" in reasons[3]


def test_files_that_are_not_the_kernels_are_left_alone(tree: Tree) -> None:
    triggers, reasons = open_triggers(tree.root)
    assert triggers == []
    assert "Operation not permitted" in reasons[0]
    assert (tree.root / "proc/pressure/cpu").read_text() == FILES["proc/pressure/cpu"]


def test_cgroups_are_bounded_in_number_and_in_place(tmp_path: Path) -> None:
    _, reasons = open_triggers(tmp_path, [f"c{n}" for n in range(MAX_CGROUPS + 2)])
    assert reasons[:2] == [
        f"cgroup c{n}: no trigger, only {MAX_CGROUPS} cgroups get one" for n in (MAX_CGROUPS, MAX_CGROUPS + 1)
    ]
    _, reasons = open_triggers(
        tmp_path, ["web"], {"cgroup.psi.io.full@db": 0.1, "cgroup.psi.io.some@x/*": 0.1}
    )
    assert [why.split(":")[0] for why in reasons if "cgroup2" in why] == [
        *(f"cgroup.psi.{what}.some@web" for what in ("cpu", "memory", "io")),
        *(f"cgroup.psi.{what}.some@db" for what in ("cpu", "memory", "io")),
        "cgroup.psi.io.full@db",
    ]
    assert reasons[0] == "cgroup x/*: no trigger, the cgroups that a glob means come and go"
    _, reasons = open_triggers(Path("/"), ["../../proc"])
    assert [why for why in reasons if "not a pressure metric" in why]


@pytest.mark.kernel
def test_real_pressure_wakes_the_poll(armed: list[Trigger]) -> None:
    assert [trigger.name for trigger in armed] == ["psi.cpu.some", "psi.memory.some", "psi.io.some"]
    assert all(trigger.window_s in WINDOWS_S for trigger in armed)
    hogs = [
        subprocess.Popen(
            [sys.executable, "-c", "import time\nend = time.time() + 15\nwhile time.time() < end: pass"]
        )
        for _ in range(2 * (os.cpu_count() or 1) + 2)
    ]
    try:
        with select.epoll() as poll:
            for trigger in armed:
                poll.register(trigger.fd, select.EPOLLPRI)
            seen: dict[int, int] = {}
            for _ in range(20):
                seen |= dict(poll.poll(12.0))
                if armed[0].fd in seen:
                    break
        assert seen.get(armed[0].fd) == select.EPOLLPRI
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        for trigger in armed:
            os.close(trigger.fd)


@pytest.mark.kernel
def test_a_rules_own_level_is_armed_a_little_above_it() -> None:
    triggers, reasons = open_triggers(
        Path("/"), levels={"psi.cpu.some": 0.4, "psi.io.full": 0.0, "psi.io.full.avg10": 1.0}
    )
    for trigger in triggers:
        os.close(trigger.fd)
    if not triggers:
        pytest.skip("; ".join(reasons))
    shares = {trigger.name: trigger.share for trigger in triggers}
    assert shares == {
        "psi.cpu.some": pytest.approx(0.42),
        "psi.memory.some": 0.05,
        "psi.io.some": 0.1,
        "psi.io.full": 0.01,
    }
    assert reasons == ["psi.io.full.avg10: not a pressure metric that can wake us"]


@pytest.mark.kernel
def test_the_trigger_of_a_cgroup_says_when_it_is_gone(own_cgroup: Callable[[], Path]) -> None:
    group = own_cgroup()
    triggers, reasons = open_triggers(Path("/"), [f"/{group.name}/"])
    mine = [trigger for trigger in triggers if trigger.name.endswith(f"@{group.name}")]
    try:
        if len(mine) != 3:
            pytest.skip("; ".join(reasons))
        with select.epoll() as poll:
            poll.register(mine[0].fd, select.EPOLLPRI)
            assert poll.poll(0) == []
            group.rmdir()
            assert [event & select.EPOLLERR for _, event in poll.poll(5.0)] == [select.EPOLLERR]
    finally:
        for trigger in triggers:
            os.close(trigger.fd)


@pytest.mark.kernel
def test_without_privilege_there_are_slow_triggers_or_reasons() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    program = (
        "import os, sys; from pathlib import Path\n"
        "from tuned_spec.sense.triggers import open_triggers\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "triggers, reasons = open_triggers(Path('/'))\n"
        "print([t.window_s for t in triggers], len(reasons))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[2.0, 2.0, 2.0] 0", "[] 3")  # before Linux 6.5: none
