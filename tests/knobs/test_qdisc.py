"""The root queue of an interface on the real kernel: read, replaced, put back; tc is the second opinion."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
from typing import Any

import pytest

from tests.knobs.netns import own_netns, run, veth
from tuned_spec.knobs.reach import qdisc

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures(own_netns.__name__)]


def shown(device: str = "here") -> list[dict[str, Any]]:
    """What tc says, root first, without what counts."""
    told = json.loads(run(f"tc -j qdisc show dev {device}"))
    for one in told:
        one.pop("refcnt", None)
        one["options"].pop("direct_packets_stat", None)
    return list(told)


def now(index: int) -> str:
    return qdisc.read(f"qdisc:{index}/kind").partition("[")[2].partition("]")[0]


def offered(index: int) -> list[str]:
    return qdisc.read(f"qdisc:{index}/kind").replace("[", "").replace("]", "").split()


def put(index: int, word: str) -> None:
    qdisc.write(f"qdisc:{index}/kind", word)


def test_a_default_root_is_replaced_by_ours_and_comes_back() -> None:
    index = veth()
    before = shown()
    assert now(index) == "noqueue@0:"
    put(index, "pfifo_fast")
    assert now(index) == "pfifo_fast"
    assert [(one["kind"], one["handle"]) for one in shown()] == [("pfifo_fast", "5453:")]
    put(index, "pfifo")
    assert now(index) == "pfifo"
    assert [(one["kind"], one["handle"]) for one in shown()] == [("pfifo", "5454:")]
    put(index, "noqueue@0:")
    assert now(index) == "noqueue@0:"
    assert shown() == before


def test_a_default_that_is_there_already_is_left_alone() -> None:
    index = veth()
    put(index, "noqueue@0:")
    assert now(index) == "noqueue@0:"


def test_a_queue_of_ones_own_comes_back_with_its_handle_and_parameters() -> None:
    index = veth()
    run("tc qdisc add dev here root handle 7: pfifo limit 321")
    before = shown()
    assert now(index) == "pfifo@7:"
    put(index, "bfifo")
    assert now(index) == "bfifo"
    put(index, "pfifo@7:")
    qdisc.write(f"qdisc:{index}/pfifo.limit", "321")
    assert shown() == before


def test_the_same_kind_again_has_the_kernels_parameters_again() -> None:
    index = veth()
    put(index, "pfifo")
    fresh = qdisc.read(f"qdisc:{index}/pfifo.limit")
    qdisc.write(f"qdisc:{index}/pfifo.limit", "77")
    assert shown()[0]["options"] == {"limit": 77}
    put(index, "pfifo")
    assert qdisc.read(f"qdisc:{index}/pfifo.limit") == fresh != "77"


def test_every_hardware_queue_gets_the_discipline_and_mq_comes_back() -> None:
    index = veth(queues=4)
    run("tc qdisc add dev here root handle 9: mq")
    before = shown()
    name, default = now(index).removesuffix("@9:").split("/")
    assert (name, default) == ("mq", before[1]["kind"])  # whatever net.core.default_qdisc says
    put(index, "mq/pfifo_fast")
    assert now(index) == "mq/pfifo_fast"
    root, *leaves = shown()
    assert (root["kind"], root["handle"], len(leaves)) == ("mq", "5453:", 4)
    assert {one["kind"] for one in leaves} == {"pfifo_fast"}
    assert "0:" not in {one["handle"] for one in leaves}
    put(index, f"mq/{default}@9:")
    assert shown() == before


def test_the_parameters_of_mq_are_those_of_its_queues_written_alike() -> None:
    index = veth(queues=4)
    run("tc qdisc add dev here root handle 5453: mq")
    for i in range(1, 5):
        run(f"tc qdisc add dev here parent 5453:{i} pfifo limit 100")
    assert qdisc.read(f"qdisc:{index}/pfifo.limit") == "100"
    qdisc.write(f"qdisc:{index}/pfifo.limit", "55")
    assert [one["options"] for one in shown()[1:]] == [{"limit": 55}] * 4
    run("tc qdisc change dev here parent 5453:2 pfifo limit 56")
    with pytest.raises(FileNotFoundError, match="no pfifo limit"):
        qdisc.read(f"qdisc:{index}/pfifo.limit")


def test_mq_is_offered_only_where_there_are_several_queues() -> None:
    assert "mq/pfifo_fast" in offered(veth("many", "peer", queues=2))
    assert not [word for word in offered(veth()) if "/" in word]


NO_WAY_BACK = {
    "classes": ["root handle 1: htb default 1"],
    "one that may have a child": ["root handle 1: tbf rate 1mbit burst 10kb latency 70ms"],
    "a size table": ["root handle 1: stab mtu 2048 tsize 512 mpu 68 overhead 30 pfifo"],
    "queues below mq": ["root handle 1: mq", "parent 1:2 pfifo"],
}


@pytest.mark.parametrize("steps", NO_WAY_BACK.values(), ids=list(NO_WAY_BACK))
def test_what_cannot_be_put_back_by_one_word_is_shown_and_left(steps: list[str]) -> None:
    index = veth(queues=4)
    for step in steps:
        run(f"tc qdisc add dev here {step}")
    before = shown()
    assert now(index)
    with pytest.raises(OSError, match="somebody"):
        qdisc.usable(f"qdisc:{index}/kind")
    for word in ("pfifo", "noqueue@0:"):
        with pytest.raises(OSError, match="somebody") as raised:
            put(index, word)
        assert raised.value.errno == errno.EOPNOTSUPP
    assert shown() == before


def test_a_discipline_with_filters_is_left() -> None:
    """fq_codel has no classes, and takes filters all the same."""
    index = veth()
    needs(index, "fq_codel")
    run("tc qdisc add dev here root handle 7: fq_codel")
    told = subprocess.run(
        ["tc", "filter", "add", "dev", "here", "parent", "7:", "protocol", "ip", "matchall", "action", "ok"],
        capture_output=True,
        text=True,
    )
    if told.returncode:
        pytest.skip(f"nic.qdisc: no filter to try: {told.stderr.strip()}")
    with pytest.raises(OSError, match="has filters"):
        put(index, "pfifo")
    run("tc filter del dev here parent 7:")
    put(index, "pfifo")
    assert now(index) == "pfifo"


def test_only_the_parameters_of_the_discipline_that_is_there_are_there() -> None:
    index = veth()
    put(index, "pfifo")
    with pytest.raises(FileNotFoundError, match="here has pfifo, no fq limit"):
        qdisc.read(f"qdisc:{index}/fq.limit")
    with pytest.raises(FileNotFoundError, match="no parameter"):
        qdisc.read(f"qdisc:{index}/pfifo.colour")


def test_an_interface_that_is_down_has_nothing_to_put_back() -> None:
    run("ip link add idle type ifb")
    index = socket.if_nametoindex("idle")
    assert now(index) == "noop@0:"
    with pytest.raises(OSError, match="down"):
        qdisc.usable(f"qdisc:{index}/kind")


def test_an_interface_that_is_gone_is_not_found() -> None:
    index = veth()
    run("ip link del here")
    with pytest.raises(FileNotFoundError, match="no interface"):
        now(index)


def test_what_is_not_offered_is_not_asked_for() -> None:
    """Asking the kernel would load a module."""
    index = veth()
    for word in ("no_such_word", "tbf", "fq codel", "[fq]", ""):
        with pytest.raises(OSError) as raised:
            put(index, word)
        assert raised.value.errno in (errno.ENOENT, errno.EINVAL)
    assert now(index) == "noqueue@0:"


def test_microseconds_that_codel_cannot_keep_are_refused_and_the_others_read_as_written() -> None:
    """Kept as (us * 1000) >> 10, shown as (kept << 10) / 1000: the kernel shows 4999 for 5000."""
    name = ("fq_codel", "target_us")
    kept = 0
    for us in range(20000):
        shows = ((us * 1000 >> 10) << 10) // 1000
        if qdisc._codel(us) == us:
            kept += 1
            assert qdisc._shown(*name, shows) == us
        else:
            assert qdisc._codel(us) == us - 1 == qdisc._shown(*name, shows)
    assert kept > 19000


# kind -> what tc is told, as somebody would; the parameters of the word that stands for it
SOMEBODYS = {
    "fq": "limit 5000 flow_limit 50 quantum 6056 initial_quantum 30280 maxrate 80mbit buckets 2048"
    " refill_delay 80ms orphan_mask 255 nopacing ce_threshold 3ms",
    "fq_codel": "limit 1000 flows 512 target 3ms interval 60ms noecn quantum 300 memory_limit 4mb"
    " ce_threshold 1500us drop_batch 32",
    "cake": "bandwidth 20mbit diffserv4 dual-srchost nat wash rtt 40ms noatm overhead 18 mpu 64 ack-filter"
    " no-split-gso memlimit 8mb",
}


def needs(index: int, kind: str) -> None:
    if kind not in offered(index):
        pytest.skip(f"nic.qdisc: this kernel has {kind} neither built in nor loaded")


@pytest.mark.parametrize("told", SOMEBODYS.values(), ids=list(SOMEBODYS))
def test_somebodys_discipline_is_put_back_with_all_it_was_told(
    told: str, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.id
    index = veth()
    needs(index, kind)
    run(f"tc qdisc add dev here root handle 8003: {kind} {told}")
    before = shown()
    word = now(index)
    parameters = {name: qdisc.read(f"qdisc:{index}/{kind}.{name}") for name in present(index, kind)}
    assert word.startswith(f"{kind}@8003:")
    put(index, "pfifo")
    put(index, word)
    for name, text in parameters.items():
        qdisc.write(f"qdisc:{index}/{kind}.{name}", text)
    assert now(index) == word
    assert shown() == before


def present(index: int, kind: str) -> list[str]:
    found = []
    for name in qdisc.PARAMETERS[kind]:
        try:
            qdisc.read(f"qdisc:{index}/{kind}.{name}")
        except FileNotFoundError:
            continue
        found.append(name)
    return found


# parameter -> another value, and what tc calls it and shows for it
ANOTHER: dict[str, dict[str, tuple[int, str, Any]]] = {
    "fq": {
        "limit": (777, "limit", 777),
        "flow_limit": (33, "flow_limit", 33),
        "quantum": (9000, "quantum", 9000),
        "initial_quantum": (12000, "initial_quantum", 12000),
        "maxrate": (1000000, "maxrate", 1000000),
        "low_rate_threshold": (5000, "low_rate_threshold", 5000),
        "timer_slack_ns": (20000, "timer_slack", 20000),
        "horizon_us": (2000000, "horizon", 2000000),
    },
    "fq_codel": {
        "target_us": (2000, "target", 1999),
        "limit": (777, "limit", 777),
        "interval_us": (40000, "interval", 39999),
        "ecn": (0, "ecn", None),
        "quantum": (300, "quantum", 300),
        "drop_batch": (16, "drop_batch", 16),
        "memory_limit": (1000000, "memory_limit", 1000000),
    },
    "cake": {
        "bandwidth": (1250000, "bandwidth", 1250000),
        "rtt_us": (20000, "rtt", 20000),
        "target_us": (1000, "target", None),
        "memory_limit": (2000000, "memlimit", 2000000),
        "split_gso": (0, "split_gso", False),
    },
}


@pytest.mark.parametrize("kind", ANOTHER)
@pytest.mark.parametrize("queues", [1, 2])
def test_each_parameter_is_what_tc_shows_and_goes_back(kind: str, queues: int) -> None:
    index = veth(queues=queues)
    needs(index, kind)
    if queues > 1 and f"mq/{kind}" not in offered(index):
        pytest.skip(f"nic.qdisc: {kind} is not used below mq")
    put(index, kind if queues == 1 else f"mq/{kind}")
    before = shown()
    for name, (value, called, expected) in ANOTHER[kind].items():
        where = f"qdisc:{index}/{kind}.{name}"
        was = qdisc.read(where)
        assert was != str(value)
        qdisc.write(where, str(value))
        assert qdisc.read(where) == str(value)
        leaves = [one["options"] for one in shown() if one["kind"] == kind]
        assert len(leaves) == queues
        assert {options.get(called) for options in leaves} == {expected}, (name, leaves[0])
        qdisc.write(where, was)
        assert qdisc.read(where) == was
    assert shown() == before
