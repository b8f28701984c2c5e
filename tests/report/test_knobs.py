"""docs/knobs.md is what the catalogue makes it, on any host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tuned_spec.knobs.catalogue import load
from tuned_spec.model import Coupling, CouplingKind, Knob, KnobType
from tuned_spec.report.knobs import distinct, page

PAGE = Path(__file__).parents[2] / "docs/knobs.md"


def test_the_page_in_docs_is_the_catalogue_as_it_is() -> None:
    assert PAGE.read_text() == page(load()), "run: tuned-spec knobs --markdown > docs/knobs.md"


def test_the_command_prints_it_whatever_the_host_has(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuned_spec", "knobs", "--markdown", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, page(load())), done.stderr


def test_twins_of_ipv6_do_not_count() -> None:
    assert distinct(["net.ipv4.neigh.default.gc_thresh1", "net.ipv6.neigh.default.gc_thresh1"]) == 1
    assert distinct(["net.ipv4.ipfrag_time", "net.ipv6.ip6frag_time", "vm.swappiness"]) == 2
    assert distinct(["net.ipv6.route.max_size", "vm.swappiness"]) == 2


def test_an_entry_tells_all_that_is_known_of_it() -> None:
    knob = Knob(
        "a.one",
        "block",
        "block/{}/one",
        KnobType.INT,
        "pages",
        "More of it.",
        "one.rst",
        1,
        9,
        coupled=(Coupling("a.two", CouplingKind.RESETS),),
        per="disk",
        cap="1% of ram",
        side="wakes it",
        kernels="6.8 and later",
        quantum=4,
        blocking=True,
    )
    told = page({"a.one": knob})
    for said in (
        "1 knobs, of 1 kinds: block 1.",
        "**1 .. 9** pages, at most `1% of ram`",
        "one for each disk",
        "6.8 and later; no round trip yet: observed only",
        "rounded down to a multiple of 4",
        "done off the loop",
        "with `a.two`: is set by the kernel",
        "beside: wakes it",
        "block `block/{}/one`; one.rst",
    ):
        assert said in told
