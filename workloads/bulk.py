"""A bulk sender: pushes data over loopback TCP as fast as it goes, with a new connection every 50 ms.

It stands for a backup, a replica that catches up, or a proxy on the same host. Connections are new so that
a change to the defaults of a socket (`net.ipv4.tcp_wmem`) counts within one connection's life.

Gauges: `bulk_mb_per_s`, megabytes (1e6) received a second over the last 0.1 s.
With --null the sender sets its own SO_SNDBUF, which puts the sysctl out of the game for its sockets.
"""

from __future__ import annotations

import os
import select
import socket
import time

from workloads import life

CHUNK = bytes(128 << 10)
CONNECTION_S = 0.05
NULL_SEND_BUFFER = 1 << 20


def load(lives: life.Life, null: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4)
    address = listener.getsockname()
    parent = os.getpid()
    if os.fork() == 0:
        listener.close()  # else nobody would ever be refused
        life.die_with_parent(parent)
        _send(address, null)
        os._exit(0)
    buffer = bytearray(256 << 10)
    connection: socket.socket | None = None
    received, since = 0, time.monotonic()
    while lives.lasts():
        ends = connection if connection is not None else listener
        if select.select([ends], [], [], life.REPORT_EVERY_S / 4)[0]:
            if connection is None:
                connection = listener.accept()[0]
            elif (count := connection.recv_into(buffer)) == 0:
                connection.close()
                connection = None
            else:
                received += count
        now = time.monotonic()
        if now - since >= life.REPORT_EVERY_S:
            lives.report(bulk_mb_per_s=received / 1e6 / (now - since))
            received, since = 0, now
    if connection is not None:
        connection.close()
    listener.close()
    os.wait()


def _send(address: tuple[str, int], null: bool) -> None:
    """Connection after connection until nobody listens any more."""
    while True:
        with socket.socket() as connection:
            if null:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NULL_SEND_BUFFER)
            try:
                connection.connect(address)
                until = time.monotonic() + CONNECTION_S
                while time.monotonic() < until:
                    connection.send(CHUNK)
            except OSError:
                return


if __name__ == "__main__":
    life.main("a bulk sender over loopback TCP; reports its throughput", load)
