"""`run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse

from tuned_spec import paths
from tuned_spec.actor.config import load as load_actor
from tuned_spec.cli import show
from tuned_spec.cli.actor import actor_file


def main(args: argparse.Namespace) -> int:
    from tuned_spec.daemon import Options, serve
    from tuned_spec.daemon.options import actor_program
    from tuned_spec.model import Mode

    config = actor_file(args)
    if config is not None:
        # Here a mistake is said once; in the actor it would be a process that dies again and again.
        load_actor(config)
    options = Options(
        policies=tuple(args.policy or ("default",)),
        dropins=args.root / paths.DROPINS.relative_to("/"),
        mode=Mode(args.mode) if args.mode else None,
        runtime_dir=args.runtime_dir,
        state_dir=args.state_dir,
        for_s=show.seconds(args.for_s, "--for") if args.for_s else None,
        root=args.root,
        actor=actor_program(config, args.state_dir),
    )
    return serve(options)
