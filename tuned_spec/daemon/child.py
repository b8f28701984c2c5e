"""A process that the daemon starts beside itself and talks to over one socket: started, killed, started anew.

Owns the process, the daemon's end of its socket and the wait before the next start. Must not know what is
said over it.
"""

from __future__ import annotations

import socket
import subprocess

RESTART_S = (0.2, 1.0, 5.0, 30.0)  # the wait before each start in a row; then always the last
DYING_S = 0.05  # how long the loop waits for a killed process to be gone
STABLE_S = 60.0  # one that lived this long starts counting afresh


class Child:
    """One process at a time, told its end of the socket by `--fd N`. Times are seconds of a steady clock."""

    def __init__(self, command: tuple[str, ...], kind: socket.SocketKind) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.sock: socket.socket | None = None
        self.restarts = -1
        self.start_at: float | None = 0.0  # when to start it next
        self._kind = kind
        self._dying: list[subprocess.Popen[bytes]] = []
        self._failures = 0
        self._started = 0.0

    def start(self, t: float) -> str:
        """Start it; returns why that could not be done (then it is tried again later), or ""."""
        self.restarts += 1
        self.start_at, self._started = None, t
        try:
            self.sock, theirs = socket.socketpair(socket.AF_UNIX, self._kind | socket.SOCK_CLOEXEC)
            self.sock.setblocking(False)
            with theirs:
                self.process = subprocess.Popen(
                    [*self.command, "--fd", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C on the terminal is the daemon's to handle
                )
        except OSError as error:  # no descriptor, no process or no memory left; the program is gone
            self.give_up(t)
            return f"it cannot be started: {error}"
        return ""

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def give_up(self, t: float) -> None:
        """Kill it if it lives, reap it, and set the time of the next start."""
        if self.sock is not None:
            self.sock.close()
        if self.process is not None:
            self.process.kill()
            self._dying.append(self.process)
        for process in tuple(self._dying):
            try:
                process.wait(DYING_S)
                self._dying.remove(process)
            except subprocess.TimeoutExpired:
                pass  # in a system call that cannot be broken off: reaped next time
        self._failures = 0 if t - self._started > STABLE_S else self._failures + 1
        self.start_at = t + RESTART_S[min(self._failures, len(RESTART_S) - 1)]
        self.sock, self.process = None, None
