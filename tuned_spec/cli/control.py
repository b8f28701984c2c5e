"""`pause` and `resume`: asked of a running daemon, nothing else."""

from __future__ import annotations

import argparse

from tuned_spec.cli import live, show
from tuned_spec.cli.status import NOT_RUNNING
from tuned_spec.errors import UsageError

REFUSED = 1


def main(args: argparse.Namespace) -> int:
    reply = live.ask(args.runtime_dir, args.command, getattr(args, "knobs", ()))
    if reply is None:
        pid = live.lock_holder(args.runtime_dir)
        trouble = f"process {pid} does not answer; `{live.command('restore', args.runtime_dir)}` ends it"
        error = trouble if pid else f"no daemon runs in {args.runtime_dir}"
        code = REFUSED if pid else NOT_RUNNING
    elif not reply.get("ok"):
        error, code = str(reply.get("error", "refused")), REFUSED
    else:
        error, code = "", 0
    if args.json:
        paused = reply.get("paused") if reply else None
        show.json_out({"v": 1, "command": args.command, "ok": not error, "paused": paused, "error": error})
    elif error:
        raise Refused(error, code)
    else:
        print(_said(args, bool(reply and reply.get("paused"))))
    return code


def _said(args: argparse.Namespace, paused: bool) -> str:
    if args.command == "pause" or not paused:
        return "paused: no new changes" if paused else "tuning"
    resume = live.command("resume", args.runtime_dir)
    return (
        f"taken up again: {', '.join(args.knobs)}; but changes are still paused: `{resume}` lets them go on"
    )


class Refused(UsageError):
    def __init__(self, error: str, code: int) -> None:
        super().__init__(error)
        self.exit_code = code
