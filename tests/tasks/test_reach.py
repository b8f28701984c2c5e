"""Attributes of tasks on the real kernel; which tasks a selector means; who may have inherited."""

from __future__ import annotations

import ast
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks.crowd import Crowd, crowd
from tuned_spec.knobs import reach
from tuned_spec.knobs.reach import task

SOURCE = Path(task.__file__)


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Crowd]:
    if os.geteuid() != 0:
        pytest.skip("task.*: needs root")
    with crowd(tmp_path) as started:
        yield started


def test_it_is_python_3_9_and_the_standard_library() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - {""} <= sys.stdlib_module_names


# -------------------------------------------------------------------------------- attributes


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ("nice", "7"),
        ("nice", "-3"),
        ("policy", "batch"),
        ("policy", "idle"),
        ("policy", "fifo/3"),
        ("slice_us", "5000"),
        ("slice_us", "1234.567"),
        ("ioprio", "be/6"),
        ("ioprio", "idle"),
        ("cpus", "0"),
        ("oom_score_adj", "300"),
        ("timer_slack_ns", "70000"),
        ("autogroup", "3"),
    ],
)
def test_set_read_back_and_put_back(some: Crowd, attribute: str, text: str) -> None:
    address = f"task:{some.tids[1]}/{attribute}"
    try:
        before = task.read(address)
    except OSError as error:
        pytest.skip(f"task.{attribute}: {error}")
    assert before != text
    task.write(address, text)
    assert task.read(address) == text
    task.write(address, before)
    assert task.read(address) == before


@pytest.mark.kernel
def test_nice_and_slice_are_of_one_thread_and_outlive_a_change_of_policy(some: Crowd) -> None:
    one, other = some.tids[1:3]
    task.write(f"task:{one}/nice", "4")
    task.write(f"task:{one}/slice_us", "20000")
    for policy in ("idle", "batch", "other"):
        task.write(f"task:{one}/policy", policy)
        assert (task.read(f"task:{one}/nice"), task.read(f"task:{one}/slice_us")) == ("4", "20000")
    assert (task.read(f"task:{other}/nice"), task.read(f"task:{other}/slice_us")) == ("0", "0")


@pytest.mark.kernel
def test_a_default_slice_reads_as_0_and_its_number_means_the_default(some: Crowd) -> None:
    address = f"task:{some.tids[1]}/slice_us"
    base = task._attributes(some.tids[2])[5]  # what the kernel shows for a task that nobody has touched
    assert base > 0
    task.write(address, "50000")
    task.write(address, str(base // 1000))
    assert task.read(address) == "0"
    task.write(address, "20")  # the kernel's clamp
    assert task.read(address) == "100"
    task.write(address, "0")
    assert task._attributes(some.tids[1])[5] == base


@pytest.mark.kernel
def test_reset_on_fork_is_kept(some: Crowd) -> None:
    tid = some.tids[1]
    os.sched_setscheduler(tid, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    task.write(f"task:{tid}/policy", "idle")
    task.write(f"task:{tid}/slice_us", "9000")
    assert os.sched_getscheduler(tid) == os.SCHED_IDLE | os.SCHED_RESET_ON_FORK


@pytest.mark.kernel
def test_what_is_gone_is_not_found(some: Crowd) -> None:
    child = some.say("fork")
    start = task.stat(child).start
    assert reach.gone(f"start:{start}@{child}") == ""
    assert "is another one now" in reach.gone(f"start:{start - 1}@{child}")
    ended(child, some)
    assert "No such file" in reach.gone(f"start:{start}@{child}")
    for attribute in task._READERS:
        with pytest.raises(FileNotFoundError):
            task.read(f"task:{child}/{attribute}")
        with pytest.raises(FileNotFoundError):
            task.write(f"task:{child}/{attribute}", {"policy": "idle", "ioprio": "idle"}.get(attribute, "1"))


def ended(child: int, some: Crowd) -> None:
    fd = os.pidfd_open(child)
    some.end()
    select.select([fd], [], [])
    os.close(fd)
    while Path(f"/proc/{child}").exists():  # until PID 1 has taken note
        os.sched_yield()


@pytest.mark.parametrize("address", ["task:0/nice", "task:x/nice", "task:1/nicer", "task:1", "task:-1/nice"])
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(OSError, match="no such attribute"):
        task.read(address)


@pytest.mark.kernel
@pytest.mark.parametrize(("attribute", "text"), [("nice", "x"), ("policy", "best"), ("cpus", "9-x")])
def test_a_text_that_is_no_value_is_einval(some: Crowd, attribute: str, text: str) -> None:
    with pytest.raises(OSError, match="is nothing for"):
        task.write(f"task:{some.pid}/{attribute}", text)


# --------------------------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exe=redis-server", task.Selector("redis-server")),
        ("exe=nginx*", task.Selector("nginx*")),
        ("cgroup=/system.slice/x.service", task.Selector(cgroup="system.slice/x.service")),
        ("exe=tar,cgroup=backup.slice", task.Selector("tar", "backup.slice")),
        ("cgroup=backup.slice,exe=tar", task.Selector("tar", "backup.slice")),
        ("cgroup=cpu:/a/b", task.Selector(cgroup="a/b", hierarchy="cpu")),
        ("cgroup=s.slice/dbus-:1.2-x@0.service", task.Selector(cgroup="s.slice/dbus-:1.2-x@0.service")),
        ("exe=a,b", task.Selector("a,b")),
    ],
)
def test_selectors(text: str, expected: task.Selector) -> None:
    assert task.selector(text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("redis", "is not exe=GLOB"),
        ("", "means every task"),
        ("pid=3", "is not exe=GLOB"),
        ("exe=", "means every task"),
        ("exe=*", "means every task"),
        ("cgroup=/", "means every task"),
        ("exe=x,cgroup=/", "means every task"),
        ("exe=/usr/bin/x", "without its directories"),
    ],
)
def test_what_is_no_selector(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        task.selector(text)


def process(proc: Path, pid: int, exe: str, comm: str = "x", cgroup: str = "0::/\n", flags: int = 0) -> None:
    """One process with one thread in a tree that looks like /proc."""
    for directory in (proc / str(pid), proc / str(pid) / "task" / str(pid)):
        directory.mkdir(parents=True)
        tail = f"S 7 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {pid}00 0 0"
        (directory / "stat").write_text(f"{pid} ({comm}) {tail}")
    (proc / str(pid) / "exe").symlink_to(f"/usr/bin/{exe}")
    (proc / str(pid) / "cgroup").write_text(cgroup)


def test_by_name_cgroup_and_both(tmp_path: Path) -> None:
    v1 = "9:name=systemd:/web.slice/n.service\n4:memory:/other\n0::/\n"
    process(tmp_path, 1, "nginx")
    process(tmp_path, 20, "nginx", cgroup="0::/web.slice/n.service\n")
    process(tmp_path, 21, "nginx (deleted)", cgroup="0::/web.slice\n")
    process(tmp_path, 22, "redis", cgroup="0::/web.slice2\n")
    process(tmp_path, 23, "redis", cgroup=v1)
    process(tmp_path, 24, "nginx", flags=task.KERNEL_THREAD)

    def found(text: str) -> list[int]:
        return sorted(t.tid for t in task.matching(task.selector(text), proc=str(tmp_path)))

    assert found("exe=nginx") == [20, 21]
    assert found("exe=n*") == [20, 21]
    assert found("cgroup=web.slice") == [20, 21, 23]
    assert found("exe=redis,cgroup=web.slice") == [23]
    assert found("cgroup=memory:/other") == [23]
    assert found("cgroup=web.slice/n.service") == [20, 23]


@pytest.mark.parametrize("comm", ["a) R 1 1 1", "(", ")", "two words", "\n", "\\", "\x1b[31m", ""])
def test_a_hostile_comm_changes_nothing(tmp_path: Path, comm: str) -> None:
    process(tmp_path, 20, "nginx", comm=comm)
    (found,) = task.matching(task.selector("exe=nginx"), proc=str(tmp_path))
    assert (found.comm, found.state, found.parent, found.start) == (comm, "S", 7, 2000)


@pytest.mark.kernel
def test_a_hostile_comm_on_the_kernel(some: Crowd) -> None:
    some.say("name", "a) Z 1 (x\x1b[2J")
    found = task.matching(task.selector(f"exe={some.exe}"))
    assert sorted(t.tid for t in found) == sorted(some.tids)


@pytest.mark.kernel
def test_all_threads_but_not_our_own_children(some: Crowd) -> None:
    some.say("fork", "/bin/cat")
    assert {t.tid for t in task.matching(task.selector("exe=ts-c?owd"))} == set(some.tids)
    assert os.getpid() not in {t.tgid for t in task.matching(task.selector("exe=python*"))}


# ------------------------------------------------------------------------------------- heirs


@pytest.mark.kernel
def test_heirs_are_later_threads_and_descendants(some: Crowd) -> None:
    before = some.say("fork", "/bin/cat")
    start = task.stat(some.tids[-1]).start
    elders = dict.fromkeys(some.tids, 0.0)
    thread, child = some.say("thread"), some.say("fork", "/bin/cat")
    assert {(t.tid, elder) for t, elder in task.heirs(elders)} == {
        (before, some.pid),
        (thread, some.pid),
        (child, some.pid),
    }
    later = dict.fromkeys(some.tids, (start + 10_000) / task.TICKS)
    assert task.heirs(later) == []
    thread_only = {some.tids[2]: 0.0}
    assert (child, some.tids[2]) in {(t.tid, elder) for t, elder in task.heirs(thread_only)}
