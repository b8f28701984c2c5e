"""Virtual machines: what is checked before one starts, and one real one where an image has been built."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from workloads.vm import image
from workloads.vm.__main__ import main
from workloads.vm.guest import Machine, _tap


def test_without_an_image_it_is_said_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--cache", str(tmp_path), "--", "true"]) == 1
    assert "run `python -m workloads.vm build`" in capsys.readouterr().err


def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["build", "--cache", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "apt install e2fsprogs mmdebstrap openssh-client qemu-system-x86 qemu-utils util-linux" in told


def test_an_image_is_of_its_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.wanted(tmp_path)
    assert before == image.wanted(tmp_path)
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "fio"))
    assert image.wanted(tmp_path) != before


def test_a_process_that_only_has_the_pid_is_not_the_machine(tmp_path: Path) -> None:
    machine = Machine(image.Image(tmp_path / "image"), "6.12", tmp_path)
    (tmp_path / "pid").write_text(str(os.getpid()))
    assert machine.pid() == 0
    assert machine.stop() is False


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to make a network namespace")
@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun")
def test_the_tap_device_is_not_in_this_namespace() -> None:
    here, names = Path("/proc/thread-self/ns/net").readlink(), set(socket.if_nameindex())
    for fd in _tap(2):
        assert set(socket.if_nameindex()) == names
        os.close(fd)
    assert Path("/proc/thread-self/ns/net").readlink() == here


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed for the machine's second network card")
def test_a_command_runs_in_the_guest_with_this_checkout(tmp_path: Path) -> None:
    if not image.wanted(image.cache()).disk.exists():
        pytest.skip("no image of a guest: python -m workloads.vm build")
    vm = [sys.executable, "-m", "workloads.vm"]
    one = ["--name", f"test-{os.getpid()}"]
    script = "uname -r; wc -l < docs/kernels.md; cat /proc/1/comm; exit 7"
    try:
        done = subprocess.run([*vm, "run", *one, "--", "sh", "-c", script], capture_output=True, text=True)
    finally:
        subprocess.run([*vm, "stop", *one], check=True, capture_output=True)
    lines = len((image.CHECKOUT / "docs/kernels.md").read_text().splitlines())
    release, count, init = done.stdout.split()
    assert release.startswith("6.12.")
    assert (int(count), init, done.returncode) == (lines, "systemd", 7), done.stderr
