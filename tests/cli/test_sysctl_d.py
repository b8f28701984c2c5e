"""Who sets a sysctl at boot: the cases that sysctl.d(5) and sysctl(8) name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuned_spec.cli.sysctl_d import Owners
from tuned_spec.model import Knob, KnobType

Files = dict[str, str]
SWAP = "vm/swappiness"


def knob(target: str, adapter: str = "sysctl") -> Knob:
    return Knob(target.replace("/", "."), adapter, target, KnobType.INT, "", "", "")


def owner(root: Path, files: Files, target: str = SWAP) -> tuple[str, int, str | None] | None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:])
        else:
            path.write_text(text)
    found = Owners(root).of(knob(target))
    return (str(Path(found.file).relative_to(root)), found.line, found.text) if found else None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"etc/sysctl.d/a.conf": "vm.swappiness=10"}, ("etc/sysctl.d/a.conf", 1, "10")),
        ({"etc/sysctl.d/a.conf": "# x\n; y\n\n vm/swappiness = 10 \n"}, ("etc/sysctl.d/a.conf", 4, "10")),
        ({"etc/sysctl.d/a.conf": "-vm.swappiness=10"}, ("etc/sysctl.d/a.conf", 1, "10")),
        ({"etc/sysctl.d/a.txt": "vm.swappiness=10"}, None),
        # the later name wins, whatever its directory
        (
            {"usr/lib/sysctl.d/90-b.conf": "vm.swappiness=2", "etc/sysctl.d/10-a.conf": "vm.swappiness=1"},
            ("usr/lib/sysctl.d/90-b.conf", 1, "2"),
        ),
        # the same name in /etc hides the one in /usr/lib
        (
            {"usr/lib/sysctl.d/a.conf": "vm.swappiness=2", "etc/sysctl.d/a.conf": "vm.dirty_ratio=1"},
            None,
        ),
        (
            {"run/sysctl.d/a.conf": "vm.swappiness=3", "usr/lib/sysctl.d/a.conf": "vm.swappiness=2"},
            ("run/sysctl.d/a.conf", 1, "3"),
        ),
        ({"usr/lib/sysctl.d/a.conf": "vm.swappiness=2", "etc/sysctl.d/a.conf": "->/dev/null"}, None),
        # within one file the last line
        ({"etc/sysctl.d/a.conf": "vm.swappiness=1\nvm.swappiness=2"}, ("etc/sysctl.d/a.conf", 2, "2")),
        # sysctl.conf after all
        (
            {"etc/sysctl.conf": "vm.swappiness=5", "etc/sysctl.d/zz.conf": "vm.swappiness=1"},
            ("etc/sysctl.conf", 1, "5"),
        ),
        # globs give way to explicit keys, earlier or later
        (
            {"etc/sysctl.d/a.conf": "vm.swappiness=1", "etc/sysctl.d/b.conf": "vm.swap*=2"},
            ("etc/sysctl.d/a.conf", 1, "1"),
        ),
        ({"etc/sysctl.d/b.conf": "vm.*=2"}, ("etc/sysctl.d/b.conf", 1, "2")),
        ({"etc/sysctl.d/b.conf": "*=2"}, None),
        ({"etc/sysctl.d/b.conf": "vm.swap*=2\n-vm.swappiness"}, None),
        ({"etc/sysctl.d/b.conf": "nonsense\n=\nvm.swappiness"}, None),
        ({"etc/sysctl.d/b.conf": "vm.swappiness=10\xff"}, ("etc/sysctl.d/b.conf", 1, "10\xff")),
    ],
)
def test_precedence(tmp_path: Path, files: Files, expected: tuple[str, int, str] | None) -> None:
    assert owner(tmp_path, files) == expected


@pytest.mark.parametrize(
    "key",
    ["net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.*.forwarding"],
)
def test_separators(tmp_path: Path, key: str) -> None:
    found = owner(tmp_path, {"etc/sysctl.d/a.conf": f"{key}=1"}, "net/ipv4/conf/eth0.1/forwarding")
    assert found == ("etc/sysctl.d/a.conf", 1, "1")


def test_a_knob_that_is_no_sysctl_has_no_owner(tmp_path: Path) -> None:
    owner(tmp_path, {"etc/sysctl.d/a.conf": "vm.swappiness=1"})
    assert Owners(tmp_path).of(knob(SWAP, "sysfs")) is None
