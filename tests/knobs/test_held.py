"""What is held lasts as long as the one who holds it; switches that share a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuned_spec.knobs.reach import held, words

LATENCY = "held:/dev/cpu_dma_latency"


@pytest.fixture
def before() -> Iterator[str]:
    try:
        held.usable(LATENCY)
        shown = held.read(LATENCY)
    except OSError as error:
        pytest.skip(f"cpu.dma_latency_us: {error}")
    yield shown
    held.write(LATENCY, shown)
    assert held.read(LATENCY) == shown


@pytest.mark.kernel
def test_a_request_is_held_changed_and_taken_back(before: str) -> None:
    for wanted in ("40", "7", "12"):
        held.write(LATENCY, wanted)
        assert held.read(LATENCY) == wanted
    held.write(LATENCY, before)
    assert held.read(LATENCY) == before
    held.write(LATENCY, before)  # nothing is held: nothing to take back


@pytest.mark.kernel
def test_what_was_held_is_gone_with_the_process(before: str) -> None:
    code = f"""
import os, signal, sys
from tuned_spec.knobs.reach import held
held.write({LATENCY!r}, "33")
print(held.read({LATENCY!r}), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "33\n", done.stderr
    assert held.read(LATENCY) == before


@pytest.mark.kernel
def test_the_strictest_of_several_is_shown(before: str) -> None:
    other = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    try:
        os.write(other, (5).to_bytes(4, sys.byteorder))
        held.write(LATENCY, "40")
        assert held.read(LATENCY) == "5"
    finally:
        os.close(other)
    assert held.read(LATENCY) == "40"


@pytest.mark.kernel
def test_a_number_that_it_does_not_take_is_refused_and_nothing_is_held(before: str) -> None:
    for text in ("many", str(2**40)):
        with pytest.raises(OSError, match="is not a number"):
            held.write(LATENCY, text)
    assert held.read(LATENCY) == before


def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    for ask in (held.read, held.usable):
        with pytest.raises(FileNotFoundError):
            ask(f"held:{tmp_path}/none")


# ---------------------------------------------------------------------- switches in one file


def test_a_switch_is_read_as_the_kernel_shows_it(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("PLACE_LAG NO_NEXT_BUDDY TTWU_QUEUE \n")
    assert words.read(f"words:{tmp_path}/features/PLACE_LAG") == "1"
    assert words.read(f"words:{tmp_path}/features/NEXT_BUDDY") == "0"
    with pytest.raises(FileNotFoundError):
        words.read(f"words:{tmp_path}/features/BUDDY")
    with pytest.raises(FileNotFoundError):
        words.read(f"words:{tmp_path}/none/BUDDY")


@pytest.mark.parametrize(("text", "word"), [("1", "NEXT_BUDDY"), ("0", "NO_NEXT_BUDDY")])
def test_a_switch_is_written_as_one_word(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "features"
    file.write_text("")
    words.usable(f"words:{file}/NEXT_BUDDY")
    words.write(f"words:{file}/NEXT_BUDDY", text)
    assert file.read_text() == word
    with pytest.raises(OSError, match="neither 0 nor 1"):
        words.write(f"words:{file}/NEXT_BUDDY", "2")


@pytest.mark.kernel
def test_after_a_kill_there_is_nothing_to_repair(before: str, tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from pathlib import Path
from tuned_spec.knobs.adapters import adapters
from tuned_spec.knobs.catalogue import load
from tuned_spec.knobs.instances import Catalogue
from tuned_spec.ledger import repair
from tuned_spec.ledger.journal import Journal
from tuned_spec.ledger.ledger import Ledger
from tuned_spec.model import Write
access = adapters()
journal = Journal(Path(sys.argv[1]), repair.boot_id())
ledger = Ledger(Catalogue(load(), access), access, journal, time.monotonic)
ledger.apply("t1", "r", (Write("cpu.dma_latency_us", 25),))
print(ledger.value("cpu.dma_latency_us"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "25\n", done.stderr
    assert held.read(LATENCY) == before
    command = ["/usr/bin/python3", "-I", "-S", str(tmp_path / "repair.py"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, env={}).stdout)
    assert [(o["knob"], o["status"]) for o in told["outcomes"]] == [("cpu.dma_latency_us", "void")], told
