"""Figures provoked on the real kernel: what is done shows in the metric that is for it."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tuned_spec.sense.sensor import Sense


def during(act: Callable[[], object], *names: str) -> dict[str, float]:
    """The metrics over the time that `act` takes, as growth: the interval counts as one second."""
    sense = Sense(Path("/"), wanted=frozenset(names))
    try:
        if absent := {name: why for name, why in sense.absent().items() if name in names}:
            pytest.skip(str(absent))
        sense.observe(0.0)
        act()
        return sense.observe(1.0).values
    finally:
        sense.close()


def test_bytes_over_loopback_count_on_their_device_and_cpus() -> None:
    sent = 200 * 1000

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind(("127.0.0.1", 0))
            for _ in range(200):
                here.sendto(bytes(1000), here.getsockname())
                here.recv(2000)

    names = ("nic.rx_bytes_per_s@lo", "nic.tx_packets_per_s@lo", "udp.in_datagrams_per_s")
    softirqs = ("softirq.net_rx_per_s", "softirq.net_rx_per_s@*", "net.softnet_processed_per_s")
    values = during(talk, *names, *softirqs)
    assert values["nic.rx_bytes_per_s@lo"] >= sent
    assert values["nic.tx_packets_per_s@lo"] >= 200
    assert values["udp.in_datagrams_per_s"] >= 200
    assert values["net.softnet_processed_per_s"] >= 200
    by_cpu = [value for name, value in values.items() if name.startswith("softirq.net_rx_per_s@")]
    assert len(by_cpu) >= len(os.sched_getaffinity(0))
    assert sum(by_cpu) == pytest.approx(values["softirq.net_rx_per_s"])
    assert values["softirq.net_rx_per_s"] > 0


@pytest.mark.parametrize(
    ("family", "host", "name"),
    [
        (socket.AF_INET, "127.0.0.1", "udp.rcvbuf_errors_per_s"),
        (socket.AF_INET6, "::1", "udp6.rcvbuf_errors_per_s"),
    ],
)
def test_a_full_receive_buffer(family: int, host: str, name: str) -> None:
    def flood() -> None:
        with (
            socket.socket(family, socket.SOCK_DGRAM) as deaf,
            socket.socket(family, socket.SOCK_DGRAM) as mouth,
        ):
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                deaf.bind((host, 0))
            except OSError as error:
                pytest.skip(f"{host}: {error}")
            for _ in range(100):
                mouth.sendto(bytes(1000), deaf.getsockname())

    assert during(flood, name)[name] > 0


def test_a_window_that_closes() -> None:
    def stuff() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)  # before the first window is told
            with socket.create_connection(server.getsockname()) as client, server.accept()[0]:
                client.setblocking(False)
                for _ in range(100):  # nobody reads at the other end
                    with contextlib.suppress(BlockingIOError):
                        client.send(bytes(65536))
                    time.sleep(0.01)

    assert during(stuff, "tcp.zero_window_per_s")["tcp.zero_window_per_s"] > 0


def test_what_is_synced_reaches_a_disk(tmp_path: Path) -> None:
    size = 4 << 20

    def written() -> int:
        return max((disk.write_bytes for disk in psutil.disk_io_counters(perdisk=True).values()), default=0)

    def sync() -> None:
        with (tmp_path / "file").open("wb") as file:
            file.write(os.urandom(size))
            file.flush()
            os.fsync(file.fileno())

    before = written()
    values = during(sync, "disk.write_bytes_per_s@*", "disk.writes_per_s@*", "vm.dirtied_per_s")
    if written() - before < size:
        pytest.skip(f"{tmp_path} is on no disk")
    assert sum(value for name, value in values.items() if name.startswith("disk.write_bytes_per_s@")) >= size
    assert sum(value for name, value in values.items() if name.startswith("disk.writes_per_s@")) > 0
    assert values["vm.dirtied_per_s"] >= size // mmap.PAGESIZE


def test_huge_pages_at_a_fault() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip(f"{enabled}: never")
    size = 64 << 20

    def touch() -> None:
        with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, size, mmap.PAGESIZE):
                memory[at] = 1

    names = ("vm.thp_fault_alloc_per_s", "vm.thp_fault_fallback_per_s", "vm.thp_fallback_share")
    values = during(touch, *names)
    assert values["vm.thp_fault_alloc_per_s"] + values["vm.thp_fault_fallback_per_s"] >= 16
    assert 0 <= values["vm.thp_fallback_share"] <= 1


@pytest.mark.kernel
def test_tasks_that_move_between_cpus() -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")

    def move() -> None:
        try:
            for turn in range(100):
                os.sched_setaffinity(0, {cpus[turn % 2]})
        finally:
            os.sched_setaffinity(0, cpus)

    assert during(move, "cpu.migrations_per_s")["cpu.migrations_per_s"] >= 50
    assert sorted(os.sched_getaffinity(0)) == cpus


def test_forks_and_files() -> None:
    def fork() -> None:
        for _ in range(20):
            subprocess.run(["true"], check=True)

    values = during(fork, "cpu.forks_per_s", "fs.files_share", "kernel.threads_share", "vm.pgfault_per_s")
    assert values["cpu.forks_per_s"] >= 20 and values["vm.pgfault_per_s"] >= 20
    assert 0 <= values["fs.files_share"] <= 1 and 0 < values["kernel.threads_share"] < 1
