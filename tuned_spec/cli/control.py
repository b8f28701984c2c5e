"""`pause` and `resume`: asked of a running daemon, nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuned_spec.cli import live, show
from tuned_spec.cli.status import NOT_RUNNING
from tuned_spec.errors import UsageError

REFUSED = 1


def main(args: argparse.Namespace) -> int:
    advice = getattr(args, "advice", False)
    if advice and args.knobs:
        raise UsageError("resume --advice takes no KNOB: it drops all advice and nothing else")
    more = {"advice": True} if advice else {}
    reply = live.ask(args.runtime_dir, args.command, getattr(args, "knobs", ()), **more)
    if reply is None:
        error, code = silence(args.runtime_dir)
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


def silence(runtime_dir: Path) -> tuple[str, int]:
    """Why nobody answered, and the exit code."""
    found = live.daemon(runtime_dir)
    error = {
        "unseen": f"{runtime_dir} cannot be read without root; use sudo",
        "stopped": f"no daemon runs in {runtime_dir}",
    }.get(
        found.state, f"process {found.pid} does not answer; `{live.command('restore', runtime_dir)}` ends it"
    )
    return error, NOT_RUNNING if found.state == "stopped" else REFUSED


def _said(args: argparse.Namespace, paused: bool) -> str:
    if getattr(args, "advice", False):
        return "what verdicts advised is dropped" + ("; changes are still paused" if paused else "")
    if args.command == "pause" or not paused:
        return "paused: no new changes" if paused else "resumed: changes are made again"
    resume = live.command("resume", args.runtime_dir)
    return (
        f"taken up again: {', '.join(args.knobs)}; but changes are still paused: `{resume}` lets them go on"
    )


class Refused(UsageError):
    def __init__(self, error: str, code: int) -> None:
        super().__init__(error)
        self.exit_code = code
