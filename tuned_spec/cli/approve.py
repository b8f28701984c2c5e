"""`approve` and `reject`: a person's answer to a change that waits for one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from tuned_spec.cli import live, show
from tuned_spec.cli.control import REFUSED, Refused, silence
from tuned_spec.model import Asking

# what the trial's state is after the answer -> what that means
APPROVED = {
    "kept": "it is kept",
    "over": "but it could not be done; `tuned-spec history` says why",
    "reverting": "but it could not be done and is being put back; `tuned-spec history` says why",
    "waiting": "it begins once changes are not paused and no other trial is judged by the same metric",
    "switching": "it is done when a write has come back",
    "keeping": "it is being written, to be kept",
}


def main(args: argparse.Namespace) -> int:
    reply = live.ask(args.runtime_dir, args.command, trial=args.trial, remark=_remark(args.remark))
    if reply is None:
        error, code = silence(args.runtime_dir)
    else:
        error, code = ("", 0) if reply.get("ok") else (str(reply.get("error", "refused")), REFUSED)
    answer: dict[str, object] = reply or {}
    if args.json:
        document: dict[str, object] = {"v": 1, "command": args.command, "ok": not error, "error": error}
        document |= {name: answer.get(name) for name in ("trial", "moves", "asked", "state")}
        show.json_out(document | {"pending": answer.get("pending", [])})
    elif error:
        raise Refused(error + _waiting(answer), code)
    else:
        print(_said(args.command == "approve", answer))
    return code


def _waiting(answer: Mapping[str, object]) -> str:
    """The questions that could be meant, if the daemon said which there are."""
    questions = answer.get("pending")
    if not isinstance(questions, list):
        return ""
    lines = [f"  {q.get('trial')}  {show.moves(q.get('moves'))}" for q in questions]
    return "\n".join(
        ["", "these wait for an answer:", *lines] if lines else ["", "nothing waits for an answer"]
    )


def _remark(remark: str) -> str:
    """Who comes by sudo is root to the daemon; what sudo says of them is but a remark, easily forged."""
    behind = os.environ.get("SUDO_USER", "")
    return " ".join(filter(None, [remark, f"(SUDO_USER {behind})" if behind else ""]))


def _said(yes: bool, answer: Mapping[str, object]) -> str:
    trial, state = answer.get("trial"), str(answer.get("state"))
    if yes:
        return f"approved {trial}: {APPROVED.get(state, 'it is on trial now')}"
    if answer.get("asked") == Asking.BEFORE_TRIAL:
        return f"rejected {trial}: nothing was written"
    return f"rejected {trial}: {'it is put back' if state == 'over' else 'it is being put back'}"
