"""`actor check` and the like: the model that judges, without a daemon. Each verb has a module of its own."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tuned_spec import paths
from tuned_spec.errors import UsageError


def main(args: argparse.Namespace) -> int:
    return int(importlib.import_module(f"tuned_spec.cli.actor_{args.verb}").main(args))


def actor_file(args: argparse.Namespace) -> Path | None:
    """Which actor.yaml counts: the named one, or the usual one if it is there."""
    if args.actor is not None:
        if not args.actor.exists():
            raise UsageError(f"--actor {args.actor}: there is no such file")
        return Path(args.actor)
    usual: Path = args.root / paths.ACTOR.relative_to("/")
    return usual if usual.exists() else None
