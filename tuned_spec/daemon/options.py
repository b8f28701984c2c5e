"""What a daemon is started with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tuned_spec import paths
from tuned_spec.daemon.actor_link import PROGRAM
from tuned_spec.model import Mode


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`for_s`: stop by itself after that many seconds, None runs until told to stop.

    `root` stands in for / in tests of pure logic; `mode` None takes the policy's.
    """

    policies: tuple[str, ...] = ("default",)
    dropins: Path | None = paths.DROPINS
    mode: Mode | None = None
    runtime_dir: Path = msgspec.field(default_factory=paths.runtime_dir)
    state_dir: Path = msgspec.field(default_factory=paths.state_dir)
    for_s: float | None = None
    root: Path = Path("/")
    seed: int | None = None  # of the actor's random order of arms
    actor: tuple[str, ...] = PROGRAM  # what to start as the actor; it is given `--fd N`


def actor_program(config: Path | None, state_dir: Path) -> tuple[str, ...]:
    """The actor as that file has it, an existing one; None: the trial alone judges."""
    if config is None:
        return PROGRAM
    return (*PROGRAM, "--config", str(config.absolute()), "--state-dir", str(state_dir.absolute()))
