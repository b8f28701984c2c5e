"""`restore`: hands over to ledger/repair.py, which does the work and needs nothing of ours."""

from __future__ import annotations

import argparse

from tuned_spec.ledger import repair


def main(args: argparse.Namespace) -> int:
    options = ["--runtime-dir", str(args.runtime_dir)]
    if args.json:
        options.append("--json")
    return int(repair.main([*options, "--", *args.knobs]))
