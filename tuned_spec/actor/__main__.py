"""`python -m tuned_spec.actor --fd N [--config FILE]`: the slow brain's process, started by the daemon.

Everything is imported, keys are read and records opened first, for after the drop none of that may be
readable; then privileges go, then the first message is sent. Exit 0 at the daemon's end of file, 1 at a bad
message of its, 2 for a configuration that cannot be used.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# Before numpy is loaded: no worker threads, which would cost memory and escape the per-thread prctl.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tuned_spec import paths
from tuned_spec.actor import channel, stats, trial
from tuned_spec.actor.config import Config, ModelConfig, load, read_key
from tuned_spec.actor.serve import Wits, complain, serve
from tuned_spec.errors import ActorError, ProtocolError
from tuned_spec.model import Hello
from tuned_spec.policy.units import Misfit

if TYPE_CHECKING:  # what only an actor with a model loads
    from tuned_spec.actor.budget import Purse
    from tuned_spec.actor.models import Model

UNUSABLE = 2  # exit status
NOBODY = 65534
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38  # linux/prctl.h


def drop_privileges() -> None:
    """Never again root, no setuid program's gain, and dead when the daemon is. OSError if refused."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    os.chdir("/")
    # Another process of the same user, the owner's hook for one, may not look for the key in our memory.
    _prctl(PR_SET_DUMPABLE, 0)
    # After the change of uid, which clears it (prctl(2)).
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def wits_of(config: Config, rng: random.Random, purse: Purse | None) -> Wits:
    """What is configured, with all it needs in memory. Misfit, OSError: a key or a ca_file is of no use."""
    wits = Wits(lambda case: trial.judge(case, chance()))

    def chance() -> random.Random:  # of each case its own: one's windows do not move another's coins
        return random.Random(rng.getrandbits(64))

    if config.notify:
        from tuned_spec.actor.notify import Notifier

        wits = replace(wits, notify=Notifier(config.notify, complain))
    if purse:
        from tuned_spec.actor.desk import Desk

        wits = replace(wits, desk=Desk())
    if config.model:
        from tuned_spec.actor import review
        from tuned_spec.actor.weigh import Keep

        how = config.review
        settings = review.Settings(
            keep=Keep(how.keep),
            probes=how.probes,
            reply_tokens=config.model.reply_tokens,
            often=how.often,
            remember_s=how.remember_s,
        )
        wits = replace(
            wits,
            judge=lambda case: review.judge(case, chance(), settings),
            ask=opened(config.model, purse).ask,
        )
    if config.speculator:
        from tuned_spec.actor.suggest import suggest

        most = config.speculator.reply_tokens
        wits = replace(
            wits,
            suggest=lambda outlook: suggest(outlook, chance(), reply_tokens=most),
            ask_fast=opened(config.speculator, purse).ask,
        )
    return wits


def opened(model: ModelConfig, purse: Purse | None) -> Model:
    from tuned_spec.actor.models import Model

    ready = Model(model, read_key(model), purse)
    ready.warm()
    return ready


def main() -> int:
    parser = argparse.ArgumentParser(prog="tuned_spec.actor", description="Judges changes.")
    parser.add_argument("--fd", type=int, required=True, help="the stream socket to the daemon, inherited")
    parser.add_argument("--seed", type=int, help="makes the arms' order repeatable")
    parser.add_argument("--config", type=Path, help="actor.yaml (default: none, the trial alone judges)")
    parser.add_argument("--state-dir", type=Path, help="where it is kept what models have cost")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to answer: it closes the door
    rng = random.Random(args.seed)  # None seeds from the system
    stats.bounds([1.0] * 8, 0.05)  # numpy loads parts of itself on first use: before the drop
    try:
        config = load(args.config) if args.config else Config()
        wits = wits_of(config, rng, purse_of(config, args.state_dir))
    except (ActorError, Misfit) as error:
        for line in str(error).splitlines():
            complain(line)
        return UNUSABLE
    except OSError as error:
        complain(f"cannot start: {error}")
        return 1
    with socket.socket(fileno=args.fd) as door:
        drop_privileges()
        door.sendall(channel.encode(hello_of(config)))
        try:
            serve(door, wits)
        except ProtocolError as error:
            complain(f"the daemon broke the protocol: {error}; leaving")
            return 1
        except (BrokenPipeError, ConnectionResetError):
            return 0
    return 0


def hello_of(config: Config) -> Hello:
    kind = f"model {config.model.name} and trial" if config.model else "trial"
    review_s = config.review.time_s if config.model else 0.0
    return Hello(kind, os.getpid(), os.getuid(), review_s, speculates=config.speculator is not None)


def purse_of(config: Config, directory: Path | None) -> Purse | None:
    """For who asks models, with what was spent before. OSError: that cannot be kept there."""
    if not (config.model or config.speculator):
        return None
    from tuned_spec.actor.budget import Purse, Record

    record = Record(directory, paths.SPENT, complain) if directory else None
    return Purse(config.budget, record, boot=boot_id())


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


if __name__ == "__main__":
    raise SystemExit(main())
