"""The watch on other writers, with a real second process on real knobs."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tuned_spec.knobs.watch import Watch, WriterSeen

SWAPPINESS = Path("/proc/sys/vm/swappiness")
SLEEP = Path("/sys/kernel/mm/ksm/sleep_millisecs")

# Writes what it reads, once a line, and stays alive so that it can be asked for its name.
WRITER = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    path, _, text = line.rstrip("\\n").partition(" ")
    fd = os.open(path, os.O_RDWR)
    try:
        os.write(fd, (text or os.read(fd, 4096).decode()).encode())
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print(0, flush=True)
    finally:
        os.close(fd)
"""


class Writer:
    """Another process that writes a knob's current value, or a text."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self, path: Path, text: str = "") -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path} {text}\n")
        self.process.stdin.flush()
        return int(self._line())

    def seen(self, path: Path) -> WriterSeen:
        pid = self.process.pid
        return WriterSeen(path, pid, Path(f"/proc/{pid}/comm").read_text().strip())


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = Writer()
    try:
        yield writer
    finally:
        writer.process.communicate()


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    if watch.why:
        pytest.skip(watch.why)
    try:
        yield watch
    finally:
        watch.close()


def by(writer: Writer, seen: list[WriterSeen]) -> list[WriterSeen]:
    """Other programs may write these knobs while the test runs; only ours counts."""
    return [one for one in seen if one.pid == writer.process.pid]


@pytest.mark.kernel
@pytest.mark.parametrize("path", [SWAPPINESS, SLEEP], ids=str)
def test_another_process_is_named_at_once(watch: Watch, writer: Writer, path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    before = path.read_text()
    assert watch.add(path) == ""
    assert writer.write(path) == 0
    fd = watch.fileno()
    assert fd is not None
    assert select.select([fd], [], [], 10)[0] == [fd]
    assert by(writer, watch.read()) == [writer.seen(path)]
    assert by(writer, watch.read()) == []
    assert path.read_text() == before


@pytest.mark.kernel
def test_our_own_writes_refused_writes_and_reads_are_no_news(watch: Watch, writer: Writer) -> None:
    before = SWAPPINESS.read_text()
    watch.add(SWAPPINESS)
    fd = os.open(SWAPPINESS, os.O_RDWR)
    try:
        os.write(fd, os.read(fd, 64))
    finally:
        os.close(fd)
    assert writer.write(SWAPPINESS, "201") != 0
    assert [one for one in watch.read() if one.pid in (os.getpid(), writer.process.pid)] == []
    assert SWAPPINESS.read_text() == before


@pytest.mark.kernel
def test_a_dropped_file_is_watched_no_more_and_can_be_added_again(watch: Watch, writer: Writer) -> None:
    watch.add(SWAPPINESS)
    watch.add(SWAPPINESS)
    watch.drop(SWAPPINESS)
    watch.drop(SWAPPINESS)
    writer.write(SWAPPINESS)
    assert by(writer, watch.read()) == []
    watch.add(SWAPPINESS)
    writer.write(SWAPPINESS)
    assert by(writer, watch.read()) == [writer.seen(SWAPPINESS)]


@pytest.mark.kernel
def test_another_file_of_the_name_is_watched_anew(tmp_path: Path) -> None:
    path = tmp_path / "knob"
    path.write_text("1")
    with closing(Watch()) as watch:
        if watch.fileno() is None:
            pytest.skip(f"fanotify: {watch.why}")
        assert watch.add(path) == ""
        path.unlink()
        path.write_text("2")
        assert watch.add(path) == ""
        subprocess.run(["sh", "-c", f"echo 3 > {path}"], check=True)
        assert [seen.path for seen in watch.read()] != []


def test_a_writer_that_is_gone_still_has_its_pid(watch: Watch, writer: Writer) -> None:
    watch.add(SWAPPINESS)
    writer.write(SWAPPINESS)
    writer.process.communicate()
    assert by(writer, watch.read()) == [WriterSeen(SWAPPINESS, writer.process.pid, "")]


@pytest.mark.kernel
def test_no_descriptor_is_left_over(watch: Watch, writer: Writer) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    watch.add(SWAPPINESS)
    for _ in range(50):
        writer.write(SWAPPINESS)
        watch.read()
    watch.drop(SWAPPINESS)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.mark.kernel
def test_a_file_that_is_not_there_is_named(watch: Watch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    why = watch.add(gone)
    assert why == f"{gone}: cannot be watched: No such file or directory"
    assert watch.unseen == {gone: why}
    watch.drop(gone)
    assert watch.unseen == {}


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to stop being root")
def test_without_privilege_it_says_why_and_is_harmless() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, ctypes, pathlib\n"
            "from tuned_spec.knobs.watch import Watch\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "watch = Watch([pathlib.Path('/proc/sys/vm/swappiness')])\n"
            "print(watch.fileno(), watch.read(), watch.why)\n"
            "watch.drop(pathlib.Path('/proc/sys/vm/swappiness')); watch.close()",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert told.startswith("None [] fanotify: ")
    assert "found by comparing" in told
