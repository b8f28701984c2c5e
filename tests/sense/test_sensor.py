from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.sense.conftest import Tree
from tuned_spec.model import Observation
from tuned_spec.sense.metrics import METRICS, Kind
from tuned_spec.sense.sensor import ALWAYS, BUSY_S, IDLE_S, MIN_WINDOW_S, Sense, pace


@contextlib.contextmanager
def sensing(
    root: Path, cgroups: tuple[str, ...] = (), wanted: frozenset[str] | None = None
) -> Iterator[Sense]:
    sense = Sense(root, cgroups, wanted)
    try:
        yield sense
    finally:
        sense.close()


def test_first_levels_then_rates(tree: Tree) -> None:
    with sensing(tree.root) as sense:
        first = sense.observe(100.0)
        assert first.values["cpu.running"] == 3
        assert first.values["mem.swap_used_share"] == 0.25
        assert first.values["psi.cpu.some.avg10"] == 0.125
        assert not [name for name in first.values if name.endswith("_per_s")]
        tree.change("proc/pressure/cpu", "total=1000000", "total=1400000")
        tree.change("proc/vmstat", "allocstall_normal 2", "allocstall_normal 10")
        tree.change("proc/stat", "cpu  100 10 50 800", "cpu  130 10 60 860")
        tree.change("proc/schedstat", "2000000000", "3000000000")
        values = sense.observe(102.0).values
    assert values["psi.cpu.some"] == pytest.approx(0.2)
    assert values["vm.allocstall_per_s"] == 4.0
    assert values["cpu.busy"] == pytest.approx(0.4)
    assert values["cpu.runqueue_wait"] == 0.5
    assert "psi.io.some" not in values


def test_two_looks_in_a_moment_share_one_interval(tree: Tree) -> None:
    with sensing(tree.root) as sense:
        sense.observe(0.0)
        sense.observe(1.0)
        tree.change("proc/stat", "ctxt 9000", "ctxt 9105")
        soon = sense.observe(1.0 + MIN_WINDOW_S / 2).values["cpu.ctxt_per_s"]
        assert soon == pytest.approx(105 / (1.0 + MIN_WINDOW_S / 2))
        assert sense.observe(2.0).values["cpu.ctxt_per_s"] == 105.0


def test_time_that_goes_back_starts_over(tree: Tree) -> None:
    with sensing(tree.root) as sense:
        sense.observe(50.0)
        assert "cpu.ctxt_per_s" in sense.observe(51.0).values
        assert "cpu.ctxt_per_s" not in sense.observe(10.0).values
        assert "cpu.ctxt_per_s" in sense.observe(11.0).values


def test_only_what_is_wanted_is_read(tree: Tree) -> None:
    name = "cgroup.psi.cpu.some@web/a.service"
    with sensing(tree.root, wanted=frozenset({name, "mem.dirty_bytes"})) as sense:
        sense.observe(0.0)
        values = sense.observe(1.0).values
    assert values[name] == 0.0
    assert values["mem.dirty_bytes"] == 8192
    assert "cpu.busy" not in values  # nothing moved: 0 of 0 ticks
    assert "cpu.ctxt_per_s" in values  # the pace needs it
    assert values.keys() <= ALWAYS | {name, "mem.dirty_bytes"}


def test_what_is_wanted_may_change_while_it_looks(tree: Tree) -> None:
    """What stays wanted goes on as it was; a source that is read otherwise begins anew, and never lies."""
    segments, opens, stalls = "tcp.out_segs_per_s", "tcp.active_opens_per_s", "vm.allocstall_per_s"
    with sensing(tree.root, ("web/a.service",), frozenset({segments, stalls})) as sense:
        sense.observe(100.0)
        tree.change("proc/net/snmp", "5 4 1000", "5 4 1100")
        tree.change("proc/vmstat", "allocstall_normal 2", "allocstall_normal 9")
        sense.want(frozenset({segments, opens, stalls}))
        values = sense.observe(101.0).values
        assert values[stalls] == 7.0 and "cgroup.psi.cpu.some@web/a.service" in values
        assert segments not in values and opens not in values
        tree.change("proc/net/snmp", "5 4 1100", "8 4 1300")
        values = sense.observe(102.0).values
        assert (values[opens], values[segments]) == (3.0, 200.0)
        sense.want(frozenset())
        values = sense.observe(103.0).values
        assert not {segments, opens, stalls} & values.keys() and "cpu.ctxt_per_s" in values
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for wanted in [frozenset({segments}), frozenset[str]()] * 20:
            sense.want(wanted)
            sense.observe(104.0)
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors, "they are given back"


def test_named_cgroups_are_read_whatever_is_wanted(tree: Tree) -> None:
    with sensing(tree.root, ("/web/a.service/",), frozenset({"mem.dirty_bytes"})) as sense:
        sense.observe(0.0)
        assert sense.observe(1.0).values["cgroup.psi.cpu.some@web/a.service"] == 0.0


def test_instances_come_and_go(tree: Tree) -> None:
    names = (
        "disk.reads_per_s@sd*",
        "disk.util@sdb",
        "nic.rx_link_share@*",
        "cpu.busy@cpu0",
        "irq.fired_per_s@*",
    )
    with sensing(tree.root, wanted=frozenset(names)) as sense:
        sense.observe(0.0)
        tree.change("proc/diskstats", " 253 0 sda 10 0", " 8 32 sdc 7 0 0 0 0 0 0 0 0 0 0\n 253 0 sda 16 0")
        tree.write("sys/block/sdc/size", "1\n")
        tree.change("proc/net/dev", "eth0: 100", "eth0: 62500100")
        tree.change("proc/stat", "cpu0 100 10 50 800", "cpu0 150 10 50 850")
        tree.change("proc/interrupts", "24:         10", "24:         13")
        first = sense.observe(1.0).values
        tree.change("proc/diskstats", " 253 16 sdb 1 0 8 2 0 0 0 0 0 1 2\n", "")
        second = sense.observe(2.0).values
    assert first["disk.reads_per_s@sda"] == 6 and first["disk.reads_per_s@sdb"] == 0
    assert "disk.reads_per_s@sdc" not in first and second["disk.reads_per_s@sdc"] == 0
    assert first["disk.util@sdb"] == 0 and "disk.util@sdb" not in second
    assert "disk.reads_per_s@sdb" not in second and "disk.util@sda" not in first
    assert first["nic.rx_link_share@eth0"] == 0.5
    assert first["cpu.busy@cpu0"] == 0.5
    assert first["irq.fired_per_s@24"] == 3


def test_how_full_tables_are(tree: Tree) -> None:
    names = (
        "neigh.fill_share",
        "tcp.mem_share",
        "fs.files_share",
        "kernel.threads_share",
        "ip.frag_mem_share",
    )
    with sensing(tree.root, wanted=frozenset(names)) as sense:
        values = sense.observe(0.0).values
        assert "No such file" in sense.absent()["ip.frag_mem_share"]
    assert [values.get(name) for name in names] == [10 / 1024, 4 / 400, 0.25, 0.25, None]


def test_absent_tells_a_name_that_is_wrong_from_a_thing_that_is_not_here(tree: Tree) -> None:
    names = (
        *(
            "disk.util@sdz",
            "disk.util@nvme*",
            "mem.dirty_bytes@x",
            "nic.rx_link_share@lo",
            "cgroup.cpu.usage",
        ),
        *("cgroup.memory.high_share@web/a.service", "cgroup.cpu.usage@web/*"),
    )
    tree.write("sys/fs/cgroup/uni fied/web/a.service/memory.current", "4096\n")
    tree.write("sys/fs/cgroup/uni fied/web/a.service/memory.high", "max\n")
    with sensing(tree.root, wanted=frozenset(names)) as sense:
        why = sense.absent()
    assert why["disk.util@sdz"] == "/proc/diskstats does not list sdz"
    assert "disk.util@nvme*" not in why  # one may come
    assert "has no instances" in why["mem.dirty_bytes@x"]
    assert "needs an instance" in why["cgroup.cpu.usage"]
    assert "does not say its speed" in why["nic.rx_link_share@lo"]
    assert "no limit is set" in why["cgroup.memory.high_share@web/a.service"]
    assert why["cgroup.cpu.usage@web/*"].startswith("cpu.stat: no cgroup that matches has it")


def test_absent_says_why(tree: Tree, tmp_path: Path) -> None:
    with sensing(tree.root, cgroups=("/gone", "../etc")) as sense:
        why = sense.absent()
    assert "psi=1" in why["psi.memory.some"]
    assert "does not show pswpin" in why["vm.pswpin_per_s"]
    assert "no such cgroup" in why["cgroup.psi.cpu.some@gone"]
    assert "not the path" in why["cgroup ../etc"]
    assert "cpu.busy" not in why and "disk.util" not in why
    with sensing(
        tmp_path / "empty", ("web",), frozenset({"cgroup.psi.io.full@web", "app.x", "psi.up"})
    ) as sense:
        why = sense.absent()
    assert "no cgroup2" in why["cgroup.psi.io.full@web"]
    assert "no metric of this name" in why["psi.up"]
    assert "app.x" not in why


def test_absent_knows_a_host_without_swap_or_disks(tree: Tree) -> None:
    tree.write("proc/meminfo", "MemTotal: 10 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")
    tree.write("proc/diskstats", "7 0 loop0 9 9 9 9 9 9 9 9 9 9 9\n")
    with sensing(tree.root) as sense:
        assert "no swap" in sense.absent()["mem.swap_used_share"]
        assert "whole disks" in sense.absent()["disk.util"]


def test_an_empty_host_gives_an_empty_observation(tmp_path: Path) -> None:
    with sensing(tmp_path) as sense:
        assert sense.observe(0.0).values == sense.observe(1.0).values == {}
        assert set(sense.absent()) == {name for name, metric in METRICS.items() if metric.alone}


def test_pace() -> None:
    def at(**values: float) -> float:
        return pace(Observation(0.0, {name.replace("__", "."): value for name, value in values.items()}))

    assert at() == BUSY_S  # not known to be idle
    assert at(cpu__busy=0.0, psi__cpu__some=0.0) == IDLE_S
    assert at(cpu__busy=0.0, psi__io__some=0.5) == BUSY_S
    assert at(cpu__busy=0.9, psi__io__some=0.0) == BUSY_S
    assert BUSY_S < at(cpu__busy=0.05) < IDLE_S


# --------------------------------------------------------------------------- the real host


def test_every_metric_of_this_host_is_known_or_said_to_be_absent() -> None:
    with sensing(Path("/")) as sense:
        sense.observe(time.monotonic())
        time.sleep(0.3)
        values = sense.observe(time.monotonic()).values
        alone = {name for name, metric in METRICS.items() if metric.alone}
        silent = alone - set(values) - set(sense.absent())
    # a ratio over nothing is unknown: no segment sent, no request made
    assert {METRICS[name].kind for name in silent if METRICS[name].source != "sock_diag"} <= {Kind.RATIO}


def test_rates_lie_between_what_psutil_counts_inside_and_around_the_interval() -> None:
    def counts() -> tuple[int, int]:
        stats = psutil.cpu_stats()
        return stats.ctx_switches, stats.interrupts

    with sensing(Path("/"), wanted=frozenset({"cpu.ctxt_per_s", "cpu.irq_per_s"})) as sense:
        around = counts()
        start = time.monotonic()
        sense.observe(start)
        inside = counts()
        time.sleep(0.5)
        inside_end = counts()
        end = time.monotonic()
        values = sense.observe(end).values
        around_end = counts()
    for at, name in enumerate(("cpu.ctxt_per_s", "cpu.irq_per_s")):
        counted = round(values[name] * (end - start))
        assert inside_end[at] - inside[at] <= counted <= around_end[at] - around[at]


def test_pressure_lies_between_what_the_file_says_inside_and_around_the_interval() -> None:
    file = Path("/proc/pressure/cpu")
    if not file.exists():
        pytest.skip("PSI is off on this host")

    def stalled() -> float:
        return int(file.read_text().split("total=")[1].split()[0]) / 1e6

    with sensing(Path("/")) as sense:
        around, start = stalled(), time.monotonic()
        sense.observe(start)
        inside = stalled()
        time.sleep(0.5)
        inside_end, end = stalled(), time.monotonic()
        share = sense.observe(end).values["psi.cpu.some"]
        around_end = stalled()
    low, high = (inside_end - inside) / (end - start), (around_end - around) / (end - start)
    assert min(low, 1.0) - 1e-6 <= share <= high + 1e-6


def test_memory_agrees_with_psutil() -> None:
    with sensing(Path("/")) as sense:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        values = sense.observe(0.0).values
    assert values["mem.available_share"] == pytest.approx(memory.available / memory.total, abs=0.05)
    if swap.total:
        assert values["mem.swap_used_share"] == pytest.approx(swap.used / swap.total, abs=0.05)


def test_real_connections_are_counted() -> None:
    connections = 40
    with (
        sensing(
            Path("/"), wanted=frozenset({f"tcp.{n}" for n in ("active_opens_per_s", "passive_opens_per_s")})
        ) as sense,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        start = time.monotonic()
        sense.observe(start)
        for _ in range(connections):
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()
        end = start + max(time.monotonic() - start, 2 * MIN_WINDOW_S)
        values = sense.observe(end).values
    assert round(values["tcp.active_opens_per_s"] * (end - start)) >= connections
    assert round(values["tcp.passive_opens_per_s"] * (end - start)) >= connections


def test_a_full_accept_queue_is_seen() -> None:
    with (
        sensing(Path("/"), wanted=frozenset({"tcp.listen_overflows_per_s"})) as sense,
        contextlib.ExitStack() as stack,
    ):
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        sense.observe(0.0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(server.getsockname())
        time.sleep(0.1)
        assert sense.observe(1.0).values["tcp.listen_overflows_per_s"] > 0


@pytest.mark.kernel
def test_a_cgroup_that_goes_and_comes_back_is_another_one(own_cgroup: Callable[[], Path]) -> None:
    group = own_cgroup()
    name = f"cgroup.psi.cpu.some@{group.name}"
    with sensing(Path("/"), wanted=frozenset({name})) as sense:
        sense.observe(0.0)
        assert sense.observe(1.0).values[name] == 0.0
        group.rmdir()
        assert name not in sense.observe(2.0).values
        assert "no such cgroup" in sense.absent()[name]
        own_cgroup()
        assert name not in sense.observe(3.0).values  # one reading makes no interval
        assert sense.observe(4.0).values[name] == 0.0
        assert sense.absent() == {}


def test_a_host_that_begins_to_work_stirs(tree: Tree) -> None:
    def stat(busy: int, idle: int, switches: int) -> None:
        cpu = f"{busy} 0 0 {idle} 0 0 0 0 0 0"
        tree.write("proc/stat", f"cpu  {cpu}\ncpu0 {cpu}\nintr 1 0\nctxt {switches}\n")

    sense = Sense(tree.root)
    for t, (busy, idle, switches) in enumerate([(0, 0, 0), (1, 100, 100)]):
        stat(busy, idle, switches)
        sense.observe(100.0 + t)
    stat(2, 200, 200)
    assert not sense.stirs(102.0), "as calm as before"
    stat(52, 250, 300)
    assert sense.stirs(103.0), "half of all CPU time"
    stat(53, 350, 1500)
    assert sense.stirs(104.0), "context switches far over the calm"
    stat(54, 450, 1600)
    assert not sense.stirs(105.0)
    sense.close()
