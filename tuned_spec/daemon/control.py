"""The control socket: one JSON line in, one JSON line out, on a Unix stream socket.

Owns the clients' connections, never what a request means. Bounded: so many clients, so long a
line, so long a silence; a slow client costs a buffer, never the loop.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import msgspec

from tuned_spec.model import Frozen, Offer

VERSION = 1
CLIENTS = 64
STRANGERS = 48  # of them at most: the rest is kept for those who may restore
LINE_LIMIT = 64 * 1024
SILENCE_S = 5.0


class Request(Frozen, frozen=True):
    """`do`: status, plan, restore, pause, resume, propose (with `offer`), withdraw (`source`, `trial`),
    approve and reject (`trial`, `remark`)."""

    v: int
    do: str
    knobs: tuple[str, ...] = ()
    offer: Offer | None = None
    source: str = ""
    trial: str = ""
    remark: str = ""
    advice: bool = False  # resume: drop what verdicts advised, and nothing else


class Client:
    def __init__(self, sock: socket.socket, t: float) -> None:
        self.sock, self.since = sock, t
        self.uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        self.received, self.unsent = bytearray(), bytearray()

    @property
    def may_change(self) -> bool:
        """Root, and whoever runs the daemon."""
        return self.uid in (0, os.geteuid())


class ControlSocket:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clients: dict[int, Client] = {}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        path.unlink(missing_ok=True)  # of a daemon that died; we hold the lock
        self.listener.bind(str(path))
        path.chmod(0o666)  # anyone may ask how it goes; who may change is decided by the peer's uid
        self.listener.listen(CLIENTS)
        self.listener.setblocking(False)
        self._inode = path.lstat().st_ino
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self, t: float) -> Client | None:
        try:
            sock, _ = self.listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return None
        client = Client(sock, t)
        strangers = sum(not other.may_change for other in self.clients.values())
        if len(self.clients) >= CLIENTS or (not client.may_change and strangers >= STRANGERS):
            sock.close()
            return None
        sock.setblocking(False)
        self.clients[sock.fileno()] = client
        return client

    def _turn_away(self) -> None:
        """Without a descriptor left, whoever waits in the queue would keep the loop awake for ever."""
        os.close(self._spare)
        try:
            self.listener.accept()[0].close()
        except OSError:
            pass
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, client: Client) -> Request | str | None:
        """A whole request, None while it is not complete, or what is wrong with it."""
        try:
            data = client.sock.recv(LINE_LIMIT)
        except BlockingIOError:
            return None
        except OSError as error:
            return error.strerror or "read failed"
        client.received += data
        line, newline, _ = client.received.partition(b"\n")
        if not newline:
            if not data:
                return "closed"
            return None if len(client.received) <= LINE_LIMIT else "the request is too long"
        client.received.clear()
        try:
            request = msgspec.json.decode(bytes(line), type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return f"not a request: {error}"
        return request if request.v == VERSION else f"version {request.v} is not spoken here, {VERSION} is"

    def answer(self, client: Client, reply: dict[str, object]) -> bool:
        """Send one line; False when the client is done with (sent, or gone)."""
        client.unsent += msgspec.json.encode({"v": VERSION, **reply}) + b"\n"
        return self.flush(client)

    def flush(self, client: Client) -> bool:
        try:
            while client.unsent:
                del client.unsent[: client.sock.send(client.unsent)]
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def drop(self, client: Client) -> None:
        self.clients.pop(client.sock.fileno(), None)
        client.sock.close()

    def silent(self, t: float) -> list[Client]:
        return [c for c in self.clients.values() if t - c.since > SILENCE_S]

    def close(self) -> None:
        for client in list(self.clients.values()):
            self.drop(client)
        self.listener.close()
        os.close(self._spare)
        try:
            if self.path.lstat().st_ino == self._inode:  # else it is another daemon's by now
                self.path.unlink()
        except OSError:
            pass  # gone already, or the directory is
