"""The whole hierarchy of errors, drawn here:

    TunedSpecError
    ├── UsageError            the command line, or the place it is run, is wrong          exit 2
    ├── PolicyError           one or more Problems in policy files (file:line: key: ...)  exit 3
    │   └── ActorError        the same in actor.yaml                                      exit 2
    ├── CatalogueError        a catalogue file shipped with the package is broken         exit 3
    ├── KnobError             one knob, one operation: carries knob, op, errno
    │   ├── KnobAbsent        this kernel or host does not have it
    │   ├── KnobRefused       the kernel said no (EINVAL, EBUSY, EPERM, EROFS, ...)
    │   └── KnobInDoubt       a write that has not come back yet
    ├── JournalError          the undo journal cannot be read or written                  exit 4
    ├── AlreadyRunning        another daemon holds the runtime directory                  exit 5
    └── ProtocolError         a peer (actor, control client) broke the protocol

Every message says what happened, to which file, line, key or knob, and what to do about it.
"""

from __future__ import annotations

import errno as _errno

import msgspec


class TunedSpecError(Exception):
    """Whatever goes wrong that a user can read about; `exit_code` is the command's exit status."""

    exit_code = 1


class UsageError(TunedSpecError):
    exit_code = 2


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in one policy file."""

    file: str
    line: int
    key: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        tail = f"; {self.hint}" if self.hint else ""
        place = f"{self.file}:{self.line}: " if self.file else ""  # a policy that is nowhere has no place
        return f"{place}{self.key}: {self.what}{tail}"


class PolicyError(TunedSpecError):
    """All problems of all policy files at once."""

    exit_code = 3

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems


class ActorError(PolicyError):
    """All problems of actor.yaml at once: its place on the command line is an option's."""

    exit_code = 2


class CatalogueError(TunedSpecError):
    exit_code = 3


class KnobError(TunedSpecError):
    """One operation on one knob failed.

    `op` is "read", "write", "probe" or "restore"; `code` is the errno or 0.
    """

    def __init__(self, knob: str, op: str, what: str, code: int = 0, hint: str = "") -> None:
        name = f" [{_errno.errorcode.get(code, code)}]" if code else ""
        super().__init__(f"{knob}: {op}: {what}{name}" + (f"; {hint}" if hint else ""))
        self.knob, self.op, self.what, self.code, self.hint = knob, op, what, code, hint


class KnobAbsent(KnobError):
    pass


class KnobRefused(KnobError):
    pass


class KnobInDoubt(KnobError):
    pass


class JournalError(TunedSpecError):
    exit_code = 4


class AlreadyRunning(TunedSpecError):
    exit_code = 5


class ProtocolError(TunedSpecError):
    pass
