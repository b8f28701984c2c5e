"""One running machine: started from an image's saved state, reached by ssh, ended by its own pid.

Owns the qemu process and the directory that describes it (`machine-NAME` in the cache). Nothing that a
machine does is kept: its disks are overlays that vanish with it. Must not know what is run inside.

A machine has a root disk, an idle disk (vdb), swap (vdc), a NIC for ssh (eth0), an idle one with two queues
(eth1), and idle ones whose drivers take other settings (eth2, and eth3 where the kernel has its driver): what
is tuned on SPARE harms nobody.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workloads.vm.image import HOME, KERNELS, Image, VmError

QEMU = "qemu-system-x86_64"
SPARE = "vdb eth1 eth2 eth3"
BOOT_S = 300.0  # emulated, on a noisy host: 40 s when it is quiet
ANSWER_S = 60.0
END_S = 15.0
_HARDWARE = (
    *("-M", "q35", "-cpu", "max", "-smp", "2", "-m", "1536", "-accel", "tcg,thread=multi,tb-size=512"),
    *("-display", "none", "-nodefaults", "-device", "virtio-rng-pci"),
    *("-device", "virtio-net-pci,netdev=n0,romfile="),
    *("-device", "virtio-net-pci,netdev=n1,romfile=,mq=on,vectors=6,mac=52:54:00:12:34:57"),
    *(
        "-device",
        "vmxnet3,romfile=,mac=52:54:00:12:34:58",
        "-device",
        "e1000e,romfile=,mac=52:54:00:12:34:59",
    ),
)
_APPEND = (
    "root=/dev/vda rw console=ttyS0 quiet psi=1 mitigations=off net.ifnames=0 "
    "systemd.unified_cgroup_hierarchy=1 transparent_hugepage=madvise"
)


class Machine:
    """`image` and `release` say what to boot, `directory` is this machine's alone."""

    def __init__(self, image: Image, release: str, directory: Path) -> None:
        if release not in KERNELS:
            raise VmError(f"no kernel {release!r}; there are {', '.join(KERNELS)}")
        self.image, self.release, self.directory = image, release, directory
        self.console = directory / "console.log"
        self._pid, self._port, self._qmp = directory / "pid", directory / "port", directory / "qmp.sock"
        fit = _fit()
        self._state = image.directory / f"state-{release}-{fit}"
        self._disk = image.directory / f"root-{release}-{fit}.qcow2"

    # ----------------------------------------------------------------------------- life

    @contextmanager
    def held(self, patience_s: float) -> Iterator[None]:
        """This machine for one command at a time; VmError when another has it for longer than that."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory / "lock", patience_s, "or take another machine with --name"):
            yield

    def start(self) -> None:
        """Running and reachable when this returns; from the saved state in a few seconds if there is one."""
        if self.pid():
            if self._is_of_image():
                return
            self.stop()  # it is of another image, with other keys
        self.prepare()
        self._launch("-incoming", f"exec:cat {shlex.quote(str(self._state))}", snapshot=True)
        self._wait_for_ssh(ANSWER_S)
        # The saved clock is as old as the state.
        self._ssh("date", "-s", f"@{time.time():.0f}")

    def prepare(self) -> None:
        """Boot once from cold, and keep memory and disk as they are then; nothing if that is done."""
        if self._state.exists():
            return
        with _locked(self._state.with_name(f"{self._state.name}.lock"), BOOT_S, "it makes what is needed"):
            if not self._state.exists():
                self._boot()

    def _boot(self) -> None:
        _say(f"first boot of {self.release}, to be kept")
        half_disk, half_state = (file.with_name(f"{file.name}.new") for file in (self._disk, self._state))
        half_disk.unlink(missing_ok=True)
        backing = ("-F", "qcow2", "-b", str(self.image.disk))
        _run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(half_disk))
        self._launch(disk=half_disk, snapshot=False)
        try:
            self._wait_for_ssh(BOOT_S)
            booted = self._ssh("systemctl", "is-system-running", "--wait", check=False)
            if booted != "running":
                failed = self._ssh("systemctl", "--failed", "--plain", "--no-legend", check=False)
                raise VmError(f"the guest is {booted}: {failed}")
            self._ssh("sync")
            self._drop_ssh()
            self._command("migrate-set-parameters", {"max-bandwidth": 1 << 40})
            self._command("migrate", {"uri": f"exec:cat > {shlex.quote(str(half_state))}"})
            _wait(self._saved, ANSWER_S, "the state to be saved")
        finally:
            self.stop()
        half_disk.rename(self._disk)
        half_state.rename(self._state)

    def _saved(self) -> bool:
        status = self._command("query-migrate")
        if status.get("status") == "failed":
            raise VmError(f"the state could not be saved: {status.get('error-desc', status)}")
        return bool(status.get("status") == "completed")

    def stop(self) -> bool:
        """End the machine; False if it was not running."""
        pid = self.pid()
        if not pid:
            return False
        self._drop_ssh()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            with suppress(VmError):
                _wait(lambda: not self.pid(), END_S, f"qemu (process {pid}) to end")
                return True
        raise VmError(f"qemu (process {pid}) does not end, even by SIGKILL")

    def pid(self) -> int:
        """The process of this machine, or 0. A pid in a file proves nothing: its command line does."""
        try:
            pid = int(self._pid.read_text())
            mine = str(self._qmp).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if mine else 0

    def _is_of_image(self) -> bool:
        return str(self.image.directory).encode() in Path(f"/proc/{self.pid()}/cmdline").read_bytes()

    def _launch(self, *more: str, snapshot: bool, disk: Path | None = None) -> None:
        port = _free_port()
        overlay = "on" if snapshot else "off"
        queues = _tap(2)
        command = [
            *(QEMU, "-name", self.directory.name, *_HARDWARE, "-daemonize", "-pidfile", str(self._pid)),
            *("-kernel", str(self.image.kernel(self.release)), "-append", _APPEND),
            *("-initrd", str(self.image.initrd(self.release)), "-serial", f"file:{self.console}"),
            *("-qmp", f"unix:{self._qmp},server=on,wait=off"),
            *("-drive", f"file={disk or self._disk},format=qcow2,if=virtio,cache=unsafe,snapshot={overlay}"),
            *("-drive", f"file={self.image.spare},format=raw,if=virtio,cache=unsafe,snapshot=on"),
            *("-drive", f"file={self.image.swap},format=raw,if=virtio,cache=unsafe,snapshot=on"),
            *("-netdev", f"user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-netdev", f"tap,id=n1,vhost=off,fds={':'.join(map(str, queues))}"),
            *more,
        ]
        self._port.write_text(str(port))
        self._pid.unlink(missing_ok=True)
        try:
            _run(*command, pass_fds=queues)
        finally:
            for fd in queues:
                os.close(fd)

    def _command(self, name: str, arguments: dict[str, Any] | None = None) -> Any:
        """One QMP command; its `return`."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(ANSWER_S)
            door.connect(str(self._qmp))
            with door.makefile("rwb") as stream:
                for command in ("qmp_capabilities", name):
                    more = {"arguments": arguments} if command == name and arguments else {}
                    stream.write(json.dumps({"execute": command} | more).encode() + b"\n")
                    stream.flush()
                    # What comes between is the greeting, or events.
                    answer = next(line for line in map(json.loads, stream) if {"return", "error"} & set(line))
                    if "error" in answer:
                        raise VmError(f"qemu, {command}: {answer['error']['desc']}")
        return answer["return"]

    # ------------------------------------------------------------------------------ ssh

    def _wait_for_ssh(self, patience_s: float) -> None:
        def answers() -> bool:
            if not self.pid():
                raise VmError(f"qemu ended while the guest started; see {self.console}")
            return subprocess.run(self.ssh("true"), capture_output=True, check=False).returncode == 0

        _wait(
            answers, patience_s, f"ssh in the guest ({self.release}) to answer; its console: {self.console}"
        )

    def ssh(self, command: str, *options: str) -> list[str]:
        """The command line that runs the shell text `command` in the guest."""
        settings = {
            "UserKnownHostsFile": self.image.known_hosts,
            "HostKeyAlias": "guest",
            "IdentityFile": self.image.key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectTimeout": 20,
            "ServerAliveInterval": 30,
            "ControlPath": self.directory / "ssh.sock",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
        }
        spelled = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        port = self._port.read_text()
        return ["ssh", "-F", "/dev/null", "-p", port, *spelled, *options, "root@127.0.0.1", command]

    def _ssh(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            self.ssh(shlex.join(command)), capture_output=True, text=True, check=False, timeout=BOOT_S
        )
        if check and done.returncode:
            raise VmError(
                f"in the guest: {shlex.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout.strip()

    def _drop_ssh(self) -> None:
        if (self.directory / "ssh.sock").exists():
            subprocess.run(self.ssh("", "-O", "exit"), capture_output=True, check=False, timeout=END_S)

    # ---------------------------------------------------------------------- the checkout

    def copy_in(self, checkout: Path) -> None:
        """The checkout as it is now, over the one in the guest; what is gone here goes there.

        Times are kept, so that what Python compiled there stays valid.
        """
        listed = _run("git", "-C", str(checkout), "ls-files", "-z", "-co", "--exclude-standard")
        names = [name for name in listed.split("\0") if name and os.path.lexists(checkout / name)]
        with subprocess.Popen(
            ["tar", "-C", str(checkout), "--null", "--no-recursion", "-T", "-", "-cf", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as tar:
            assert tar.stdin
            there = subprocess.Popen(self.ssh(_UNPACK), stdin=tar.stdout)
            tar.stdin.write("\0".join(names).encode())
            tar.stdin.close()
            if there.wait() or tar.wait():
                raise VmError("the checkout could not be copied into the guest: see the lines above")

    def run(self, command: Sequence[str], timeout_s: float) -> int:
        """The command's exit status (124: out of time), in the copied checkout. Output passes through."""
        bounded = shlex.join(("timeout", "-k", "10", f"{timeout_s:.0f}", *command))
        there = f"cd /{HOME} && TUNED_SPEC_SPARE='{SPARE}' exec {bounded}"
        return subprocess.run(self.ssh(there), check=False).returncode

    def collect(self, names: Sequence[str], checkout: Path) -> None:
        """Files and directories of the guest's checkout, back into this one."""
        packed = subprocess.run(
            self.ssh(f"tar -C /{HOME} -cf - -- {shlex.join(names)}"), capture_output=True, check=False
        )
        if packed.returncode:
            raise VmError(f"could not bring back {', '.join(names)}: {packed.stderr.decode().strip()}")
        subprocess.run(
            ["tar", "-C", str(checkout), "--no-same-owner", "-xf", "-"], input=packed.stdout, check=True
        )

    def shell(self) -> int:
        return subprocess.run(self.ssh(f"cd /{HOME}; exec bash -l", "-t"), check=False).returncode


_UNPACK = rf"""
cd /{HOME} && tar -xvf - > /tmp/sent || exit
find . \( -name .venv -o -name __pycache__ -o -name '*.egg-info' \) -prune -o ! -type d -printf '%P\n' |
    sort > /tmp/here
sort /tmp/sent | comm -13 - /tmp/here | xargs -r -d '\n' rm -f
"""


# ------------------------------------------------------------------------------- details

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000


def _tap(queues: int) -> list[int]:
    """The queues of a tap device in a network namespace of its own: this host never sees it.

    qemu's user network has a single queue. The device lives as long as its descriptors.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here:
        if libc.unshare(_CLONE_NEWNET):
            raise VmError(f"no network namespace: {os.strerror(ctypes.get_errno())}; run as root")
        try:
            fds = []
            for _ in range(queues):
                fds.append(fd := os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
                flags = _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE | _IFF_VNET_HDR
                fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tap0", flags))
            return fds
        finally:
            if libc.setns(here.fileno(), _CLONE_NEWNET):
                raise VmError("cannot return to the network namespace of before")


def _fit() -> str:
    """What a saved state can be loaded by: this hardware, and this qemu."""
    version = _run(QEMU, "--version") if shutil.which(QEMU) else ""
    return hashlib.sha256(repr((_HARDWARE, _APPEND, version)).encode()).hexdigest()[:8]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _locked(file: Path, patience_s: float, hint: str) -> Iterator[None]:
    """The lock of that file, which holds the pid of who has it."""
    with file.open("a+") as lock:

        def taken() -> bool:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        if not taken():
            lock.seek(0)
            holder = f"process {lock.read().strip() or 'unknown'}"
            _say(f"waiting for {holder}, which has {file} ({hint})")
            _wait(taken, patience_s, f"{holder} to let go of {file}")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _wait(done: Callable[[], bool], patience_s: float, what: str) -> None:
    end = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > end:
            raise VmError(f"waited {patience_s:.0f} s for {what}")
        time.sleep(0.2)


def _run(*command: str, pass_fds: Sequence[int] = ()) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=pass_fds)
    if done.returncode:
        raise VmError(f"{' '.join(command[:4])} ...: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


def _say(what: str) -> None:
    print(f"vm: {what}", file=sys.stderr, flush=True)
