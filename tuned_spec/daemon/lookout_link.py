"""The daemon's end of the lookout: starts it, reads its news, starts it anew; says when to look for oneself.

Owns the lookout's process and what becomes of a lost or refused one: a scan now, then every SCAN_S, so
that without it tasks are found late, but found. Must not know what is done about the news.
"""

from __future__ import annotations

import socket
import sys

import msgspec

from tuned_spec.daemon.child import Child
from tuned_spec.lookout.messages import PACKET, Deaf, Lost, News, Tasks, unpack

PROGRAM = (sys.executable, "-m", "tuned_spec.lookout")
PACKETS_AT_ONCE = 32  # so that a flood cannot hold the loop
SCAN_S = 10.0  # between looks for oneself while the lookout does not hear
HEARING_SCAN_S = 60.0  # and while it does: a process can be moved to a cgroup, and then executes nothing


class LookoutLink(Child):
    """`receive` never blocks and never raises. `hear`: the lookout's ears, by name ("tasks")."""

    def __init__(self, hear: tuple[str, ...], command: tuple[str, ...] = PROGRAM) -> None:
        self.hear = hear
        ears = tuple(word for name in hear for word in ("--hear", name))
        super().__init__(command + ears, socket.SOCK_SEQPACKET)
        self.deaf: dict[str, str] = {}  # what it will not hear -> why
        self.why = "the lookout has not started yet"  # "": it hears all that it was asked to
        self.scan_at = 0.0  # when whoever needs to know looks for himself

    def receive(self, t: float) -> tuple[list[Tasks], str]:
        """What it said of tasks, and why it must be given up (or "")."""
        told: list[Tasks] = []
        for _ in range(PACKETS_AT_ONCE):
            if self.sock is None:
                break
            try:
                packet = self.sock.recv(PACKET)
                news = unpack(packet) if packet else None
            except BlockingIOError:
                break
            except (OSError, msgspec.DecodeError) as error:
                return told, f"what it says cannot be read: {error}"
            if news is None:
                return told, "it closed the connection"
            if self.why and not news:  # its first words: from here on all is heard, what came before is not
                self.why, self.scan_at = "; ".join(self.deaf.values()), t
            for piece in news:
                self._take(piece, told, t)
        return told, "it hears nothing" if self.deaf.keys() >= set(self.hear) else ""

    def _take(self, piece: News, told: list[Tasks], t: float) -> None:
        match piece:
            case Tasks():
                told.append(piece)
            case Lost():
                self.scan_at = t
            case Deaf():
                self.deaf[piece.of] = piece.why

    def scanned(self, t: float) -> None:
        """Somebody looked for himself: when to do so next, should nothing be lost before."""
        self.scan_at = t + (SCAN_S if self.why else HEARING_SCAN_S)

    def give_up(self, t: float) -> None:
        """For now; for good if it is deaf to all that it was asked to hear."""
        super().give_up(t)
        if self.deaf.keys() >= set(self.hear):
            self.start_at, self.why = None, "; ".join(self.deaf.values())
        else:
            self.deaf.clear()
            self.why = "the lookout does not run"
        self.scan_at = min(self.scan_at, t)
