"""Traces: what was observed on a host, on file, to be replayed through a policy later.

Owns the format: JSON lines, gzip if the name ends in `.gz`. The first line is the header, each other line one
observation, times in seconds since the first:

    {"version":1,"kernel":"6.12.0","cpus":2,"memory_bytes":1605558272,"interval_s":1.0,"metrics":["cpu.busy"]}
    {"t":0.0,"values":{"cpu.busy":0.25}}

The header may also carry facts of the host (`ram`) and the values of its knobs when it began.

Nothing in it names the host, its users, programs or addresses: instances of disks, NICs, CPUs and cgroups
stand in metrics' names only if they were asked for; of the knobs that there are several of, those of disks,
CPUs and sizes of huge pages are kept. Must not know how an observation is made.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import msgspec

from tuned_spec.errors import UsageError
from tuned_spec.model import Observation, Value

VERSION = 1
MAX_LINE = 16 << 20  # ten thousand cgroups with a dozen metrics each, with room


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was observed, and on what kind of host. `metrics` are the names asked for, globs included."""

    version: int
    kernel: str
    cpus: int
    memory_bytes: int
    interval_s: float
    metrics: tuple[str, ...]
    note: str = ""  # what went on, in the recorder's words
    facts: dict[str, float] = {}  # what policies compute with, as `ram`; see knobs/caps.py
    knobs: dict[str, Value] = {}  # what stood in the knobs when it began


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    t: float
    values: dict[str, float]


class Writer:
    """Writes one trace; a context manager. A line is whole in the file as soon as `write` returns (without
    gzip), so a recording that is interrupted can be read. Raises UsageError if the file cannot be written."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self._first = path, -1.0
        try:
            zipped = path.suffix == ".gz"
            file = gzip.open(path, "wb") if zipped else path.open("wb", buffering=0)  # noqa: SIM115
            self._file = cast(IO[bytes], file)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}; name another file") from error
        self._write(header)

    def write(self, observation: Observation) -> None:
        """Times must not go back; the first counts as zero."""
        if self._first < 0:
            self._first = observation.t
        # Six digits: no figure of ours means more, and a trace is half as long.
        values = {name: float(f"{value:.6g}") for name, value in observation.values.items()}
        self._write(_Line(round(observation.t - self._first, 6), values))

    def _write(self, line: Header | _Line) -> None:
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror}; free some space") from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Trace:
    """One trace file; `header` is read at once, the observations as they are iterated over.

    Raises UsageError with file:line: for what is not a trace, is cut off in the middle of a line, has numbers
    that are none, or times that go back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _, first = next(self._lines(), (1, b""))
        try:
            self.header = msgspec.json.decode(first, type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._wrong(1, f"is not the header of a trace: {error}") from error
        if self.header.version != VERSION:
            raise self._wrong(1, f"version {self.header.version}, known is {VERSION}")

    def __iter__(self) -> Iterator[Observation]:
        decode = msgspec.json.Decoder(_Line).decode
        before = 0.0
        for number, text in self._lines():
            if number == 1:
                continue
            try:
                line = decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._wrong(number, f"is not an observation: {error}") from error
            if line.t < before:
                raise self._wrong(number, f"t {line.t:g} is before {before:g}")
            before = line.t
            yield Observation(line.t, line.values)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb") as file:
                while text := file.readline(MAX_LINE):
                    number += 1
                    if not text.endswith(b"\n"):
                        raise self._wrong(number, "is cut off")
                    yield number, text
        except (OSError, EOFError, zlib.error) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise self._wrong(number + 1, f"cannot be read: {why}") from error

    def _wrong(self, number: int, what: str) -> UsageError:
        return UsageError(f"{self.path}:{number}: {what}; make a trace with `tuned-spec record FILE`")
