"""Writes that may block for seconds (memory.high, memory.reclaim), carried out beside the loop.

Owns one thread and a descriptor that says when something has come back. Must not know what a change is, nor
touch the journal: that is the loop's. One thread is enough: what blocks does so because memory is short, and
two at a time would only make it shorter.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable


class Aside:
    """Started with the first deed. Deeds must not raise; a thread that hangs in one dies with the process."""

    def __init__(self) -> None:
        self.under_way = 0
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._todo: queue.SimpleQueue[tuple[Callable[[], None], Callable[[], None]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Readable when `come_back` has something to do."""
        return self._fd

    def begin(self, deed: Callable[[], None], then: Callable[[], None]) -> None:
        """`deed` in the thread, and `then` in the thread of whoever calls `come_back` after it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="aside", daemon=True)
            self._thread.start()
        self.under_way += 1
        self._todo.put((deed, then))

    def come_back(self) -> None:
        """Do what is to be done for the deeds that are over. Never waits."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass
        while not self._done.empty():
            self.under_way -= 1
            self._done.get()()

    def close(self) -> None:
        """The descriptor stays open while a deed is under way: its number must not become another file's."""
        if not self.under_way:
            os.close(self._fd)

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they belong to the loop
        while True:
            deed, then = self._todo.get()
            deed()
            self._done.put(then)
            os.eventfd_write(self._fd, 1)
