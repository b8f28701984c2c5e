"""Run a command under another kernel: `python -m workloads.vm build|run|record|shell|stop`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tuned_spec.errors import TunedSpecError
from workloads.vm import image
from workloads.vm.guest import Machine

EXAMPLES = """\
examples (as root; qemu emulates, so nothing but root and the packages is needed):
  python -m workloads.vm build                                  once, about four minutes
  python -m workloads.vm run -- uname -r
  python -m workloads.vm run --kernel 6.1 -- .venv/bin/python -m pytest tests/knobs -m kernel
  python -m workloads.vm run -- sh -c 'cat /sys/fs/cgroup/cgroup.controllers; lsblk'
  python -m workloads.vm run --collect out.json -- .venv/bin/python -m workloads.round_trip --json out.json
  python -m workloads.vm record                                 the lists of docs/kernels.md, on every kernel
  python -m workloads.vm stop

`run` copies this checkout to the guest each time, so that a change of code needs no new image, runs COMMAND
in it, and ends with COMMAND's exit status (124: --timeout is over; 1 after a line that begins with `vm:`: the
machine failed). The machine stays up for the next one until `stop`; nothing that was changed in it outlives
it. There: systemd as PID 1, cgroup v2 with all controllers, PSI, debugfs, an idle disk vdb, swap, an idle NIC
with two queues (eth1), and no network outside.
"""


RECORD_S = 1800.0


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return _do(args)
    except TunedSpecError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


def _do(args: argparse.Namespace) -> int:
    if args.verb == "build":
        built = image.build(args.cache)
        for release in args.kernel or image.KERNELS:
            machine = Machine(built, release, args.cache / f"machine-building-{release}")
            with machine.held(args.wait):
                machine.prepare()
        print(built.directory)
        return 0
    if args.verb == "record":
        return max(_record(args, release) for release in args.kernel or image.KERNELS)
    name = args.name or args.checkout.resolve().name
    machine = Machine(image.built(args.cache), args.kernel, args.cache / f"machine-{name}-{args.kernel}")
    if args.verb == "stop":
        print("stopped" if machine.stop() else "was not running")
        return 0
    with machine.held(args.wait):
        if args.fresh:
            machine.stop()
        machine.start()
        if args.verb == "shell":
            return machine.shell()
        machine.copy_in(args.checkout)
        status = machine.run(args.command, args.timeout)
        if args.collect:
            machine.collect(args.collect, args.checkout)
        return status


def _record(args: argparse.Namespace, release: str) -> int:
    """The round trip's lists for one kernel, brought back whatever came of it; the round trip's status."""
    machine = Machine(image.built(args.cache), release, args.cache / f"machine-recording-{release}")
    with machine.held(args.wait):
        try:
            machine.start()
            machine.copy_in(image.CHECKOUT)
            status = machine.run((".venv/bin/python", "-m", "workloads.round_trip", "--record"), RECORD_S)
            machine.collect(("tuned_spec/knobs/tried.yaml", "tests/knobs/skipped"), image.CHECKOUT)
        finally:
            machine.stop()
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workloads.vm",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cached = argparse.ArgumentParser(add_help=False)
    cached.add_argument(
        "--cache", type=Path, default=image.cache(), help="where images and machines are kept (%(default)s)"
    )
    waits = argparse.ArgumentParser(add_help=False)
    waits.add_argument(
        "--wait", type=float, default=600.0, help="seconds to wait for a machine that is in use (%(default)g)"
    )
    one = argparse.ArgumentParser(add_help=False, parents=[cached])
    one.add_argument("--kernel", choices=image.KERNELS, default="6.12", help="which kernel (%(default)s)")
    one.add_argument(
        "--checkout", type=Path, default=image.CHECKOUT, metavar="DIR", help="what is copied in (%(default)s)"
    )
    one.add_argument("--name", help="which machine: names do not touch each other (the checkout's directory)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|run|record|shell|stop")

    build = verbs.add_parser(
        "build", parents=[cached, waits], help="make the image, and boot each kernel once"
    )
    record = verbs.add_parser(
        "record", parents=[cached, waits], help="the round trip, and its lists into this checkout"
    )
    for verb in (build, record):
        verb.add_argument(
            "--kernel", choices=image.KERNELS, action="append", help="only this one (repeatable)"
        )

    run = verbs.add_parser("run", parents=[one, waits], help="run a command in a copy of this checkout")
    shell = verbs.add_parser("shell", parents=[one, waits], help="a root shell in the guest")
    for verb in (run, shell):
        verb.add_argument("--fresh", action="store_true", help="stop the machine first: one just booted")
    run.add_argument("--timeout", type=float, default=1800.0, help="seconds for COMMAND (%(default)g)")
    run.add_argument(
        "--collect",
        action="append",
        default=[],
        metavar="PATH",
        help="bring this file or directory of the guest's checkout back into this one (repeatable)",
    )
    run.add_argument("command", nargs="+", metavar="COMMAND", help="after `--`")

    verbs.add_parser("stop", parents=[one], help="end the machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
