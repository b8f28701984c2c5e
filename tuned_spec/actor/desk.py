"""Where questions to a model wait and are asked: a few threads beside the actor's loop, which waits for none.

Knows how to have questions asked and to say when an answer is there; knows nothing of flows or the daemon.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable

from tuned_spec.actor.flow import Consult, Reply
from tuned_spec.actor.models import Call

WORKERS = 4  # questions on their way at a time; more wait

Ask = Callable[[Consult, Call], Reply]


class Desk:
    """`bell` is readable while answers wait to be taken; `put` and `taken` are the loop's."""

    def __init__(self) -> None:
        self.bell, self._ring = socket.socketpair()
        self.bell.setblocking(False)
        self._ring.setblocking(False)
        self._questions: queue.SimpleQueue[tuple[Ask, Consult, Call] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Call, Reply]] = queue.SimpleQueue()
        self._open: set[Call] = set()
        self._workers = 0

    def put(self, ask: Ask, consult: Consult) -> Call:
        """Asked as soon as a worker is free."""
        call = Call()
        self._open.add(call)
        self._questions.put((ask, consult, call))
        if self._workers < min(WORKERS, len(self._open)):
            self._workers += 1
            # Nobody waits for it at the end: whatever its endpoint does, the process may go.
            threading.Thread(target=self._work, name=f"asks {self._workers}", daemon=True).start()
        return call

    def taken(self) -> list[tuple[Call, Reply]]:
        """What has been answered since."""
        try:
            while self.bell.recv(4096):
                pass
        except BlockingIOError:
            pass
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        self._open.difference_update(call for call, _ in found)
        return found

    def close(self) -> None:
        """Gives up what is open; the workers end when they notice."""
        for call in self._open:
            call.abandon()
        for _ in range(self._workers):
            self._questions.put(None)
        self.bell.close()
        self._ring.close()

    def _work(self) -> None:
        while question := self._questions.get():
            ask, consult, call = question
            try:
                reply = Reply(error="given up") if call.given_up else ask(consult, call)
            except Exception as error:  # a mistake of ours: the flow goes on, without an answer
                reply = Reply(error=f"asking failed: {type(error).__name__}")
            self._answers.put((call, reply))
            try:
                self._ring.send(b"!")
            except OSError:
                pass  # it rings already, or nobody is there to hear it
