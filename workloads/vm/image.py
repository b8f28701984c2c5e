"""The disk that every machine starts from: a Debian tree with two kernels, and what each needs to boot.

Owns the cache of images, one directory for each recipe (packages, guest files, pinned Python requirements),
so that another checkout with other requirements has an image of its own. Must not know of running machines.
No package index is named here: mmdebstrap and pip use what this host is set up to use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tuned_spec.errors import TunedSpecError

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = "root/tuned-spec"  # where the guest keeps the checkout
VENV = "opt/venv"

# release -> the package that brings it
KERNELS = {"6.12": "linux-image-6.12-cloud-amd64", "6.1": "linux-image-amd64"}
SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "ethtool", "psmisc", "make"),
    *("python3", "python3-venv", "openssh-server", "initramfs-tools", "zstd"),
    *KERNELS.values(),
)
DISK_BYTES = 6 << 30  # sparse
SPARE_BYTES = 512 << 20
SWAP_BYTES = 256 << 20

# tool -> the package that has it
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
    "mkswap": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}

# Before any package is configured: an initramfs with what the virtual disk needs, and the virtual network
# cards, so that they come first and are eth0 and eth1.
_EARLY = {
    "etc/initramfs-tools/conf.d/vm": "MODULES=list\nCOMPRESS=zstd\n",
    "etc/initramfs-tools/hooks/vm": """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk virtio_net ext4
""",
}

_LATE = {
    "etc/hostname": "guest\n",
    "etc/fstab": "/dev/vda / ext4 noatime 0 1\n/dev/vdc none swap nofail 0 0\n",
    "etc/ssh/sshd_config.d/vm.conf": "PermitRootLogin prohibit-password\nUseDNS no\n",
    "etc/systemd/system.conf.d/vm.conf": """\
[Manager]
DefaultCPUAccounting=yes
DefaultIOAccounting=yes
DefaultMemoryAccounting=yes
DefaultTasksAccounting=yes
""",
    # eth1 is left alone: it is there to be tuned.
    "etc/systemd/system/vm-net.service": """\
[Unit]
BindsTo=sys-subsystem-net-devices-eth0.device
After=sys-subsystem-net-devices-eth0.device
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip link set lo up
ExecStart=ip address add 10.0.2.15/24 dev eth0
ExecStart=ip link set eth0 up
[Install]
WantedBy=multi-user.target
""",
    # What a host with such a policy would have loaded at boot; a kernel may lack some.
    "etc/systemd/system/vm-modules.service": """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-modprobe -aq tcp_bbr nf_conntrack bfq kyber-iosched sch_fq sch_fq_codel sch_cake
[Install]
WantedBy=multi-user.target
""",
    # systemd turns a controller on for a cgroup only while a unit below it wants it.
    "etc/systemd/system/vm-controllers.service": """\
[Service]
Delegate=yes
AllowedCPUs=0-1
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
""",
    "etc/systemd/journald.conf.d/vm.conf": "[Journal]\nStorage=volatile\n",
}

_FINISH = f"""\
set -e
systemctl enable vm-net.service vm-controllers.service vm-modules.service
systemctl disable systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer || true
systemctl mask dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
python3 -m venv /{VENV}
/{VENV}/bin/python -m pip install --quiet --no-index --find-links /wheels --no-deps --require-hashes \
    -r /{HOME}/requirements.lock
/{VENV}/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation -e /{HOME}
rm -r /wheels /etc/apt/sources.list /etc/apt/sources.list.d /usr/share/doc /usr/share/locale /usr/share/man
"""


class VmError(TunedSpecError):
    """What failed, and what to do about it."""


@dataclass(frozen=True)
class Image:
    """One built image. `kernel` and `initrd` are what qemu boots, as the guest boots no boot loader."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "root.qcow2"

    @property
    def spare(self) -> Path:
        return self.directory / "spare.raw"

    @property
    def swap(self) -> Path:
        return self.directory / "swap.raw"

    @property
    def key(self) -> Path:
        return self.directory / "key"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def kernel(self, release: str) -> Path:
        return self.directory / f"vmlinuz-{release}"

    def initrd(self, release: str) -> Path:
        return self.directory / f"initrd-{release}"


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tuned-spec"


def wanted(cache: Path) -> Image:
    """The image that this checkout needs, built or not."""
    recipe = hashlib.sha256()
    for text in (SUITE, repr(PACKAGES), repr(_EARLY), repr(_LATE), _FINISH, str(DISK_BYTES)):
        recipe.update(text.encode() + b"\0")
    recipe.update((CHECKOUT / "requirements.lock").read_bytes())
    return Image(cache / f"image-{recipe.hexdigest()[:12]}")


def built(cache: Path) -> Image:
    image = wanted(cache)
    if not image.disk.exists():
        raise VmError(
            f"{image.directory}: no image for this checkout's requirements; "
            "run `python -m workloads.vm build`"
        )
    return image


def build(cache: Path) -> Image:
    """Build the image, or return it if it is there. About five minutes, root, and 3 GB in the cache."""
    image = wanted(cache)
    if image.disk.exists():
        return image
    _demand_tools()
    if os.geteuid() != 0:
        raise VmError("building needs root, for the chroot that the packages are set up in: use sudo")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as scratch:
        half = Image(Path(scratch) / "image")
        half.directory.mkdir()
        tree = Path(scratch) / "tree"
        _say("ssh key")
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(half.key))
        _say("Python requirements")
        _wheels(Path(scratch) / "wheels")
        _say(f"Debian {SUITE} with kernels {', '.join(KERNELS)}")
        _debian(tree, Path(scratch), half.key.with_suffix(".pub"))
        _say("disks")
        _kernels(tree, half)
        host_key = (tree / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        half.known_hosts.write_text(f"guest {host_key}")
        _disks(tree, half, Path(scratch))
        half.directory.rename(image.directory)
    return image


# ------------------------------------------------------------------------------ the steps


def _demand_tools() -> None:
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if missing:
        raise VmError(f"not installed: {', '.join(missing)}; apt install {' '.join(missing)}")


def _wheels(directory: Path) -> None:
    """Binary packages for the guest's Python, fetched by this host's pip as it is configured."""
    python = ("--python-version", "3.11", "--only-binary=:all:")
    lock = str(CHECKOUT / "requirements.lock")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
    _run(*pip, "--require-hashes", *python, "--dest", str(directory), "-r", lock)


def _debian(tree: Path, scratch: Path, public_key: Path) -> None:
    early, late = scratch / "early", scratch / "late"
    _lay(early, _EARLY)
    _lay(late, _LATE)
    (early / "etc/initramfs-tools/hooks/vm").chmod(0o755)
    home = late / HOME
    home.mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "README.md"):
        shutil.copy(CHECKOUT / name, home)
    shutil.copytree(
        CHECKOUT / "tuned_spec", home / "tuned_spec", ignore=shutil.ignore_patterns("__pycache__")
    )
    (home / ".venv").symlink_to(f"/{VENV}")
    ssh = late / "root/.ssh"
    ssh.mkdir(mode=0o700)
    shutil.copy(public_key, ssh / "authorized_keys")
    (scratch / "finish").write_text(_FINISH)
    shutil.copytree(scratch / "wheels", late / "wheels")
    _run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        '--dpkgopt=path-exclude="/usr/share/man/*"',
        f"--essential-hook=cp -rT {early} $1",
        f"--customize-hook=cp -rT --no-preserve=ownership {late} $1",
        f"--customize-hook=chroot $1 sh < {scratch / 'finish'}",
        SUITE,
        str(tree),
    )


def _lay(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _kernels(tree: Path, image: Image) -> None:
    for release in KERNELS:
        (kernel,) = (tree / "boot").glob(f"vmlinuz-{release}.*")
        shutil.copy(kernel, image.kernel(release))
        shutil.copy(tree / f"boot/initrd.img{kernel.name.removeprefix('vmlinuz')}", image.initrd(release))


def _disks(tree: Path, image: Image, scratch: Path) -> None:
    raw = scratch / "root.raw"
    for file, size in ((raw, DISK_BYTES), (image.spare, SPARE_BYTES), (image.swap, SWAP_BYTES)):
        file.touch()
        os.truncate(file, size)
    _run("mkfs.ext4", "-q", "-E", "root_owner=0:0", "-d", str(tree), str(raw))
    _run("mkswap", str(image.swap))
    _run("qemu-img", "convert", "-O", "qcow2", str(raw), str(image.disk))


def _say(what: str) -> None:
    print(f"building: {what}", file=sys.stderr, flush=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise VmError(f"{' '.join(command[:3])} ... ended with status {done.returncode}:\n{last}")
