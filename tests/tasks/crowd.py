"""A process with many threads and children under a name of its own, for tests that tune tasks.

It is nobody's child that the daemon would spare, and it ends when the test does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = """
import os, sys, threading
life, death = os.pipe()
def thread():
    one = threading.Thread(target=threading.Event().wait, daemon=True)
    one.start()
    return one.native_id
def fork(*program):
    begins, executes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(death)
        sys.stdin.close()
        os.set_inheritable(life, True)
        os.dup2(life, 0)
        if program:
            os.execv(program[0], program)
        os.close(executes)
        os.read(life, 1)
        os._exit(0)
    os.close(executes)
    os.read(begins, 1)
    os.close(begins)
    return pid
def orphan(*program):
    tell, told = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.write(told, b"%d" % fork(*program))
        os._exit(0)
    os.close(told)
    os.waitpid(middle, 0)
    return int(os.read(tell, 20))
def name(text):
    open("/proc/self/comm", "wb").write(os.fsencode(text))
    return 0
does = {"pid": os.getpid, "thread": thread, "fork": fork, "orphan": orphan, "name": name}
for line in sys.stdin:
    word, *rest = line.rstrip("\\n").split("\\t")
    print(does[word](*rest), flush=True)
"""


class Crowd:
    """`exe` is the name of its executable; `say` makes it do something, and gives the TID that came of it."""

    def __init__(self, exe: Path, threads: int) -> None:
        self.exe = exe.name
        self._shell = subprocess.Popen(
            ["sh", "-c", '"$@"; :', "sh", str(exe), "-S", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # its own autogroup too
            env=os.environ | {"PYTHONHOME": sys.base_prefix},
        )
        self.pid = self.say("pid")
        self.tids = [self.pid, *(self.say("thread") for _ in range(threads - 1))]

    def say(self, *words: str) -> int:
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write("\t".join(words) + "\n")
        self._shell.stdin.flush()
        return int(self._shell.stdout.readline())

    def end(self) -> None:
        """It and its children are gone when this returns."""
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.close()
        self._shell.wait()
        self._shell.stdout.close()


@contextmanager
def crowd(directory: Path, threads: int = 4, name: str = "ts-crowd") -> Iterator[Crowd]:
    exe = directory / name
    if not exe.exists():
        shutil.copy(Path(sys.executable).resolve(), exe)
    started = Crowd(exe, threads)
    try:
        yield started
    finally:
        started.end()
