"""The daemon's end of the door to the actor: starts it, speaks the framed protocol, starts it anew.

Owns the child process and its socket. Whatever comes out of that socket is data from an
unprivileged stranger: it is decoded strictly, bounded in size and rate, and a peer that breaks the
protocol is killed. Knows nothing of trials.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import msgspec

from tuned_spec.actor.channel import encode, from_actor
from tuned_spec.errors import ProtocolError
from tuned_spec.model import Hello, Measure, Probe, ToActor, Verdict

READ_AT_ONCE = 64 * 1024  # bytes read a wake-up, so that a flood cannot hold the loop
MESSAGES_A_SECOND = 200  # a trial needs about three
UNSENT_LIMIT = 4 * 1024 * 1024  # an actor that reads nothing is as good as dead
RESTART_S = (0.2, 1.0, 5.0, 30.0)  # the wait before each start in a row; then always the last
DYING_S = 0.05  # how long the loop waits for a killed actor to be gone
STABLE_S = 60.0  # an actor that lived this long starts counting afresh
PROGRAM = (sys.executable, "-m", "tuned_spec.actor")


class ActorLink:
    """One actor process at a time. `poll` and `receive` never block and never raise."""

    def __init__(
        self,
        seed: int | None = None,
        command: tuple[str, ...] = PROGRAM,
    ) -> None:
        self.command = command + (() if seed is None else ("--seed", str(seed)))
        self.process: subprocess.Popen[bytes] | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self.sock: socket.socket | None = None
        self.kind = "trial"
        self.restarts = -1
        self.ready = False
        self.heard = 0.0  # when it last said something sensible
        self.start_at: float | None = 0.0  # when to start it next
        self._failures = 0
        self._started = 0.0
        self._unsent = bytearray()
        self._decoder = from_actor()
        self._second = (0, 0)

    def start(self, t: float) -> str:
        """Start it; returns why that could not be done (then it is tried again later), or ""."""
        self.ready, self.restarts = False, self.restarts + 1
        self.start_at, self._started = None, t
        self._unsent.clear()
        self._decoder = from_actor()
        try:
            self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
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

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def tell(self, message: ToActor) -> str:
        """Queue a message; returns why the actor must be given up, or ""."""
        if self.sock is None:
            return ""
        try:
            self._unsent += encode(message)
        except ProtocolError as error:
            return f"a message to it cannot be sent: {error}"
        return self.flush()

    def flush(self) -> str:
        if self.sock is None:
            return ""
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > UNSENT_LIMIT:
                return "it reads nothing"
        except OSError as error:
            return f"its socket failed: {error.strerror}"
        return ""

    def receive(self, t: float) -> tuple[list[Hello | Measure | Probe | Verdict], str]:
        """What it said, and why it must be given up (or "")."""
        if self.sock is None:
            return [], ""
        try:
            data = self.sock.recv(READ_AT_ONCE)
        except BlockingIOError:
            return [], ""
        except OSError as error:
            return [], f"its socket failed: {error.strerror}"
        if not data:
            return [], "it closed the connection"
        try:
            messages = self._decoder.feed(data)
        except ProtocolError as error:
            return [], f"it broke the protocol: {error}"
        second, count = self._second
        self._second = (int(t), len(messages) + (count if int(t) == second else 0))
        if self._second[1] > MESSAGES_A_SECOND:
            return [], f"it floods: more than {MESSAGES_A_SECOND} messages a second"
        if messages:
            self.heard = t
        return [_plain(m) if isinstance(m, Verdict) else m for m in messages], ""

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
        self.sock, self.process, self.ready = None, None, False

    def accept(self, hello: Hello) -> str:
        """Check the first message: whoever still has root's power may not judge. Returns why not, or ""."""
        if self.process is None or hello.pid != self.process.pid:
            return f"it said it is process {hello.pid}"
        if os.geteuid() == 0 and _uid_of(hello.pid) == 0:
            return "it kept root's privileges"
        self.kind, self.ready = hello.kind, True
        return ""


def _plain(verdict: Verdict) -> Verdict:
    """Its words end up on terminals: no control characters, and not a book."""
    guards = {_printable(k, 100): _printable(v, 300) for k, v in list(verdict.guards.items())[:32]}
    return msgspec.structs.replace(verdict, reason=_printable(verdict.reason, 1000), guards=guards)


def _printable(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def _uid_of(pid: int) -> int:
    """Effective uid by the kernel's word, not by the actor's."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("Uid:"):
                    return int(line.split()[2])
    except OSError:
        pass
    return 0
