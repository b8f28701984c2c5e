"""How a knob is reached: an address is read as text and written as text. Standard library only, Python 3.9.

    /proc/sys/vm/swappiness        a file
    task:1234/nice                 what comes before the first colon names the module

The daemon's adapters and repair.py reach the host through the same lines. repair.py runs without the package,
from a copy of this directory beside it, so nothing here imports anything of ours. Must not know catalogue,
types, rows or policies. The text that `read` gives can be written as it is: everything is put back so.
"""

# Paths are strings here, as in repair.py: the way back imports little.
# ruff: noqa: PTH115, PTH116

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from . import files

# what stands before the colon -> the module beside this one
MODULES: dict[str, str] = {
    "cgroup": "cgroup",
    "ethtool": "ethtool",
    "held": "held",
    "link": "link",
    "netns": "netns",
    "qdisc": "qdisc",
    "task": "task",
    "unit": "unit",
    "words": "words",
}


def read(address: str) -> str:
    """The text that the kernel shows. OSError; FileNotFoundError if there is no such thing now."""
    if address.startswith("/"):
        return files.read(address)
    with _as_oserror(address):
        return str(_module(address).read(address))


def write(address: str, text: str) -> None:
    """One write. OSError with the kernel's errno."""
    if address.startswith("/"):
        files.write(address, text)
        return
    with _as_oserror(address):
        _module(address).write(address, text)


@contextmanager
def _as_oserror(address: str) -> Iterator[None]:
    """Whatever a module trips over (no thread to be had, an answer of another shape, a module that the copy
    beside the repair lacks) is about this one knob: the others are still put back."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", address) from error


@contextmanager
def together() -> Iterator[None]:
    """For many reads and writes in a row, by this thread: what was opened for one serves the next."""
    with ExitStack() as stack:
        for name in MODULES.values():
            module = sys.modules.get(f"{__name__}.{name}")  # not yet used: it costs nothing
            if module is not None and hasattr(module, "together"):
                stack.enter_context(module.together())
        yield


def canonical(address: str, text: str) -> str:
    """What `read` gives after that text was written, where a module knows better. OSError for no value."""
    module = files if address.startswith("/") else _module(address)
    return str(module.canonical(address, text)) if hasattr(module, "canonical") else text


def usable(address: str) -> None:
    """OSError if a write would be refused whatever its value, as far as can be told without one."""
    if address.startswith("/"):
        files.usable(address)
    elif hasattr(module := _module(address), "usable"):
        module.usable(address)


def gone(identity: str) -> str:
    """Why the very thing that was meant is there no more, "" if it is.

    An identity is `scheme:value@where`: another disk, interface or task may have taken the name.
    """
    scheme, _, rest = identity.partition(":")
    if scheme not in IDENTITIES:
        return f"its identity {identity} is of a kind unknown here" if identity else ""
    value, _, where = rest.partition("@")
    try:
        with _as_oserror(identity):
            now = IDENTITIES[scheme](where)
    except OSError as error:
        return f"{where or scheme}: {error.strerror or os.strerror(error.errno or 0)}"
    return "" if now == value else f"{where or scheme} is another one now ({scheme} {now}, was {value})"


def _module(address: str) -> Any:
    scheme = address.partition(":")[0]
    if scheme not in MODULES:
        raise OSError(errno.EOPNOTSUPP, f"no way to reach {address}")
    name = f"{__name__}.{MODULES[scheme]}"
    return sys.modules.get(name) or importlib.import_module(name)


def _netns(interface: str) -> str:
    """`eth0#4`: and the interface of that number is in it, whatever its name is by now."""
    if interface:
        _module("link:").name_of(int(interface.rpartition("#")[2]))
    return os.readlink("/proc/self/ns/net")[len("net:") :]


def _inode(path: str) -> str:
    return str(os.stat(path).st_ino)


def _ifindex(nic: str) -> str:
    return files.read(f"/sys/class/net/{nic}/ifindex")


def _irq(number: str) -> str:
    """Who handles it: each has a directory in that of the number."""
    return ",".join(sorted(entry.name for entry in os.scandir(f"/proc/irq/{number}") if entry.is_dir()))


def _start(tid: str) -> str:
    """When the task was started, in ticks."""
    return str(_module("task:").start(tid))


# scheme -> the value that is at that place now; OSError if nothing is
IDENTITIES: dict[str, Callable[[str], str]] = {
    "netns": _netns,
    "inode": _inode,
    "ifindex": _ifindex,
    "irq": _irq,
    "start": _start,
}
