"""What may be asked, and in which words."""

from __future__ import annotations

import pytest

from tuned_spec.probes.names import PROBES, SHAPES, wrong_with

RIGHT = [
    ("memory", {}),
    ("top_processes", {"by": "cpu"}),
    ("metric_history", {"metric": "psi.cpu.some"}),
    ("metric_history", {"metric": "disk.util@vda"}),
    ("knob", {"knob": "task.nice@exe=redis-server,cgroup=system.slice"}),
    ("cgroup", {"cgroup": "system.slice/nginx.service"}),
    ("unit", {"unit": "nginx.service"}),
]
WRONG = [
    ("rm", {}, "is no probe"),
    ("memory", {"path": "/etc/shadow"}, "takes no arguments"),
    ("top_processes", {}, "takes by"),
    ("top_processes", {"by": "cpu; reboot"}, "not the name of a resource"),
    ("cgroup", {"cgroup": "a" * 5000}, "longer than"),
    ("cgroup", {"cgroup": "../../etc"}, "not the name of a cgroup"),
    ("cgroup", {"cgroup": "/etc/shadow"}, "not the name of a cgroup"),
    ("cgroup", {"cgroup": "system.slice/../../x"}, "not the name of a cgroup"),
    ("unit", {"unit": "/etc/shadow"}, "not the name of a unit"),
    ("unit", {"unit": "a b.service"}, "not the name of a unit"),
    ("knob", {"knob": "vm.swappiness\n"}, "not the name of a knob"),
]


@pytest.mark.parametrize(("name", "args"), RIGHT)
def test_what_may_be_asked(name: str, args: dict[str, str]) -> None:
    assert wrong_with(name, args) == ""


@pytest.mark.parametrize(("name", "args", "said"), WRONG)
def test_what_may_not(name: str, args: dict[str, str], said: str) -> None:
    assert said in wrong_with(name, args)


def test_every_argument_has_a_shape() -> None:
    assert {arg for kind in PROBES.values() for arg in kind.args.values()} <= set(SHAPES)
