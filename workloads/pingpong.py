"""Two processes hand one small message to and fro, as a client and a small server on one host do.

Each waits for the other, so a CPU goes idle at every hop. In a virtual machine an idle CPU is handed back to
the hypervisor, and getting it again takes tens of microseconds: the larger part of each round trip. Polling
for a short while before halting (`/sys/module/haltpoll/parameters/guest_halt_poll_ns`, 0 where the hypervisor
does not advise otherwise) takes that part away.

Each process stays on a CPU of its own, where there are two: left alone, the scheduler sometimes puts both
on one, and then nothing halts.

Gauges: `ping_p95_us` and `ping_p50_us`, round trip in microseconds over the last 0.1 s; `ping_per_s`.
With --null both sides spin instead of waiting, and the server computes for 45 us: the same latency, but no
CPU ever halts, so the knob cannot change anything.
"""

from __future__ import annotations

import os
import socket
import time

from workloads import life

MESSAGE = b"." * 32
NULL_WORK_S = 45e-6


def load(lives: life.Life, null: bool) -> None:
    client, server = socket.socketpair()
    parent = os.getpid()
    cpus = sorted(os.sched_getaffinity(0))
    if os.fork() == 0:
        os.sched_setaffinity(0, cpus[-1:])
        client.close()
        life.die_with_parent(parent)
        _serve(server, null)
        os._exit(0)
    os.sched_setaffinity(0, cpus[:1])
    server.close()
    client.setblocking(not null)
    while lives.lasts():
        trips, seconds = _play(client, life.REPORT_EVERY_S)
        trips_us = [trip * 1e6 for trip in trips]
        lives.report(
            ping_p95_us=life.p95(trips_us),
            ping_p50_us=trips_us[len(trips_us) // 2],
            ping_per_s=len(trips) / seconds,
        )
    client.close()
    os.wait()


def _play(client: socket.socket, seconds: float) -> tuple[list[float], float]:
    """Round trips for this long: the time each took, and the time they took in all, in seconds."""
    clock = time.perf_counter
    trips = []
    began = sent = clock()
    while sent - began < seconds:
        client.send(MESSAGE)
        _receive(client)
        now = clock()
        trips.append(now - sent)
        sent = now
    return trips, sent - began


def _serve(server: socket.socket, null: bool) -> None:
    server.setblocking(not null)
    while True:
        message = _receive(server)
        if not message:
            return
        if null:
            until = time.perf_counter() + NULL_WORK_S
            while time.perf_counter() < until:
                pass
        try:
            server.send(message)
        except OSError:  # the client left
            return


def _receive(end: socket.socket) -> bytes:
    """One message; a non-blocking socket is spun on. Empty when the other side is gone."""
    while True:
        try:
            return end.recv(64)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return b""


if __name__ == "__main__":
    life.main("two processes playing ping-pong; reports the p95 of a round trip", load)
