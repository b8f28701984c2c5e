"""`restore`: hands over to ledger/repair.py, which does the work and needs nothing of ours."""

from __future__ import annotations

import argparse

from tuned_spec.errors import CatalogueError, UsageError
from tuned_spec.ledger import repair


def main(args: argparse.Namespace) -> int:
    if args.knobs:
        demand_known(args.knobs)
    options = ["--runtime-dir", str(args.runtime_dir)]
    if args.json:
        options.append("--json")
    return repair.main([*options, "--", *args.knobs])


def demand_known(names: list[str]) -> None:
    """A mistyped name must not pass for "nothing to restore"; a broken catalogue must not stop a repair."""
    try:
        from tuned_spec.cli.catalogue import unknown
        from tuned_spec.knobs.catalogue import load
        from tuned_spec.model import entry_of

        known = load()
    except (CatalogueError, ImportError):
        return
    for name in names:
        if entry_of(name) not in known:
            raise UsageError(unknown(name, known))
