"""The daemon's end of the helper that answers probes: started when one is asked, ended when none is for long.

Owns the helper's process and which questions wait for it: each is answered once, with an error if the helper
dies or stays silent. Must not know who asks, nor what a probe is about.
"""

from __future__ import annotations

import socket
import sys

import msgspec

from tuned_spec.daemon.child import Child
from tuned_spec.probes.messages import PACKET, Answered, Question, answered, pack
from tuned_spec.probes.names import ANSWER_LIMIT

PROGRAM = (sys.executable, "-m", "tuned_spec.probes")
PATIENCE_S = 5.0  # for one answer; the helper itself gives a probe 3 s
IDLE_S = 60.0  # without a question
WAITING = 24  # questions at most: three rounds of the helper's workers
PACKETS_AT_ONCE = 32


class ProbesLink(Child):
    """`ask` and `receive` never block and never raise. Times are seconds of a steady clock."""

    def __init__(self, command: tuple[str, ...] = PROGRAM) -> None:
        super().__init__(command, socket.SOCK_SEQPACKET)
        self.asked = self.failed = 0  # of all helpers so far
        self._waiting: dict[int, float] = {}  # token -> when it was asked
        self._latest = 0.0  # question

    def ask(self, question: Question, t: float) -> str:
        """Why it cannot be asked now, or "": then an answer, or its loss, will be told."""
        self.asked += 1
        why = self._ask(question, t)
        self.failed += bool(why)
        return why

    def _ask(self, question: Question, t: float) -> str:
        if len(self._waiting) >= WAITING:
            return f"{WAITING} other questions wait; ask again"
        if self.sock is None:
            if self.start_at is not None and t < self.start_at:
                return "the process that answers has failed just now and is started anew; ask again"
            if trouble := self.start(t):
                return f"the process that answers: {trouble}"
        assert self.sock is not None
        try:
            self.sock.send(pack(question))
        except OSError as error:  # full, which WAITING does not allow, or dead, which `receive` finds, too
            return f"the process that answers takes no question: {error.strerror}"
        self._waiting[question.token] = self._latest = t
        return ""

    def receive(self) -> tuple[list[Answered], str]:
        """What it answered, and why it must be given up (or "")."""
        told: list[Answered] = []
        for _ in range(PACKETS_AT_ONCE):
            if self.sock is None:
                break
            try:
                packet = self.sock.recv(PACKET)
                if not packet:
                    return told, "it ended"
                one = answered(packet)
            except BlockingIOError:
                break
            except ConnectionResetError:  # before it had read all questions
                return told, "it ended"
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                return told, f"what it says cannot be read: {error}"
            if self._waiting.pop(one.token, None) is None:
                return told, "it answered what was not asked"
            if len(one.answer.encode()) > ANSWER_LIMIT:
                one = Answered(one.token, error="its answer was too long", seconds=one.seconds)
            self.failed += bool(one.error)
            told.append(one)
        return told, ""

    @property
    def due(self) -> float | None:
        """When `overdue` or `idle` may change their answer."""
        if self.sock is None:
            return None
        return min(self._waiting.values(), default=self._latest + IDLE_S - PATIENCE_S) + PATIENCE_S

    def overdue(self, t: float) -> str:
        """Why it must be given up: it does not answer; or ""."""
        late = t - min(self._waiting.values(), default=t) >= PATIENCE_S
        return f"it did not answer in {PATIENCE_S:g} s" if late else ""

    def idle(self, t: float) -> bool:
        return self.sock is not None and not self._waiting and t - self._latest >= IDLE_S

    def lost(self, why: str) -> list[Answered]:
        """After it was given up: the errors that answer what still waits."""
        gone, self._waiting = self._waiting, {}
        self.failed += len(gone)
        return [Answered(token, error=f"the process that answers failed: {why}") for token in gone]
