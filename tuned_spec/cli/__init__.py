"""The command line: what can be typed, and how a command ends.

Owns the parser, the exit codes and how errors are shown. Each command's work is in a module of its
own, imported only when it runs: `tuned-spec status` must not pay for what `check` needs.
Exit codes are documented in docs/json.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuned_spec import __version__, paths
from tuned_spec.errors import TunedSpecError

INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

Argument = tuple[tuple[str, ...], dict[str, Any]]


def arg(*flags: str, **options: Any) -> Argument:
    return flags, options


ACTOR_HELP = f"who judges, and how (default: {paths.ACTOR} if it is there; without, trials alone do)"
POLICY_HELP = "a shipped policy's name, or a file; may be given several times (default: default)"

ANSWER = [
    arg("trial", metavar="ID", help="of the question, as `status` shows it; its beginning or number will do"),
    arg("--remark", default="", metavar="TEXT", help="kept with the answer"),
]

MODULES = {"pause": "control", "resume": "control", "reject": "approve"}
# commands about what a daemon did, wherever it was started
LOOKING = {"status", "why", "history", "actor", "knobs", "plan", "mcp"} | {
    *("restore", "pause", "resume", "approve", "reject", "propose"),
}
# command -> what it does, its arguments. `main(args) -> int` is in the module of its name, or of MODULES.
COMMANDS: dict[str, tuple[str, list[Argument]]] = {
    "run": (
        "tune this host until stopped",
        [
            arg("--policy", action="append", metavar="P", help=POLICY_HELP),
            arg("--mode", choices=("observe", "lossless", "lossy"), help="override the policy's mode"),
            arg("--for", dest="for_s", metavar="TIME", help="stop after this long (60s, 5min)"),
            arg("--actor", type=Path, metavar="FILE", help=ACTOR_HELP),
        ],
    ),
    "actor": (
        "the model that judges: `check` tries its endpoint for real and says what is wrong; `replay` lets "
        "another model or prompt judge again what is on record, and compares",
        [
            arg("verb", choices=("check", "replay"), metavar="check|replay", help="what to do"),
            arg("--actor", type=Path, metavar="FILE", help=ACTOR_HELP),
            arg("--last", type=int, metavar="N", help="replay: the last N reviews (default 20)"),
            arg("--trial", metavar="T", help="replay: this one"),
            arg("--model", metavar="NAME", help="replay: this model, at --actor's or another endpoint"),
            arg("--endpoint", metavar="URL", help="replay: another endpoint"),
            arg("--provider", metavar="P", help="replay: what that speaks (openai, anthropic)"),
            arg("--key-file", metavar="FILE", help="replay: the key to that"),
            arg("--system", type=Path, metavar="FILE", help="replay: these instructions, not the usual ones"),
            arg("--most-calls", type=int, metavar="N", help="replay: no more calls in all (default 20)"),
        ],
    ),
    "status": ("what is running, changed, refused and on trial", []),
    "why": (
        "why a knob has its value: original, rule, evidence, verdict, live",
        [
            arg("knob", metavar="KNOB", help="for example vm.swappiness"),
            arg("--full", action="store_true", help="and all that was said to and by a model about it"),
        ],
    ),
    "history": (
        "what was decided and done, a line each",
        [
            arg("--knob", metavar="K", help="only about this knob"),
            arg("--trial", metavar="T", help="only this trial"),
            arg("--last", type=int, metavar="N", help="the last N (default 50, 0: all)", default=50),
            arg("--since", metavar="TIME", help="not older than this (30min, 1h, 2d)"),
        ],
    ),
    "restore": (
        "put knobs back to their originals, whatever state the daemon is in",
        [arg("knobs", nargs="*", metavar="KNOB", help="only these (default: all)")],
    ),
    "pause": ("make no new changes until resumed; open trials run to their end", []),
    "resume": (
        "make changes again; a KNOB that somebody else wrote is taken up again, from its value now",
        [
            arg("knobs", nargs="*", metavar="KNOB", help="take these up again"),
            arg("--advice", action="store_true", help="only drop what verdicts advised (see `status`)"),
        ],
    ),
    "propose": (
        "put a change of your own on trial, like a rule's guess: measured, and kept only if it helps",
        [
            arg("changes", nargs="+", metavar="KNOB=VALUE", help="as a policy sets it: 64KiB, 25%% of ram"),
            arg("--expect", required=True, metavar="METRIC", help="what must move for it to be kept"),
            arg("--way", required=True, choices=("up", "down"), help="which way"),
            arg("--min-effect", default="5%", metavar="SHARE", help="by how much at least (default 5%%)"),
            arg(
                "--guard",
                action="append",
                default=[],
                metavar="TEXT",
                help="what must not get worse: 'tcp.retrans_share may rise 10%%'",
            ),
            arg("--reason", required=True, metavar="TEXT", help="why it should help"),
            arg("--confidence", default="50%", metavar="SHARE", help="how sure you are (default 50%%)"),
            arg("--source", default="cli", metavar="NAME", help="who proposes it, one word (default cli)"),
            arg("--wait", action="store_true", help="until it is judged; prints the verdict"),
        ],
    ),
    "plan": (
        "what would be done now and why not, of every rule and search, without doing anything",
        [
            arg(
                "policies",
                nargs="*",
                metavar="POLICY",
                help="of these instead of the running daemon's: looks at the host for a second",
            )
        ],
    ),
    "mcp": (
        "serve the Model Context Protocol on stdin and stdout: let an agent look, or propose",
        [
            arg("--allow-propose", action="store_true", help="it may propose changes, and withdraw its own"),
            arg("--source", default="mcp", metavar="NAME", help="who proposes then, one word (default mcp)"),
        ],
    ),
    "approve": ("say yes to a change that waits for a person: see `status`", ANSWER),
    "reject": ("say no to it: what was tried goes back", ANSWER),
    "check": (
        "check policy files; show the merged result and where each value came from",
        [
            arg("policies", nargs="*", metavar="POLICY", help="a name or a file (default: default)"),
            arg("--policy", action="append", default=[], metavar="P", help="the same, as of `run`"),
        ],
    ),
    "policy": (
        "try a policy on a recorded trace: what it would have done, when, and why not",
        [
            arg("verb", choices=("test",), metavar="test", help="replay the trace through the policy"),
            arg("policies", nargs="+", metavar="POLICY", help="a shipped policy's name, or a file"),
            arg("--trace", required=True, metavar="T", help="made by `tuned-spec record T`"),
            arg("--set", action="append", metavar="KNOB=VALUE", help="what stood in a knob at its start"),
            arg(
                "--mode",
                choices=("observe", "lossy"),
                default="observe",
                help="lossy: proposals are written, and taken back as nobody answers (default observe)",
            ),
        ],
    ),
    "knobs": (
        "the catalogue on this host: value, range, risk, owner",
        [
            arg("pattern", nargs="?", metavar="PATTERN", help="only ids that contain or match this"),
            arg(
                "--markdown",
                action="store_true",
                help="the whole catalogue as a page, whatever this host has",
            ),
        ],
    ),
    "record": (
        "record what this host does as a trace, to try policies on",
        [
            arg("file", metavar="FILE", help="JSON lines; compressed if it ends in .gz"),
            arg("--for", dest="for_s", metavar="TIME", default="60s", help="this long (default 60s)"),
            arg("--interval", metavar="TIME", default="1s", help="between two observations (default 1s)"),
            arg(
                "--metrics",
                action="append",
                metavar="GLOB",
                help="only these, NAME or NAME@INSTANCE, several with commas between (default: '*')",
            ),
            arg("--note", metavar="TEXT", help="what goes on meanwhile; it is kept in the trace"),
        ],
    ),
    "doctor": ("what this host offers, who else tunes it, and what to do about it", []),
}


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="answer with one JSON document (docs/json.md)")
    for name, default in (("runtime", paths.runtime_dir()), ("state", paths.state_dir())):
        common.add_argument(
            f"--{name}-dir", type=Path, default=default, metavar="D", help=f"{name} directory ({default})"
        )
    # For tests and mounted images: where /proc, /sys and /etc are.
    common.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)

    top = argparse.ArgumentParser(
        prog="tuned-spec", description="Speculative, reversible tuning of a Linux host.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"tuned-spec {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (what, arguments) in COMMANDS.items():
        sub = commands.add_parser(name, help=what, description=what, parents=[common], allow_abbrev=False)
        for flags, options in arguments:
            sub.add_argument(*flags, **options)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.command in LOOKING:
            importlib.import_module("tuned_spec.cli.live").look(args)
        module = MODULES.get(args.command, args.command)
        code = importlib.import_module(f"tuned_spec.cli.{module}").main(args)
        if sys.stdout is not None:  # it is where a service is started with its streams closed
            sys.stdout.flush()
        return int(code)
    except TunedSpecError as error:
        sys.stdout.flush()
        lines = str(error).splitlines() or [type(error).__name__]
        print("\n".join([f"tuned-spec {args.command}: {lines[0]}", *lines[1:]]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) went away; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
