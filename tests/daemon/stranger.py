"""A daemon with an actor of the test's own making, and with faults that come from the kernel itself.

Run as a program: `python -m tests.daemon.stranger OPTIONS ACTOR`, both JSON. Below the place of the runtime
directory, a file `break-epoll` makes a thread put /dev/null in place of the daemon's epoll descriptor.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from tuned_spec.daemon import Options, serve

# What every actor here begins with: it speaks the protocol and has no privileges.
ACTOR = """
import json, os, socket, struct, sys, time
s = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def say(**m):
    b = json.dumps(m).encode(); s.sendall(struct.pack('>I', len(b)) + b)
def take(n):
    b = b''
    while len(b) < n:
        more = s.recv(n - len(b))
        if not more: raise SystemExit
        b += more
    return b
def hear():
    return json.loads(take(struct.unpack('>I', take(4))[0]))
def case():
    while (m := hear())['type'] != 'case': pass
    return m
say(type='hello', kind='stranger', pid=os.getpid(), uid=65534)
"""
SILENT = "while s.recv(65536): pass"


def break_epoll_when_told(place: Path) -> None:
    while not (place / "break-epoll").exists():
        time.sleep(0.02)
    for fd in Path("/proc/self/fd").iterdir():
        try:
            if str(fd.readlink()) != "anon_inode:[eventpoll]":
                continue
        except OSError:  # closed since it was listed
            continue
        # Replaced, not closed: a number that is free would be given to whatever is opened next.
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), int(fd.name))


def main(options: dict[str, str], actor: list[str]) -> int:
    runtime = Path(options["runtime"])
    threading.Thread(target=break_epoll_when_told, args=(runtime.parent,), daemon=True).start()
    return serve(
        Options(
            policies=(options["policy"],),
            dropins=None,
            runtime_dir=runtime,
            state_dir=Path(options["state"]),
            actor=tuple(actor),
        )
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), json.loads(sys.argv[2])))
