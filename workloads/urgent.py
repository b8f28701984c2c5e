"""One TCP connection carries a download and, every 4 ms, a small urgent message: HTTP/2 in miniature.

The reader takes 64 MB/s, the sender has more, so the sender's queue in the kernel is always full, and an
urgent message has to wait until everything that was written before it has gone. How much that may be is
`net.ipv4.tcp_notsent_lowat`: by default nothing limits it but the send buffer, megabytes. With a limit the
socket says "writable" only when little is left unsent, so what is urgent can still go first.

Gauges: `urgent_p95_ms`, milliseconds from write to read of urgent messages over the last 0.1 s;
`stream_mb_per_s`, everything read. With --null the sender sets TCP_NOTSENT_LOWAT on its own socket to a
value as lax as the default, which puts the sysctl out of the game.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

from workloads import life

FRAME = 16 << 10
HEADER = struct.Struct("=?d")  # urgent?, when written (CLOCK_MONOTONIC, the same for both processes)
FRAMES_PER_S = 4000
URGENT_EVERY_S = 0.004
RECEIVE_BUFFER = 128 << 10
NULL_LOWAT = 1 << 30


def load(lives: life.Life, null: bool) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    parent = os.getpid()
    if os.fork() == 0:
        life.die_with_parent(parent)
        _send(listener.accept()[0], null)
        os._exit(0)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    reader.connect(listener.getsockname())
    listener.close()
    waits_ms: list[float] = []
    frames, began = 0, time.monotonic()
    reported = began
    read_so_far = 0
    while lives.lasts():
        now = time.monotonic()
        due = int((now - began) * FRAMES_PER_S) - frames
        if due > FRAMES_PER_S // 20:  # we were held up: no catching up at full speed
            began, frames, due = now, 0, 1
        for _ in range(due):
            urgent, written = HEADER.unpack_from(reader.recv(FRAME, socket.MSG_WAITALL))
            read_so_far += FRAME
            if urgent:
                waits_ms.append((time.monotonic() - written) * 1e3)
        frames += due
        if now - reported >= life.REPORT_EVERY_S and waits_ms:
            lives.report(
                urgent_p95_ms=life.p95(waits_ms), stream_mb_per_s=read_so_far / 1e6 / (now - reported)
            )
            waits_ms, reported, read_so_far = [], now, 0
        time.sleep(0.001)
    reader.close()
    os.wait()


def _send(connection: socket.socket, null: bool) -> None:
    """Frames as the socket takes them, the urgent one first when it is time for one."""
    if null:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NULL_LOWAT)
    connection.setblocking(False)
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    last_urgent = time.monotonic()
    padding = bytes(FRAME - HEADER.size)
    pending = b""
    while True:
        poller.poll()
        now = time.monotonic()
        if not pending:
            urgent = now - last_urgent >= URGENT_EVERY_S
            last_urgent = now if urgent else last_urgent
            pending = HEADER.pack(urgent, now) + padding
        try:
            pending = pending[connection.send(pending) :]
        except BlockingIOError:
            continue
        except OSError:  # the reader left
            return


if __name__ == "__main__":
    life.main("urgent messages on a busy TCP connection; reports how long they wait", load)
