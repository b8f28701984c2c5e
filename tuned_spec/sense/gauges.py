"""The metric socket: programs report their own figures, `name:value|g`, one or more lines a datagram.

Owns the socket file, the line format and who may report what. Must not know what a metric is for.
Whatever arrives, `receive` does a bounded amount of work, keeps nothing of what it refuses but a count, and
never raises.

From a shell (the name without `app.`, as the sender's own user):
    echo -n 'p95_ms:12.5|g' | socat - UNIX-SENDTO:/run/tuned-spec/metrics.sock
From Python, without this package:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"p95_ms:12.5|g", "/run/tuned-spec/metrics.sock")

A value is a plain decimal number. statsd's signed form (`+3`, `-3`) means a change there, so it is refused
here rather than taken for a level.
"""

from __future__ import annotations

import errno
import math
import os
import re
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from tuned_spec.errors import AlreadyRunning, TunedSpecError, UsageError
from tuned_spec.model import Sample

MAX_DATAGRAMS = 64  # a call; the rest waits, as far as the kernel's queue goes (net.unix.max_dgram_qlen)
MAX_BYTES = 2048  # a datagram
MAX_LINES = 32  # a datagram
_MAX_PATH = 107  # sun_path holds 108 bytes, the last one NUL
_LINE = re.compile(rb"([A-Za-z_][A-Za-z0-9_.-]{0,63}):([^|:]{1,64})\|g")
_VALUE = re.compile(rb"\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?")
_NOT_FINITE = re.compile(rb"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid of struct ucred

# why something was refused -> what it was; the keys of `GaugeSocket.rejected`
REASONS = {
    "wrong_owner": "the sender's user does not own the metric: see `metrics:` in the policy",
    "unknown_metric": "no policy declares the metric: add it under `metrics:`",
    "bad_line": "a line that is not `name:value|g`",
    "not_finite": "nan, inf, or too large for a number",
    "too_long": f"a datagram over {MAX_BYTES} bytes or {MAX_LINES} lines: the rest of it is lost",
    "no_credentials": "the kernel did not say who sent it",
}


class GaugeSocket:
    """Listens at `path`; `owners` says which uid may report which metric (`app.p95_ms` or `p95_ms`).

    The file has mode 0660 and the group `gid` (-1: our own), so a sender must be in that group or be the
    same user. Raises UsageError for a path that cannot be used, AlreadyRunning if somebody listens there.
    """

    def __init__(self, path: Path, owners: Mapping[str, int], gid: int = -1) -> None:
        self.path = path
        self._owners = {name.removeprefix("app.").encode(): uid for name, uid in owners.items()}
        self._uids = frozenset(owners.values())
        self.rejected = dict.fromkeys(REASONS, 0)
        if len(os.fsencode(path)) > _MAX_PATH:
            raise UsageError(
                f"{path}: too long for a Unix socket ({len(os.fsencode(path))} bytes, at most {_MAX_PATH}); "
                "choose a shorter --runtime-dir"
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            os.fchmod(self._socket.fileno(), 0o660)  # the file is made with this mode, less the umask
            _bind(self._socket, path)
            os.chown(path, -1, gid)
            path.chmod(0o660)
            self._inode = path.lstat().st_ino
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"{path}: cannot listen: {error.strerror}; is its directory there, and ours?"
            ) from error
        except TunedSpecError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, t: float) -> list[Sample]:
        """What has arrived, at most MAX_DATAGRAMS datagrams, as samples named `app.<name>` at time `t`."""
        samples: list[Sample] = []
        for _ in range(MAX_DATAGRAMS):
            try:
                # No room for descriptors beside the credentials: the kernel drops those that are sent.
                data, ancillary, flags, _ = self._socket.recvmsg(
                    MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except OSError:  # mostly EAGAIN: there is no more
                break
            uid = _sender(ancillary)
            if uid is None:
                self.rejected["no_credentials"] += 1
            elif uid not in self._uids:
                self.rejected["wrong_owner"] += 1
            elif flags & socket.MSG_TRUNC:
                self.rejected["too_long"] += 1
            else:
                self._take(data, uid, t, samples)
        return samples

    def close(self) -> None:
        """Stops listening and removes the file, if it is still ours."""
        self._socket.close()
        try:
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        except OSError:
            pass  # gone already, or the directory is

    def _take(self, data: bytes, uid: int, t: float, samples: list[Sample]) -> None:
        lines = data.rstrip(b"\n\0").split(b"\n", MAX_LINES)
        if len(lines) > MAX_LINES:
            self.rejected["too_long"] += 1
        for line in lines[:MAX_LINES]:
            name, value, reason = _parse(line)
            if not reason and name not in self._owners:
                reason = "unknown_metric"
            if not reason and self._owners[name] != uid:
                reason = "wrong_owner"
            if reason:
                self.rejected[reason] += 1
            else:
                samples.append(Sample(f"app.{name.decode('ascii')}", value, t, uid))


def _parse(line: bytes) -> tuple[bytes, float, str]:
    """Name, value, and the reason for refusing it or ""."""
    match = _LINE.fullmatch(line)
    if not match:
        return b"", 0.0, "bad_line"
    name, text = match.groups()
    if _NOT_FINITE.fullmatch(text):
        return name, 0.0, "not_finite"
    if not _VALUE.fullmatch(text):
        return name, 0.0, "bad_line"
    value = float(text)
    return name, value, "" if math.isfinite(value) else "not_finite"


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) == _CREDENTIALS.size:
            uid: int = _CREDENTIALS.unpack(data)[1]
            return uid
    return None


def _bind(listener: socket.socket, path: Path) -> None:
    """Binds, replacing the socket that a dead daemon left behind. Whoever calls holds the daemon's lock."""
    try:
        listener.bind(os.fspath(path))
        return
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise UsageError(f"{path}: is there and is no socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:  # nobody listens
            path.unlink()
            listener.bind(os.fspath(path))
            return
    raise AlreadyRunning(
        f"{path}: somebody listens here; stop the other daemon or choose another --runtime-dir"
    )


def send(path: Path | str, name: str, value: float) -> bool:
    """Reports one gauge (`p95_ms`, without `app.`). Never waits: False if nobody listens or all is full.

    True means sent, not accepted: what is refused shows in the daemon's `status`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(f"{name}:{float(value)!r}|g".encode(), os.fspath(path))
        except OSError:
            return False
    return True
