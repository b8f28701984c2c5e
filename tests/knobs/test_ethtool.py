"""What drivers can be told, on the real kernel: veth has channels and offloads, no rings, no coalescing."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from pyroute2.ethtool import Ethtool

from tests.knobs.netns import hardware, own_netns, run, veth
from tests.knobs.test_links import a_knob
from tuned_spec.knobs import links
from tuned_spec.knobs.reach import ethtool

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures(own_netns.__name__)]

OFFLOADS = (
    "tx-tcp-segmentation",
    "tx-generic-segmentation",
    "tx-udp-segmentation",
    "tx-scatter-gather",
    "tx-nocache-copy",
    "rx-gro",
    "rx-gro-list",
    "rx-udp-gro-forwarding",
    "rx-checksum",
)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_an_offload_is_switched_and_switched_back(offload: str) -> None:
    index = veth()
    where = f"ethtool:{index}/feature.{offload}"
    try:
        ethtool.usable(where)
    except OSError as error:
        pytest.skip(f"nic.{offload}: {error}")
    before = ethtool.read(where)
    assert before == second_opinion(offload)
    other = "01"[before == "0"]
    ethtool.write(where, other)
    assert ethtool.read(where) == other == second_opinion(offload)
    ethtool.write(where, before)
    assert ethtool.read(where) == before == second_opinion(offload)


def second_opinion(offload: str) -> str:
    with Ethtool() as tool:
        features = tool.get_features("here").features
    return str(int(features[offload].enable))


def test_the_parts_of_tso_are_switched_one_by_one() -> None:
    """The older interface has one switch for all of them, and would put all back where one was off."""
    index = veth()
    ethtool.write(f"ethtool:{index}/feature.tx-tcp6-segmentation", "0")
    ethtool.write(f"ethtool:{index}/feature.tx-tcp-segmentation", "0")
    ethtool.write(f"ethtool:{index}/feature.tx-tcp-segmentation", "1")
    assert ethtool.read(f"ethtool:{index}/feature.tx-tcp6-segmentation") == "0"


def test_an_offload_that_another_one_holds_off_is_left_alone() -> None:
    """TSO needs scatter-gather: it is off and wanted on, which no write can put back."""
    index = veth()
    tso = f"ethtool:{index}/feature.tx-tcp-segmentation"
    ethtool.write(f"ethtool:{index}/feature.tx-scatter-gather", "0")
    assert ethtool.read(tso) == "0"
    with pytest.raises(OSError, match="something it needs is off"):
        ethtool.usable(tso)
    with pytest.raises(OSError, match="stays off") as raised:
        ethtool.write(tso, "1")
    assert raised.value.errno == errno.EOPNOTSUPP
    ethtool.write(f"ethtool:{index}/feature.tx-scatter-gather", "1")
    assert ethtool.read(tso) == "1"


def test_half_a_switch_is_taken_back() -> None:
    """rx-lro is fixed off: the wish must not linger for the day when it could be granted."""
    index = veth()
    lro = f"ethtool:{index}/feature.rx-lro"
    with pytest.raises(OSError, match="rx-lro fixed"):
        ethtool.usable(lro)
    with pytest.raises(OSError):
        ethtool.write(lro, "1")
    assert ethtool._feature(index, "rx-lro", ethtool._WANTED) is False


def test_channels_go_up_to_what_the_device_has() -> None:
    index = veth(queues=4)
    where = f"ethtool:{index}/channels.rx"
    assert (ethtool.read(where), ethtool.high(where)) == ("4", 4)
    ethtool.write(where, "2")
    assert ethtool.read(where) == "2" == channels_of_others()
    assert ethtool.read(f"ethtool:{index}/channels.tx") == "4"
    with pytest.raises(OSError) as raised:
        ethtool.write(where, "5")
    assert raised.value.errno == errno.EINVAL
    ethtool.write(where, "4")
    assert ethtool.read(where) == "4"
    assert links.within(Path("/"), a_knob("channels.rx", adapter="ethtool")).high == 4


def channels_of_others() -> str:
    with Ethtool() as tool:
        return str(tool.get_channels("here").rx_count)


@pytest.mark.parametrize("name", [*ethtool.SETTINGS, "feature.no-such-offload", "ring.colour"])
def test_what_a_driver_lacks_is_absent_with_the_reason(name: str) -> None:
    run("ip link add idle type ifb")
    index = socket.if_nametoindex("idle")
    with pytest.raises(FileNotFoundError, match=r"the driver of idle|knows no offload|no setting"):
        ethtool.read(f"ethtool:{index}/{name}")
    with pytest.raises(OSError):
        ethtool.usable(f"ethtool:{index}/{name}")


def test_a_number_that_does_not_fit_is_refused() -> None:
    index = veth(queues=2)
    for text in ("-1", str(2**32)):
        with pytest.raises(OSError) as raised:
            ethtool.write(f"ethtool:{index}/channels.rx", text)
        assert raised.value.errno == errno.ERANGE


def test_an_interface_that_is_gone_is_not_found() -> None:
    index = veth(queues=2)
    run("ip link del here")
    with pytest.raises(FileNotFoundError, match="no interface"):
        ethtool.read(f"ethtool:{index}/channels.rx")


@pytest.mark.parametrize("setting", ethtool.SETTINGS)
def test_hardware_takes_another_value_and_gets_its_own_back(setting: str) -> None:
    name = hardware()
    where = f"ethtool:{socket.if_nametoindex(name)}/{setting}"
    try:
        before, most = int(ethtool.read(where)), ethtool.high(where)
    except FileNotFoundError as error:
        pytest.skip(f"nic.{setting}: {error}")
    assert str(before) == seen_by_others(name, setting)
    other = 1 - before if "adaptive" in setting else max(before // 2, 1) if most else before + 16
    if other == before:
        pytest.skip(f"nic.{setting}: {name} has {before} of {most}: no other value to try")
    try:
        ethtool.write(where, str(other))
    except OSError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.EBUSY)
        assert ethtool.read(where) == str(before)
        pytest.skip(f"nic.{setting}: the driver of {name} refuses {other}: {error}")
    assert ethtool.read(where) == str(other) == seen_by_others(name, setting)
    ethtool.write(where, str(before))
    assert ethtool.read(where) == str(before) == seen_by_others(name, setting)


def seen_by_others(name: str, setting: str) -> str:
    family, _, short = setting.partition(".")
    with Ethtool() as tool:
        if family == "ring":
            return str(getattr(tool.get_rings(name), short))
        if family == "channels":
            return str(getattr(tool.get_channels(name), short + "_count"))
        return str(int(tool.get_coalesce(name)[COALESCE[short]]))


COALESCE = {
    "rx_usecs": "rx_coalesce_usecs",
    "rx_frames": "rx_max_coalesced_frames",
    "tx_usecs": "tx_coalesce_usecs",
    "tx_frames": "tx_max_coalesced_frames",
    "adaptive_rx": "use_adaptive_rx_coalesce",
    "adaptive_tx": "use_adaptive_tx_coalesce",
}
