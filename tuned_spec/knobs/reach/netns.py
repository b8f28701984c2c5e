"""Files of another network namespace: `netns:/run/netns/web|/proc/sys/net/ipv4/tcp_rmem`.

/proc/sys/net shows each thread its own namespace. So a thread is made that enters the other one (setns(2),
which needs CAP_SYS_ADMIN), does the one thing and ends; this one never leaves its own.
Standard library only, Python 3.9.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

from . import files

_CLONE_NEWNET = 0x40000000


def read(address: str) -> str:
    return str(_within(address, files.read))


def write(address: str, text: str) -> None:
    _within(address, lambda path: files.write(path, text))


def usable(address: str) -> None:
    _within(address, files.usable)


def _within(address: str, do: Callable[[str], Any]) -> Any:
    namespace, _, path = address.partition(":")[2].partition("|")
    answers: list[Any] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, _CLONE_NEWNET):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), namespace)
            finally:
                os.close(fd)
            answers.append(do(path))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
