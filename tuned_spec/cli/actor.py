"""`actor check` and the like: the model that judges, without a daemon. Each verb has a module of its own."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tuned_spec import paths
from tuned_spec.errors import UsageError

REPLAY = ("last", "trial", "model", "endpoint", "provider", "key_file", "system", "most_calls")


def main(args: argparse.Namespace) -> int:
    given = [name for name in REPLAY if getattr(args, name) is not None]
    if args.verb != "replay" and given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for `actor replay`")
    return int(importlib.import_module(f"tuned_spec.cli.actor_{args.verb}").main(args))


def actor_file(args: argparse.Namespace) -> Path | None:
    """Which actor.yaml counts: the named one, or the usual one if it is there."""
    if args.actor is not None:
        if not args.actor.exists():
            raise UsageError(f"--actor {args.actor}: there is no such file")
        return Path(args.actor)
    usual: Path = args.root / paths.ACTOR.relative_to("/")
    return usual if usual.exists() else None
