"""Interfaces' own settings on the real kernel; `ip` and pyroute2 are the second opinion."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.knobs.netns import own_netns, run, veth
from tuned_spec.errors import KnobAbsent
from tuned_spec.knobs import links, reach
from tuned_spec.knobs.reach import ethtool, link
from tuned_spec.model import Knob, KnobType

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures(own_netns.__name__)]

ANOTHER = {
    "txqueuelen": 500,
    "gso_max_size": 32768,
    "gso_max_segs": 100,
    "gro_max_size": 131072,
    "gso_ipv4_max_size": 32768,
    "gro_ipv4_max_size": 131072,
    "gro_flush_timeout": 20000,
    "napi_defer_hard_irqs": 2,
    "threaded": 1,
}


def a_knob(setting: str, name: str = "here", adapter: str = "link") -> Knob:
    return Knob(
        id=f"nic.test@{name}",
        adapter=adapter,
        target=f"{name}/{setting}",
        type=KnobType.INT,
        unit="",
        summary="",
        source="",
        low=0,
        high=2**32 - 1,
        per="nic",
        instance=name,
    )


def second_opinion(name: str, setting: str) -> int:
    """Of pyroute2 where it knows the setting, else of ip and of /sys."""
    if setting in link.FILES:
        return int(Path(f"/sys/class/net/{name}/{setting}").read_text())
    attribute = "IFLA_" + setting.upper().replace("TXQUEUELEN", "TXQLEN")
    with IPRoute() as ipr:
        (found,) = ipr.get_links(ipr.link_lookup(ifname=name)[0])
        value = found.get_attr(attribute)
    if value is None:
        value = json.loads(run(f"ip -j -d link show {name}"))[0].get(setting)
    if value is None:
        pytest.skip(f"nic.{setting}: neither pyroute2 nor ip of this host knows it")
    return int(value)


@pytest.mark.parametrize("setting", ANOTHER)
def test_what_is_written_is_what_others_see_and_it_goes_back(setting: str) -> None:
    index = veth()
    if setting == "threaded":  # only with GRO has veth a NAPI instance
        ethtool.write(f"ethtool:{index}/feature.rx-gro", "1")
    where = f"link:{index}/{setting}"
    try:
        before = link.read(where)
    except FileNotFoundError as error:
        pytest.skip(f"nic.{setting}: {error}")
    link.usable(where)
    link.write(where, str(ANOTHER[setting]))
    assert link.read(where) == str(ANOTHER[setting]) == str(second_opinion("here", setting)) != before
    link.write(where, before)
    assert link.read(where) == before == str(second_opinion("here", setting))


def test_gso_max_size_takes_the_one_of_ipv4_with_it() -> None:
    index = veth()
    try:
        link.read(f"link:{index}/gso_ipv4_max_size")
    except FileNotFoundError as error:
        pytest.skip(f"nic.gso_ipv4_max_size: {error}")
    link.write(f"link:{index}/gso_max_size", "30000")
    assert link.read(f"link:{index}/gso_ipv4_max_size") == "30000"
    link.write(f"link:{index}/gso_ipv4_max_size", "20000")
    assert link.read(f"link:{index}/gso_max_size") == "30000"


def test_the_hardwares_maximum_is_what_the_kernel_refuses_to_pass() -> None:
    where = f"link:{veth()}/gso_max_size"
    most = link.high(where)
    assert most is not None
    link.write(where, str(most))
    assert link.read(where) == str(most)
    with pytest.raises(OSError) as raised:
        link.write(where, str(most + 1))
    assert raised.value.errno in (errno.EINVAL, errno.ERANGE)
    assert link.read(where) == str(most)
    assert links.within(Path("/"), a_knob("gso_max_size")).high == most
    assert links.within(Path("/"), a_knob("txqueuelen")).high == 2**32 - 1


def test_a_new_name_does_not_lose_the_interface() -> None:
    knob = a_knob("txqueuelen")
    veth()
    where, identity = links.address(Path("/"), knob), links.identity(Path("/"), knob)
    before = link.read(where)
    link.write(where, "77")
    run("ip link set here down")
    run("ip link set here name elsewhere")
    assert link.read(where) == "77"
    assert identity.endswith(f"@here#{socket.if_nametoindex('elsewhere')}")
    link.write(where, before)
    assert second_opinion("elsewhere", "txqueuelen") == int(before)
    with pytest.raises(KnobAbsent, match="no interface here"):
        links.address(Path("/"), knob)


def test_another_one_of_the_same_name_has_another_address() -> None:
    knob = a_knob("txqueuelen")
    veth()
    first = links.address(Path("/"), knob)
    run("ip link del here")
    with pytest.raises(FileNotFoundError, match="no interface"):
        link.read(first)
    veth()
    assert links.address(Path("/"), knob) != first
    with pytest.raises(FileNotFoundError, match="no interface"):
        link.write(first, "5")


def test_instances_leave_out_loopback_and_the_cables_of_a_bridge() -> None:
    veth("plain", "plain2")
    veth("cable", "cable2")
    run("ip link add br0 type bridge")
    run("ip link set cable2 master br0")
    run("ip link set lo up")
    entry = a_knob("txqueuelen", "{}")
    assert links.instances(Path("/"), entry) == ("br0", "cable", "plain", "plain2")
    assert links.instances(Path("/"), a_knob("no_such_setting", "{}")) == ()
    assert links.instances(Path("/tmp"), entry) == ()
    assert links.address(Path("/"), a_knob("txqueuelen", "cable2")).startswith("link:")


def test_a_sys_of_another_namespace_is_refused_not_misread() -> None:
    """Interfaces of two namespaces can share name and number; nsenter --net leaves the old /sys."""
    told = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"ip link add here type veth peer name there; exec {sys.executable}"],
        input=f"from {link.__name__} import read\nimport socket\n"
        "n = socket.if_nametoindex('here')\nprint(read(f'link:{n}/txqueuelen'))\n"
        "try:\n    read(f'link:{n}/gro_flush_timeout')\nexcept OSError as e:\n    print(e.errno)\n",
        capture_output=True,
        text=True,
    )
    veth()
    assert told.stdout.split() == ["1000", str(errno.EXDEV)], told.stderr


def test_a_value_that_does_not_fit_is_refused_before_the_kernel_cuts_it() -> None:
    where = f"link:{veth()}/txqueuelen"
    before = link.read(where)
    for text in ("-1", str(2**32)):
        with pytest.raises(OSError) as raised:
            link.write(where, text)
        assert raised.value.errno == errno.ERANGE
    assert link.read(where) == before


def test_what_is_asked_together_is_asked_anew_after_a_write() -> None:
    index = veth()
    address = f"link:{index}/txqueuelen"
    with reach.together():
        before = reach.read(address)
        other = str(int(before) + 1)
        run(f"ip link set here txqueuelen {other}")
        assert reach.read(address) == before, "one question, however many knobs"
        reach.write(address, str(int(before) + 2))
        assert reach.read(address) == str(int(before) + 2)
        run(f"ip link set here txqueuelen {other}")
    assert reach.read(address) == other
