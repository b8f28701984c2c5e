"""`run`: the daemon, in the foreground."""

from __future__ import annotations

import argparse

from tuned_spec import paths
from tuned_spec.cli import show


def main(args: argparse.Namespace) -> int:
    from tuned_spec.daemon import Options, serve
    from tuned_spec.model import Mode

    options = Options(
        policies=tuple(args.policy or ("default",)),
        dropins=args.root / paths.DROPINS.relative_to("/"),
        mode=Mode(args.mode) if args.mode else None,
        runtime_dir=args.runtime_dir,
        state_dir=args.state_dir,
        for_s=show.seconds(args.for_s, "--for") if args.for_s else None,
        root=args.root,
    )
    return serve(options)
