"""`python -m tuned_spec.actor --fd N [--seed S]`: the slow brain's process, started by the daemon.

Everything is imported first, for after the drop the package may no longer be readable; then privileges
go, then the first message is sent. Exit 0 at the daemon's end of file, 1 at a bad message of its.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import socket

# Before numpy is loaded: no worker threads, which would cost memory and escape the per-thread prctl.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tuned_spec.actor import channel, stats, trial
from tuned_spec.actor.serve import complain, serve
from tuned_spec.errors import ProtocolError
from tuned_spec.model import Hello

NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h


def drop_privileges() -> None:
    """Never again root, no setuid program's gain, and dead when the daemon is. OSError if refused."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir("/")
    # After the change of uid, which clears it (prctl(2)).
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tuned_spec.actor", description="Judges changes.")
    parser.add_argument("--fd", type=int, required=True, help="the stream socket to the daemon, inherited")
    parser.add_argument("--seed", type=int, help="makes the arms' order repeatable")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to answer: it closes the door
    rng = random.Random(args.seed)  # None seeds from the system
    stats.bounds([1.0] * 8, 0.05)  # numpy loads parts of itself on first use: before the drop
    with socket.socket(fileno=args.fd) as door:
        drop_privileges()
        door.sendall(channel.encode(Hello("trial", os.getpid(), os.getuid())))
        try:
            # A generator of its own for each case: one case's windows do not move another's coins.
            serve(door, lambda case: trial.judge(case, random.Random(rng.getrandbits(64))))
        except ProtocolError as error:
            complain(f"the daemon broke the protocol: {error}; leaving")
            return 1
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
