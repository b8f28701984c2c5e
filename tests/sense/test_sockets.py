from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuned_spec.sense.metrics import METRICS
from tuned_spec.sense.sockets import MAX_SOCKETS, Sockets, summary, tcp_info

FIELDS = tuple(sorted({f for m in METRICS.values() if m.source == "sock_diag" for f in (*m.fields, *m.over)}))


def message(info: bytes) -> bytes:
    """An inet_diag message with another attribute before the wanted one."""
    other = struct.pack("=HHB3x", 5, 8, 1)
    return bytes(72) + other + struct.pack("=HH", 4 + len(info), 2) + info


def test_the_layout_of_tcp_info() -> None:
    info = bytearray(248)
    for offset, code, value in ((68, "I", 1500), (80, "I", 10), (160, "Q", 9_000_000), (208, "Q", 77)):
        struct.pack_into("=" + code, info, offset, value)
    found = tcp_info(message(bytes(info)))
    assert found["rtt"] == 1500 and found["cwnd"] == 10
    assert found["delivery"] == 9_000_000 and found["bytes_retrans"] == 77


def test_an_older_kernels_shorter_struct_leaves_out_what_it_lacks() -> None:
    found = tcp_info(message(bytes(104)))  # up to tcpi_total_retrans, as in Linux 2.6
    assert set(found) == {"rtt", "rttvar", "cwnd"}
    row = summary([{**found, "rtt": 2000}], FIELDS)
    assert row == {"count": 1, "cwnd.p50": 0, "cwnd.p95": 0, "rtt_ms.p50": 2.0, "rtt_ms.p95": 2.0}


@given(st.binary(max_size=400))
def test_garbage_never_raises(data: bytes) -> None:
    summary([tcp_info(data), tcp_info(message(data))], FIELDS)


def test_quantiles_are_of_those_that_measured_something() -> None:
    sample = [{"rtt": n * 1000, "delivery": 0, "min_rtt": 2**32 - 1, "bytes_sent": 10} for n in range(1, 101)]
    row = summary(sample, FIELDS)
    assert (row["rtt_ms.p50"], row["rtt_ms.p95"]) == (51.0, 96.0)
    assert row["bytes_sent"] == 1000
    assert not [field for field in row if field.startswith(("delivery", "min_rtt", "bytes_retrans"))]
    assert summary([], FIELDS) == {"count": 0}


# --------------------------------------------------------------------------- the real host


@contextlib.contextmanager
def connections(
    count: int, family: int = socket.AF_INET
) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
        )
        pairs = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(server.getsockname()[:2]))
            pairs.append((client, stack.enter_context(server.accept()[0])))
        yield pairs


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    source = Sockets(FIELDS)
    if source.read(0.0) is None:
        pytest.skip(source.why)
    yield source
    source.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_real_connections_are_in_the_sample(sockets: Sockets, family: int) -> None:
    if family == socket.AF_INET6 and not os.path.exists("/proc/net/if_inet6"):  # noqa: PTH110
        pytest.skip("IPv6 is off")
    with connections(5, family) as pairs:
        for client, server in pairs:
            client.sendall(b"x" * 100_000)
            while len(server.recv(1 << 20, socket.MSG_PEEK)) == 0:
                pass
        row = (sockets.read(1.0) or {})[""]
        assert row["count"] >= 10
        assert row["bytes_sent"] >= 500_000
        theirs = struct.unpack_from(
            "=I", pairs[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 248), 68
        )
        assert theirs[0] > 0 and 0 < row["rtt_ms.p50"] < 10_000
        assert row["cwnd.p50"] >= 1
        assert row["delivery_bytes.p50"] > 0


def test_unsent_data_shows(sockets: Sockets) -> None:
    with connections(1) as [(client, _)]:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(b"x" * 65536)
        time.sleep(0.05)
        row = (sockets.read(1.0) or {})[""]
        assert row["notsent_bytes.p95"] > 0


def test_many_connections_are_read_in_portions_and_all_of_them_in_the_end(sockets: Sockets) -> None:
    with connections(3 * MAX_SOCKETS // 2):
        counts = [(sockets.read(float(look)) or {})[""]["count"] for look in range(12)]
        # a portion is read in whole messages of the kernel, which hold under a hundred connections
        assert max(counts) <= MAX_SOCKETS + 100
        assert sum(counts) >= 3 * MAX_SOCKETS
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    sockets.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
