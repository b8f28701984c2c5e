"""`python -m tuned_spec.probes --fd N`: started by the daemon when the first probe is asked.

Answers several questions at once (WORKERS: a sampled answer takes a window of a second), each within LIMIT_S.
It keeps root's eyes and gives up root's hands (`power`). Ends with status 0 when the daemon closes its end.
"""

from __future__ import annotations

import argparse
import queue
import select
import signal
import socket
import threading
import time

import msgspec

from tuned_spec.probes.answer import ERROR_LIMIT, Unanswered
from tuned_spec.probes.messages import PACKET, Answered, Question, pack, question
from tuned_spec.probes.power import drop_power
from tuned_spec.probes.redact import plain
from tuned_spec.probes.registry import ANSWERS

WORKERS = 8
LIMIT_S = 3.0  # of one probe, from when a worker takes it up
LOOK_S = 0.1  # between looks for those that take too long


class Desk:
    """Questions in, answers out; each is answered once, by its worker or for it."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._begun: dict[int, float] = {}  # token -> when a worker took it up
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"probe-{number}", daemon=True).start()

    def take(self, asked: Question) -> None:
        self._waiting.put(asked)

    def tend(self) -> bool:
        """Answer those that take too long. A thread cannot be ended: should all be stuck, the daemon ends us.
        Returns whether any is under way."""
        now = time.monotonic()
        with self._lock:
            late = [token for token, began in self._begun.items() if now - began > LIMIT_S]
        for token in late:
            self._tell(Answered(token, error=f"too slow: it took more than {LIMIT_S:g} s", seconds=LIMIT_S))
        return bool(self._begun) or not self._waiting.empty()

    def _work(self) -> None:
        while True:
            asked = self._waiting.get()
            began = time.monotonic()
            with self._lock:
                self._begun[asked.token] = began
            text, error = answered(asked)
            self._tell(Answered(asked.token, text, error, round(time.monotonic() - began, 4)))

    def _tell(self, answer: Answered) -> None:
        with self._lock:
            if self._begun.pop(answer.token, None) is None:
                return  # it was answered for the worker
        try:
            self._door.sendall(pack(answer))
        except OSError:
            pass  # the daemon has gone: the loop sees it, too


def answered(asked: Question) -> tuple[str, str]:
    """Answer and error. Whatever a host may do to a probe, the other probes go on."""
    try:
        return ANSWERS[asked.name](asked.args), ""
    except KeyError:
        return "", f"{asked.name[:40]!a} is not answered here"
    except Unanswered as error:
        return "", plain(str(error))[:ERROR_LIMIT]
    except Exception as error:  # a format that we do not know
        what = plain(f"{asked.name}: it failed: {type(error).__name__}: {error}")
        return "", what[:ERROR_LIMIT]


def serve(door: socket.socket) -> None:
    """Until the daemon closes its end, or says what cannot be read: then there is nobody to trust."""
    desk, poll = Desk(door), select.poll()
    poll.register(door, select.POLLIN)
    busy = False
    while True:
        if poll.poll(LOOK_S * 1000 if busy else None):
            packet = door.recv(PACKET)
            if not packet:
                return
            desk.take(question(packet))
        busy = desk.tend()


def main() -> int:
    parser = argparse.ArgumentParser(prog="tuned_spec.probes", description="Answers read-only probes.")
    parser.add_argument("--fd", type=int, required=True, help="the packet socket to the daemon, inherited")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to answer: it closes the door
    drop_power()
    with socket.socket(fileno=args.fd) as door:
        try:
            serve(door)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except msgspec.DecodeError:
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
